//! `[tasks]`: how long tasks live, and how much they may hold.

use std::num::{NonZeroU32, NonZeroUsize};

use serde::Deserialize;

use crate::model::document::Section;
use crate::model::task::Charter;
use crate::model::ttl::Ttl;

use super::read::{ordered, seconds};

/// Limits of tasks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TasksConfig {
    /// The deadline of a task that asks for none, from its opening.
    pub default_deadline: Ttl,
    /// The furthest deadline.
    pub max_deadline: Ttl,
    /// The heartbeat of a task that asks for none; none means that no sign of life is expected.
    pub default_heartbeat: Option<Ttl>,
    /// The longest heartbeat.
    pub max_heartbeat: Ttl,
    /// How many live credentials one task may hold.
    pub live_credentials: NonZeroU32,
    /// How many open tasks an agent may have whose own `ceilings.open_tasks` does not say.
    pub open_tasks: NonZeroU32,
    /// How many tasks may be above one: how often work is handed on.
    pub max_depth: Depth,
    /// Whether a credential ends with the evidence that it was issued on.
    pub bind_to_attestation: bool,
    /// How many open tasks are remembered, to spare the ledger a read.
    pub remembered: NonZeroUsize,
}

/// How many tasks may be above one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u8")]
pub struct Depth(pub u8);

impl TryFrom<u8> for Depth {
    type Error = String;

    fn try_from(depth: u8) -> Result<Self, Self::Error> {
        match usize::from(depth) <= Charter::DEEPEST {
            true => Ok(Self(depth)),
            false => Err(format!("a depth is a number from 0 to {}", Charter::DEEPEST)),
        }
    }
}

const LIVE: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const OPEN: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);

pub(super) fn read(section: &mut Section<'_>) -> TasksConfig {
    let tasks = TasksConfig {
        default_deadline: section.or("default_deadline", seconds(3600)),
        max_deadline: section.or("max_deadline", seconds(24 * 3600)),
        default_heartbeat: section.optional("default_heartbeat"),
        max_heartbeat: section.or("max_heartbeat", seconds(3600)),
        live_credentials: section.or("live_credentials", LIVE),
        open_tasks: section.or("open_tasks", OPEN),
        max_depth: section.or("max_depth", Depth(3)),
        bind_to_attestation: section.or("bind_to_attestation", false),
        remembered: section.or("remembered", REMEMBERED),
    };
    ordered(
        section,
        ("default_deadline", tasks.default_deadline),
        ("max_deadline", tasks.max_deadline),
    );
    if let Some(heartbeat) = tasks.default_heartbeat {
        ordered(
            section,
            ("default_heartbeat", heartbeat),
            ("max_heartbeat", tasks.max_heartbeat),
        );
    }
    tasks
}
