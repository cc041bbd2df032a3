//! The client of Dayfly, the just-in-time ephemeral credential broker for agents: one line to get a credential, and no
//! line to lose it.
//!
//! ```no_run
//! use dayfly_client::{Broker, Error};
//!
//! # async fn example() -> Result<(), Error> {
//! let broker = Broker::from_env()?; // finds the broker, and what proves this workload
//! let task = broker.task("answer ticket 4711", ["crm:read,comment@customers/42"]);
//! let customer = task
//!     .run(async |task| {
//!         let crm = task.http("crm:read@customers/42")?; // a fresh token for each request, for the CRM alone
//!         let answer = crm.get("https://crm.example.org/customers/42").send().await?;
//!         Ok::<_, Error>(answer.text().await?)
//!     })
//!     .await?; // whatever happened: the task is over, and its credentials are dead
//! # let _ = customer;
//! # Ok(()) }
//! ```
//!
//! # What does what
//!
//! - [`Broker`] is a broker, as this workload; [`Evidence`] is what proves that.
//! - [`Broker::task`] makes a [`NewTask`]: why, and what it may ask for at most. [`NewTask::run`] works on it and ends it;
//!   [`NewTask::open`] gives an [`OpenTask`] that ends it when it is dropped.
//! - [`Task::credential`] gets a [`Credential`]: kept in memory, renewed in time, shared by all who ask. Its secret parts
//!   are [`Secret`]s, which do not print. [`Task::http`] uses it for each request to a tool.
//! - [`Task::suspend`] lets the work rest, and [`Broker::resume`] takes it up, in another process too.
//! - [`Task::delegate`] hands a part of the work on, to be [joined](Broker::join).
//! - [`Error`] says why not. The same request was tried again where that could help.
//!
//! # Life and death
//!
//! There is no asynchronous `Drop`. A dropped [`OpenTask`], or a dropped future of `run`, hands the end of its task to
//! the worker of its [`Broker`]: one thread, which also beats for all open tasks at a third of their `heartbeat`. The
//! last owner of a `Broker` waits up to a second for it. What is not heard, because the process was killed, ends when the
//! heartbeats stay away: after 30 seconds, unless the task says otherwise.
//!
//! # TLS
//!
//! By the provider that the program has installed for rustls, or by ring, without installing it. The system's
//! certificates are trusted; `SSL_CERT_FILE` names others.
//!
//! # Features
//!
//! | Feature | Brings |
//! |---|---|
//! | `spiffe` (default) | evidence from the SPIFFE Workload API |
//! | `resource` | the module `resource`: what a tool needs to accept tokens |
//! | `tower` | with `resource`, a layer that verifies the tokens of all requests |

mod access;
mod ambient;
pub mod api;
mod broker;
mod cache;
mod credential;
mod error;
mod evidence;
mod http;
mod opening;
#[cfg(feature = "resource")]
pub mod resource;
mod secret;
mod task;
mod time;
mod transport;
mod wire;
mod worker;

pub use access::{Access, InvalidAccess};
pub use broker::{Broker, Builder, Decide};
pub use credential::{AwsSession, Credential, DatabaseLogin, Kind};
pub use error::{Error, Problem};
pub use evidence::Evidence;
pub use http::{ToolClient, ToolRequest};
pub use opening::{Handover, NewTask, SubTask};
pub use secret::Secret;
pub use task::{CredentialRequest, Ended, OpenTask, Task, TaskHandle};
pub use wire::{Conclusion, EndedLease, Outcome, Verdict};

pub use reqwest;
