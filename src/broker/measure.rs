//! What the broker counts. Label values come from closed sets; never an id, never an agent's name.

use std::time::Duration;

use metrics::{Counter, Histogram};

use crate::identity::IdentityError;
use crate::journal::record::{Result, Verb};
use crate::model::lease::{Cause, Receipt};
use crate::model::name::{ProviderName, StreamName};

use super::introspect::Found;
use super::reconciler::Mismatch;

/// Seconds from when an end was asked for, or something happened, to when that is durable and denies.
pub const TIME_TO_DENY: &str = "dayfly_time_to_deny_seconds";
/// For how many seconds the lease or task that is due longest has been waiting.
pub const DUE_OLDEST: &str = "dayfly_due_oldest_seconds";
/// What providers hold that should not be there, by provider, as of the last pass.
pub const ORPHANS: &str = "dayfly_orphans";
/// Orders to look at leases again that wait or that somebody is at.
pub const RECHECKS_WAITING: &str = "dayfly_rechecks_waiting";
/// Seconds from a change to when the last lease that it concerns was decided anew.
pub const RECHECK_LAG: &str = "dayfly_recheck_lag_seconds";
/// Loadings of policies, agents and tools, by what came of them.
pub const RELOADS: &str = "dayfly_reloads_total";
/// Decisions, by verb and result.
pub const DECISIONS: &str = "dayfly_decisions_total";
/// Evidence that was refused, by reason.
pub const REFUSED_EVIDENCE: &str = "dayfly_evidence_refused_total";
/// Introspections that were answered, by what was found.
pub const INTROSPECTIONS: &str = "dayfly_introspections_total";
/// Leases that ended, by cause and proof.
pub const ENDED: &str = "dayfly_leases_ended_total";
/// Attempts to end a lease that failed.
pub const END_FAILURES: &str = "dayfly_lease_end_failures_total";
/// Leases that became stuck.
pub const STUCK: &str = "dayfly_leases_stuck_total";
/// Leases that are stuck now, by provider.
pub const STUCK_NOW: &str = "dayfly_stuck_leases";
/// What the reconciler found at odds, by provider, what it was, and what came of it.
pub const RECONCILED: &str = "dayfly_reconciled_total";
/// Passes of the reconciler that did not come to their end, by provider.
pub const RECONCILE_FAILURES: &str = "dayfly_reconcile_failures_total";
/// Seconds from the instant that a lease had to end to its proof.
pub const REVOCATION_LAG: &str = "dayfly_revocation_lag_seconds";
/// 1 while the ledger is lost: what exists is ended, and nothing is given out.
pub const QUARANTINE: &str = "dayfly_quarantine";
/// Seconds that an issue took inside the broker.
pub const ISSUE_SECONDS: &str = "dayfly_issue_duration_seconds";

/// Tokens of streams of signals, by stream and what came of them.
pub const SIGNALS: &str = "dayfly_signals_total";
/// Seconds from an event to its effects.
pub const SIGNAL_LAG: &str = "dayfly_signal_lag_seconds";
/// Polls of transmitters that failed.
pub const POLL_FAILURES: &str = "dayfly_signal_poll_failures_total";
/// 1 while a stream was silent for longer than it promised.
pub const SILENT: &str = "dayfly_signal_stream_silent";

pub(super) fn decided(verb: Verb, result: Result) {
    metrics::counter!(DECISIONS, "verb" => verb.as_str(), "result" => result.as_str()).increment(1);
}

/// What is counted for every credential, looked up once: a look-up takes as long as a policy.
pub(super) struct Measures {
    issued: Counter,
    issue_seconds: Histogram,
    renewed: Counter,
    introspected: [(Found, Counter); Found::ALL.len()],
}

impl Measures {
    /// With the recorder of now.
    pub(super) fn new() -> Self {
        let permitted =
            |verb: Verb| metrics::counter!(DECISIONS, "verb" => verb.as_str(), "result" => "permitted");
        let introspected = |found: Found| {
            let counter = metrics::counter!(INTROSPECTIONS, "found" => found.as_str());
            (found, counter)
        };
        Self {
            issued: permitted(Verb::Issue),
            issue_seconds: metrics::histogram!(ISSUE_SECONDS),
            renewed: permitted(Verb::Renew),
            introspected: Found::ALL.map(introspected),
        }
    }

    pub(super) fn issued(&self, took: Duration) {
        self.issued.increment(1);
        self.issue_seconds.record(took.as_secs_f64());
    }

    pub(super) fn renewed(&self) {
        self.renewed.increment(1);
    }

    pub(super) fn introspected(&self, found: Found) {
        let mut counters = self.introspected.iter();
        if let Some((_, counter)) = counters.find(|(of, _)| *of == found) {
            counter.increment(1);
        }
    }
}

/// What made it necessary to deny.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Because {
    /// Somebody asked for an end, or for a pause.
    Request,
    /// A fact was stated or taken back.
    Fact,
    /// A signal told of an event.
    Signal,
}

/// Something denies from now on, durably.
pub(super) fn denies(because: Because, took: Duration) {
    let because = match because {
        Because::Request => "request",
        Because::Fact => "fact",
        Because::Signal => "signal",
    };
    metrics::histogram!(TIME_TO_DENY, "because" => because).record(took.as_secs_f64());
}

pub(super) fn due_oldest(waits: Option<Duration>) {
    metrics::gauge!(DUE_OLDEST).set(waits.map_or(f64::NAN, |waits| waits.as_secs_f64()));
}

pub(super) fn orphans(provider: &ProviderName, there: usize) {
    let there = u32::try_from(there).unwrap_or(u32::MAX);
    metrics::gauge!(ORPHANS, "provider" => provider.to_string()).set(f64::from(there));
}

pub(super) fn rechecks_waiting(orders: Option<usize>) {
    let orders = orders.map(|orders| u32::try_from(orders).unwrap_or(u32::MAX));
    metrics::gauge!(RECHECKS_WAITING).set(orders.map_or(f64::NAN, f64::from));
}

pub(super) fn rechecked(lag: Duration) {
    metrics::histogram!(RECHECK_LAG).record(lag.as_secs_f64());
}

/// What came of loading. The word is one of a closed set.
pub(super) fn reloaded(result: &'static str) {
    metrics::counter!(RELOADS, "result" => result).increment(1);
}

/// Evidence was refused, wherever that was found: with a request, or in the handshake of a connection.
pub fn refused_evidence(error: &IdentityError) {
    let reason = match error {
        IdentityError::Missing => "missing",
        IdentityError::Malformed(_) => "malformed",
        IdentityError::Unrecognised => "unrecognised",
        IdentityError::Refused(_) => "refused",
        IdentityError::Untimely(_) => "untimely",
        IdentityError::Unavailable(_) => "unavailable",
    };
    metrics::counter!(REFUSED_EVIDENCE, "reason" => reason).increment(1);
}

/// A workload was proven that is no agent, or not one that may do anything.
pub(super) fn not_admitted() {
    metrics::counter!(REFUSED_EVIDENCE, "reason" => "not_admitted").increment(1);
}

pub(super) fn ended(cause: Cause, receipt: Receipt, lag: Duration) {
    metrics::counter!(ENDED, "cause" => cause.as_str(), "proof" => receipt.as_str()).increment(1);
    metrics::histogram!(REVOCATION_LAG).record(lag.as_secs_f64());
}

/// A lease that is over without an end: it has no lag.
pub(super) fn given_up(cause: Cause, receipt: Receipt) {
    metrics::counter!(ENDED, "cause" => cause.as_str(), "proof" => receipt.as_str()).increment(1);
}

pub(super) fn stuck(provider: &ProviderName, leases: u32) {
    metrics::gauge!(STUCK_NOW, "provider" => provider.to_string()).set(f64::from(leases));
}

pub(super) fn end_failed(became_stuck: bool) {
    metrics::counter!(END_FAILURES).increment(1);
    if became_stuck {
        metrics::counter!(STUCK).increment(1);
    }
}

pub(super) fn reconciled(provider: &ProviderName, found: Mismatch, done: bool) {
    let result = if done { "ended" } else { "failed" };
    metrics::counter!(RECONCILED, "provider" => provider.to_string(), "found" => found.as_str(), "result" => result)
        .increment(1);
}

pub(super) fn not_reconciled(provider: &ProviderName) {
    metrics::counter!(RECONCILE_FAILURES, "provider" => provider.to_string()).increment(1);
}

pub(super) fn quarantine(on: bool) {
    metrics::gauge!(QUARANTINE).set(if on { 1.0 } else { 0.0 });
}

/// What came of a token. The word is one of a closed set.
pub(super) fn signalled(stream: &StreamName, outcome: &'static str) {
    metrics::counter!(SIGNALS, "stream" => stream.to_string(), "outcome" => outcome).increment(1);
}

pub(super) fn signal_took(lag: Duration) {
    metrics::histogram!(SIGNAL_LAG).record(lag.as_secs_f64());
}

pub(super) fn poll_failed(stream: &StreamName) {
    metrics::counter!(POLL_FAILURES, "stream" => stream.to_string()).increment(1);
}

pub(super) fn silent(stream: &StreamName, silent: bool) {
    metrics::gauge!(SILENT, "stream" => stream.to_string()).set(if silent { 1.0 } else { 0.0 });
}
