//! The API from the outside: what the commands and the demo use, over HTTP like everybody else. How requests
//! are made, proven and made again is the client crate's business; here are the exit codes.

use std::path::Path;
use std::time::Duration;

use dayfly_client::Broker;
use serde_json::Value;

use super::exit::Exit;

pub use dayfly_client::{Error as CallError, Evidence, Problem};

pub(super) use dayfly_client::api::{Api, Call, segment};

/// How long a request may take: a kill order over a large ledger takes its time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A caller of one broker.
#[derive(Clone, Debug)]
pub struct Client(Api);

/// The exit code for a call that did not succeed.
pub fn exit(error: &CallError) -> Exit {
    match (error, error.status()) {
        (CallError::ApprovalPending(_), _) => Exit::Pending,
        (_, Some(401 | 403)) => Exit::Denied,
        (_, Some(404)) => Exit::NotFound,
        (_, Some(502 | 503)) => Exit::Unreachable,
        // Nobody answered, or nobody can be at such an address.
        (CallError::BrokerUnavailable(_) | CallError::InvalidRequest(_), None) => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

impl Client {
    /// A caller of the broker at `base`, such as `http://127.0.0.1:8440`. The address is the caller's to
    /// choose, plain HTTP too, and it is asked directly.
    pub fn new(base: &str, evidence: Option<Evidence>) -> Result<Self, CallError> {
        Self::trusting(base, evidence, None)
    }

    /// The same; where a file of authorities is named, they alone may vouch for the broker.
    pub fn trusting(
        base: &str,
        evidence: Option<Evidence>,
        ca_file: Option<&Path>,
    ) -> Result<Self, CallError> {
        let mut broker = Broker::builder()
            .address(base)
            .evidence(evidence.unwrap_or_else(Evidence::none))
            .timeout(TIMEOUT)
            .allow_plain_http()
            .no_proxy();
        if let Some(file) = ca_file {
            broker = broker.ca_file(file);
        }
        Ok(Self(broker.build()?.api().clone()))
    }

    /// The caller itself, for requests that are made in other ways.
    pub(super) fn api(&self) -> Api {
        self.0.clone()
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.0.get(path).await
    }

    /// Reads what fits a query.
    pub async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CallError> {
        self.0.list(path, query).await
    }

    /// Writes.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.0.post(path, &body).await
    }

    /// Sends a form, as OAuth has it.
    pub async fn form(&self, path: &str, form: &[(&str, &str)]) -> Result<Value, CallError> {
        self.0.form(path, form).await
    }

    /// States.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.0.put(path, &body).await
    }

    /// Takes back.
    pub async fn delete(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.0.delete(path, &body).await
    }
}
