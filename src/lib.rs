//! Dayfly: a just-in-time ephemeral credential broker for AI agents and other workloads.
//!
//! An agent proves what it is and says what it is about to do; Dayfly decides by policy at that
//! moment, mints a short-lived credential for exactly that tool, tracks its life, and ends it when
//! the task completes, the context changes, or its time is up.
//!
//! # The floors
//!
//! Imports go down, and among the seams to the left only. `tests/suite/architecture.rs` enforces it.
//!
//! ```text
//! 5  assembly   cli, app, config, dev            the only place that names adapters
//! 4  edges      http, telemetry
//! 3  broker     broker                           the use-cases; knows traits, no technology
//! 2  seams      keys → identity → signal → registry → policy → ledger → provider → journal
//! 1  ambient    clock, entropy, trace
//! 0  words      model
//! ```
//!
//! A seam is a file with the vocabulary, the trait and the error (`ledger.rs`), and a folder with
//! its adapters, one technology a file (`ledger/redis.rs`).
//!
//! # The life of a credential
//!
//! ```text
//! Evidence ─Verifier→ Workload ─Registry→ Caller ─PolicyEngine→ Permit ─Ledger→ Reservation
//!          ─Provider→ Minted ─Ledger→ active Lease, and the Credential to the workload
//! ```
//!
//! Each arrow consumes a value that only the step before can make: [`identity::Workload`],
//! [`registry::Caller`], [`policy::permit::Permit`] and [`ledger::reservation::Reservation`] have
//! private fields and are made in one place each. The journal records each decision before its effect
//! leaves the house.
//!
//! Start reading at [`broker`], then [`ledger`].

pub mod app;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dev;
pub mod entropy;
pub mod http;
pub mod identity;
pub mod journal;
pub mod keys;
pub mod ledger;
pub mod model;
pub mod policy;
pub mod provider;
pub mod registry;
pub mod signal;
pub mod telemetry;
pub mod trace;
