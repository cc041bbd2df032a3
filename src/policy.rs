//! Policy: an access request becomes a **permit** or a **denial**, with grounds.
//!
//! Deciding is synchronous and total: it can do no I/O, and it has no error that a caller could wave
//! through. A fault is a denial. The one door to a [`permit::Permit`] is [`permit::Permit::obtain`].

pub mod cases;
pub mod cedar;
pub mod index;
pub mod permit;
pub mod schema;

use std::sync::Arc;

use crate::model::access::Access;
use crate::model::decision::Decision;
use crate::model::ids::TaskId;
use crate::model::name::{Purpose, UserId};
use crate::model::time::Timestamp;
use crate::model::tool::Tool;
use crate::model::ttl::Ttl;
use crate::registry::Caller;

/// Who asks, for which access to which tool, and in which circumstances.
#[derive(Clone, Debug)]
pub struct AccessRequest {
    /// Who asks.
    pub caller: Caller,
    /// The tool, from the catalogue of the same revision that decides.
    pub tool: Arc<Tool>,
    /// What is asked for. Each action on each resource has to be permitted.
    pub access: Access,
    /// The task it is for; none for what callers do on Dayfly itself.
    pub task: Option<TaskContext>,
    /// The life that is asked for.
    pub ttl: Option<Ttl>,
    /// When.
    pub at: Timestamp,
}

/// What policies may know about a task.
#[derive(Clone, Debug)]
pub struct TaskContext {
    /// Its id.
    pub id: TaskId,
    /// Why it exists.
    pub purpose: Purpose,
    /// On whose behalf it runs.
    pub on_behalf_of: Option<UserId>,
    /// When it was opened.
    pub opened_at: Timestamp,
}

/// Decides.
pub trait PolicyEngine: Send + Sync + 'static {
    /// Permit or denial. A fault anywhere is a denial that names it.
    fn decide(&self, request: &AccessRequest) -> Decision;
}
