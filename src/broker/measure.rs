//! What the broker counts. Label values come from closed sets; never an id, never an agent's name.

use std::time::Duration;

use crate::journal::record::{Result, Verb};
use crate::model::lease::{Cause, Receipt};
use crate::model::name::{ProviderName, StreamName};

use super::introspect::Found;
use super::reconciler::Mismatch;

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
    let result = match result {
        Result::Permitted => "permitted",
        Result::Denied => "denied",
        Result::Failed => "failed",
    };
    metrics::counter!(DECISIONS, "verb" => verb.as_str(), "result" => result).increment(1);
}

pub(super) fn refused_evidence(reason: &'static str) {
    metrics::counter!(REFUSED_EVIDENCE, "reason" => reason).increment(1);
}

pub(super) fn introspected(found: Found) {
    metrics::counter!(INTROSPECTIONS, "found" => found.as_str()).increment(1);
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

pub(super) fn issued(took: Duration) {
    metrics::histogram!(ISSUE_SECONDS).record(took.as_secs_f64());
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
