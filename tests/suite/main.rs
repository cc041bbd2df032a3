//! The one integration-test binary: a module a behaviour, and the contract suites of the seams.
//!
//! Modules are marked `cfg(test)`, which is always so here, for clippy to see that they are tests.

#[cfg(test)]
mod architecture;
#[cfg(feature = "aws")]
#[cfg(test)]
mod aws;
#[cfg(test)]
mod behind;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod config_files;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod context;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod deaths;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod deprived;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod fairness;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod http;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod issue;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod killed;
#[cfg(test)]
#[cfg(feature = "postgres")]
mod login;
#[cfg(test)]
mod losses;
#[cfg(test)]
mod mcp;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod outages;
#[cfg(test)]
#[cfg(feature = "postgres")]
mod postgres_server;
#[cfg(test)]
mod process;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod receipts;
#[cfg(test)]
mod reconciling;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod redis_servers;
#[cfg(test)]
mod redis_tls;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod status_lists;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod webhook;
#[cfg(test)]
mod workload_api;
#[cfg(test)]
mod world;
