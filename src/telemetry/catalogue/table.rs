//! The table itself.

use super::Values::{Named, One};
use super::{Kind, Metric, metric};
use crate::broker::measure;
use crate::journal;
use crate::ledger::measured as ledger;
use crate::provider::guard;
use crate::telemetry::{
    BUILD, CERTIFICATE_EXPIRY, CHECKPOINT_AGE, DISK_FREE, HANDSHAKES_FAILED, HTTP_REQUESTS, HTTP_SECONDS,
    KEYS_AGE,
};
use crate::telemetry::{process, traces};

/// The verbs of records.
const VERBS: &[&str] = &[
    "attest",
    "open",
    "delegate",
    "suspend",
    "resume",
    "complete",
    "issue",
    "renew",
    "revoke",
    "end",
    "retry",
    "abandon",
    "recheck",
    "fact",
    "decide",
    "inspect",
    "reconcile",
    "load",
    "serve",
    "recover",
    "signal",
];
/// Why leases end.
const CAUSES: &[&str] = &[
    "expired",
    "task_completed",
    "task_failed",
    "task_cancelled",
    "task_expired",
    "task_lost",
    "task_revoked",
    "task_parent_ended",
    "task_suspended",
    "revoked",
    "cutoff",
    "superseded",
    "compensated",
    "recovered",
    "vanished",
    "not_permitted",
    "shortened",
    "signal",
    "agent_unregistered",
    "agent_unowned",
    "agent_suspended",
    "agent_retired",
    "review_overdue",
    "tool_removed",
    "attestation_expired",
    "attestation_revoked",
];

/// What listeners are called.
const LISTENERS: &[&str] = &["server", "tools", "operators"];

/// All of them.
pub const METRICS: &[Metric] = &[
    metric(
        BUILD,
        Kind::Gauge,
        &[("version", Named)],
        "always 1; the version is in the label",
    ),
    metric(
        measure::DECISIONS,
        Kind::Counter,
        &[
            ("verb", One(VERBS)),
            ("result", One(&["permitted", "denied", "failed"])),
        ],
        "decisions",
    ),
    metric(
        measure::REFUSED_EVIDENCE,
        Kind::Counter,
        &[(
            "reason",
            One(&[
                "missing",
                "malformed",
                "unrecognised",
                "refused",
                "untimely",
                "unavailable",
                "not_admitted",
            ]),
        )],
        "evidence that was refused",
    ),
    metric(
        measure::INTROSPECTIONS,
        Kind::Counter,
        &[(
            "found",
            One(&[
                "active",
                "foreign",
                "other_tool",
                "untimely",
                "lease_ended",
                "task_not_open",
                "cut",
            ]),
        )],
        "introspections that were answered",
    ),
    metric(
        measure::TIME_TO_DENY,
        Kind::Histogram,
        &[("because", One(&["request", "fact", "signal"]))],
        "time from when an end was asked for, or something happened, to when that is durable and denies",
    ),
    metric(
        measure::ENDED,
        Kind::Counter,
        &[
            ("cause", One(CAUSES)),
            (
                "proof",
                One(&[
                    "verified_absent",
                    "denied_at",
                    "expires_at",
                    "outlived",
                    "abandoned",
                ]),
            ),
        ],
        "leases that ended",
    ),
    metric(
        measure::END_FAILURES,
        Kind::Counter,
        &[],
        "attempts to end a lease that failed",
    ),
    metric(
        measure::STUCK,
        Kind::Counter,
        &[],
        "leases that became stuck: somebody has to look",
    ),
    metric(
        measure::STUCK_NOW,
        Kind::Gauge,
        &[("provider", Named)],
        "leases that cannot be ended: somebody has to look",
    ),
    metric(
        measure::DUE_OLDEST,
        Kind::Gauge,
        &[],
        "for how long that has been waiting which is due longest",
    ),
    metric(
        measure::RECONCILED,
        Kind::Counter,
        &[
            ("provider", Named),
            ("found", One(&["orphan", "undead", "ghost"])),
            ("result", One(&["ended", "failed"])),
        ],
        "what providers and the ledger disagreed on",
    ),
    metric(
        measure::RECONCILE_FAILURES,
        Kind::Counter,
        &[("provider", Named)],
        "comparisons that did not come to their end",
    ),
    metric(
        measure::ORPHANS,
        Kind::Gauge,
        &[("provider", Named)],
        "what the last comparison found that should not be there, and could not end or look at",
    ),
    metric(
        measure::REVOCATION_LAG,
        Kind::Histogram,
        &[],
        "time from the instant that a lease had to end to its proof",
    ),
    metric(
        measure::QUARANTINE,
        Kind::Gauge,
        &[],
        "1 while the ledger is lost: what exists is ended, and nothing is given out",
    ),
    metric(
        measure::SIGNALS,
        Kind::Counter,
        &[
            ("stream", Named),
            (
                "outcome",
                One(&[
                    "taken",
                    "repeated",
                    "verification",
                    "stream_updated",
                    "ignored",
                    "nobody",
                    "refused",
                    "foreign",
                    "failed",
                ]),
            ),
        ],
        "tokens of streams of signals",
    ),
    metric(
        measure::SIGNAL_LAG,
        Kind::Histogram,
        &[],
        "time from an event to when all that follows from it is written down",
    ),
    metric(
        measure::POLL_FAILURES,
        Kind::Counter,
        &[("stream", Named)],
        "polls of transmitters that failed",
    ),
    metric(
        measure::SILENT,
        Kind::Gauge,
        &[("stream", Named)],
        "1 while a stream was silent for longer than it promised",
    ),
    metric(
        measure::RECHECKS_WAITING,
        Kind::Gauge,
        &[],
        "orders to decide leases anew that are not done",
    ),
    metric(
        measure::RECHECK_LAG,
        Kind::Histogram,
        &[],
        "time from a change to when all that it concerns was decided anew",
    ),
    metric(
        measure::RELOADS,
        Kind::Counter,
        &[("result", One(&["in_force", "unchanged", "refused", "failed"]))],
        "loadings of policies, agents and tools",
    ),
    metric(
        measure::ISSUE_SECONDS,
        Kind::Histogram,
        &[],
        "time that an issue took inside the broker",
    ),
    metric(
        guard::CALLS,
        Kind::Counter,
        &[
            ("provider", Named),
            (
                "call",
                One(&["prepare", "mint", "renew", "revoke", "probe", "inventory"]),
            ),
            (
                "result",
                One(&[
                    "ok",
                    "unavailable",
                    "throttled",
                    "unfit",
                    "refused",
                    "crowded",
                    "down",
                ]),
            ),
        ],
        "calls to providers",
    ),
    metric(
        guard::DOWN,
        Kind::Gauge,
        &[("provider", Named)],
        "1 from the fifth failure in a row until it answers again",
    ),
    metric(
        ledger::SECONDS,
        Kind::Histogram,
        &[("call", One(ledger::CALLS))],
        "time that calls of the ledger took",
    ),
    metric(
        ledger::FAILURES,
        Kind::Counter,
        &[("call", One(ledger::CALLS))],
        "calls of the ledger without an answer",
    ),
    metric(
        journal::APPEND_SECONDS,
        Kind::Histogram,
        &[],
        "time from a record to when it is durable",
    ),
    metric(
        journal::FAILURES,
        Kind::Counter,
        &[],
        "records that were not taken",
    ),
    metric(
        CHECKPOINT_AGE,
        Kind::Gauge,
        &[],
        "for how long the oldest record without a signed checkpoint has been without",
    ),
    metric(
        DISK_FREE,
        Kind::Gauge,
        &[],
        "the part of the file system of the journal that is free",
    ),
    metric(
        KEYS_AGE,
        Kind::Gauge,
        &[("authority", Named)],
        "how long ago the keys of an authority were last had",
    ),
    metric(
        CERTIFICATE_EXPIRY,
        Kind::Gauge,
        &[("use", One(LISTENERS))],
        "when a certificate expires, in seconds since 1970",
    ),
    metric(
        HANDSHAKES_FAILED,
        Kind::Counter,
        &[
            ("listener", One(LISTENERS)),
            ("reason", One(&["timeout", "crowded", "refused", "other"])),
        ],
        "TLS handshakes that came to nothing",
    ),
    metric(
        traces::DROPPED,
        Kind::Counter,
        &[("reason", One(&["queue_full", "not_taken"]))],
        "spans that no collector got",
    ),
    metric(
        HTTP_REQUESTS,
        Kind::Counter,
        &[
            ("route", Named),
            (
                "method",
                One(&[
                    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
                ]),
            ),
            ("status", One(&["1xx", "2xx", "3xx", "4xx", "5xx"])),
        ],
        "requests that were answered",
    ),
    metric(
        HTTP_SECONDS,
        Kind::Histogram,
        &[("route", Named)],
        "time from a request's headers to its answer's",
    ),
    metric(
        process::CPU,
        Kind::Counter,
        &[],
        "processor time, in whole seconds",
    ),
    metric(process::MEMORY, Kind::Gauge, &[], "memory that is resident"),
    metric(
        process::OPEN_FILES,
        Kind::Gauge,
        &[],
        "files and sockets that are open",
    ),
    metric(
        process::MOST_FILES,
        Kind::Gauge,
        &[],
        "how many files and sockets may be open",
    ),
    metric(
        process::STARTED,
        Kind::Gauge,
        &[],
        "when the process started, in seconds since 1970",
    ),
];
