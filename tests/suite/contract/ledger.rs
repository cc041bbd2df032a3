//! The contract of [`dayfly::ledger::Ledger`]: one test for each promise, run against every adapter.
//!
//! An adapter joins with a [`Fixture`] and one line of `ledger_contract!`. Time and ids come from the
//! tests, so nothing here sleeps; tasks are put into one slot where a promise holds for one shard.

mod changes;
mod claims;
mod context;
mod cutoffs;
mod finding;
mod leases;
mod losses;
mod model;
mod races;
mod status_lists;
mod sub_tasks;
mod tasks;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::ledger::{
    Budgets, Claim, Cursor, IdempotencyKey, LeaseClaim, Ledger, LedgerError, Opened, Refusal, Renewal,
    Settlement,
};
use dayfly::model::access::{Access, Scope};
use dayfly::model::attestation::EvidenceKind;
use dayfly::model::cutoff::{Cutoff, Selector};
use dayfly::model::fact::FactsVersion;
use dayfly::model::ids::{DecisionId, LeaseId, Randomness, Slot, TaskId};
use dayfly::model::lease::{
    Cause, Ending, Lease, LeaseState, Receipt, ReceiptSignature, Vouched, VouchingKey,
};
use dayfly::model::task::{Charter, Task, TaskChange, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::{Bound, Ttl};

/// Makes ledgers of one adapter.
#[async_trait]
pub(super) trait Fixture: Send + Sync {
    /// An empty ledger with a retention of [`RETENTION`]. Asked for once of each fixture.
    async fn ledger(&self) -> Arc<dyn Ledger>;
}

/// How long the ledgers under test keep what is over.
pub(super) const RETENTION: Duration = Duration::from_secs(3600);

/// The instant at which every test begins.
const START: Timestamp = Timestamp::from_millis(1_795_329_000_250);
/// How long the tasks of the tests live.
const TASK_LIFE: Duration = Duration::from_secs(600);
/// How long the leases of the tests live.
const LEASE_LIFE: Duration = Duration::from_secs(300);
/// How long the tests hold a claim.
const HOLD: Duration = Duration::from_secs(30);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// This long after the beginning.
fn at(seconds: u64) -> Timestamp {
    START.plus(secs(seconds))
}

fn most() -> NonZeroUsize {
    NonZeroUsize::new(100).unwrap()
}

/// Random enough to be new, and the same in every run.
fn random() -> Randomness {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
    let mixed = drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let [a, b, ..] = mixed;
    let [c, d, e, f, g, h, i, j] = drawn.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j]
}

fn key(key: u8, content: u8) -> IdempotencyKey {
    IdempotencyKey {
        key: [key; 32],
        content: [content; 32],
    }
}

/// An open task that nobody has written down yet, always in the same slot.
fn task_at(opened_at: Timestamp) -> Task {
    task_in(Slot::new(7), opened_at)
}

fn task_in(slot: Slot, opened_at: Timestamp) -> Task {
    let access = Access::new(
        "crm".parse().unwrap(),
        ["read".parse().unwrap()].into(),
        [].into(),
    )
    .unwrap();
    Task {
        charter: Charter {
            id: TaskId::in_slot(opened_at, slot, random()),
            agent: "support-bot".parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: Some("example.org".parse().unwrap()),
            subject: "spiffe://example.org/support".to_owned(),
            delegators: Vec::new(),
            purpose: "answer a ticket".parse().unwrap(),
            scope: Scope::new(vec![access]).unwrap(),
            on_behalf_of: Some("user-1".parse().unwrap()),
            opened_at,
            deadline: opened_at.plus(TASK_LIFE),
            heartbeat: None,
        },
        state: TaskState::Open,
        beat_at: opened_at,
    }
}

/// What stands behind each lease.
const VOUCHED: Vouched = Vouched {
    kind: EvidenceKind::JwtSvid,
    key: Some(VouchingKey([0xe5, 0xfe, 0x50, 0x59, 0xdb, 0x69, 0x7d, 0xf8])),
    until: Timestamp::from_millis(1_795_332_600_250),
};

/// A reservation for the task that nobody has written down yet.
fn lease_at(task: &Task, issued_at: Timestamp) -> Lease {
    let charter = &task.charter;
    Lease {
        id: LeaseId::new(charter.id, issued_at, random()),
        task: charter.id,
        agent: charter.agent.clone(),
        environment: charter.environment.clone(),
        trust_domain: charter.trust_domain.clone(),
        on_behalf_of: charter.on_behalf_of.clone(),
        delegators: charter.delegators.clone(),
        tool: "crm".parse().unwrap(),
        actions: ["read".parse().unwrap()].into(),
        resources: ["customers/42".parse().unwrap()].into(),
        provider: "orders-db".parse().unwrap(),
        handle: None,
        ending: Ending::Immediate,
        decision: DecisionId::new(issued_at, random()),
        issued_at,
        expires_at: issued_at.plus(LEASE_LIFE),
        bounded_by: Bound::Policy,
        requested: Ttl::from_secs(300),
        vouched: Some(VOUCHED),
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Reserved,
    }
}

/// A lease that is active from the beginning, as those of tokens are.
fn active_at(task: &Task, issued_at: Timestamp) -> Lease {
    Lease {
        state: LeaseState::Active,
        ending: Ending::DenyListed,
        ..lease_at(task, issued_at)
    }
}

/// Before anything was stated.
const NO_FACTS: FactsVersion = FactsVersion(0);

const UNLIMITED: Budgets = Budgets {
    task: None,
    agent: None,
    tool: None,
};

fn cutoff(selector: Selector, up_to: Timestamp, at: Timestamp) -> Cutoff {
    let cause = Cause::Cutoff;
    Cutoff {
        selector,
        up_to,
        at,
        cause,
    }
}

/// What the tests say about a ledger, shorter.
#[async_trait]
trait Shorthand {
    /// Writes down a new task.
    async fn opened(&self, task: Task) -> Task;
    /// Writes down an open task at the beginning.
    async fn open_task(&self) -> Task;
    /// Writes a lease down without budgets and without a key.
    async fn hold(&self, lease: Lease) -> Lease;
    /// Tries to write a lease down without budgets and without a key.
    async fn try_hold(&self, lease: &Lease) -> Result<(), LedgerError>;
    /// The lease, which exists.
    async fn stored(&self, id: LeaseId) -> Lease;
    /// What is due, to the last.
    async fn due(&self, now: Timestamp) -> Vec<Claim>;
    /// The leases that are due, to the last; nothing else is.
    async fn due_leases(&self, now: Timestamp) -> Vec<LeaseClaim>;
    /// Revokes, claims and settles: the lease is over.
    async fn end(&self, id: LeaseId, now: Timestamp);
    /// All entries of the feed, and where they end.
    async fn feed(&self) -> (Vec<Cutoff>, Cursor);
    /// The selectors of the feed.
    async fn told(&self) -> Vec<Selector>;
    /// A change of a task that is made.
    async fn advanced(&self, task: &Task, change: TaskChange, now: Timestamp) -> Task;
}

#[async_trait]
impl Shorthand for Arc<dyn Ledger> {
    async fn opened(&self, task: Task) -> Task {
        assert_eq!(self.open(&task, None, None).await.unwrap(), Opened::New);
        task
    }

    async fn open_task(&self) -> Task {
        self.opened(task_at(START)).await
    }

    async fn hold(&self, lease: Lease) -> Lease {
        self.try_hold(&lease).await.unwrap();
        lease
    }

    async fn try_hold(&self, lease: &Lease) -> Result<(), LedgerError> {
        self.reserve(lease, &UNLIMITED, None, NO_FACTS).await.map(drop)
    }

    async fn stored(&self, id: LeaseId) -> Lease {
        self.lease(id).await.unwrap().expect("a lease")
    }

    async fn due(&self, now: Timestamp) -> Vec<Claim> {
        let mut claims = Vec::new();
        loop {
            let more = self.claim_due(now, HOLD, most()).await.unwrap();
            if more.is_empty() {
                return claims;
            }
            claims.extend(more);
        }
    }

    async fn due_leases(&self, now: Timestamp) -> Vec<LeaseClaim> {
        let lease = |claim| match claim {
            Claim::Lease(claim) => *claim,
            Claim::Task(task, outcome) => panic!("{} is due: {outcome:?}", task.charter.id),
        };
        self.due(now).await.into_iter().map(lease).collect()
    }

    async fn end(&self, id: LeaseId, now: Timestamp) {
        self.revoke(id, Cause::Revoked, now).await.unwrap();
        for claim in self.due(now).await {
            if let Claim::Lease(claim) = claim
                && claim.lease.id == id
            {
                self.settle(&claim, ended(now), now).await.unwrap();
            }
        }
        assert_eq!(self.stored(id).await.state.as_str(), "ended");
    }

    async fn feed(&self) -> (Vec<Cutoff>, Cursor) {
        let (mut cutoffs, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            let changes = self.changes(&cursor, Duration::ZERO).await.unwrap();
            cutoffs.extend(changes.cutoffs);
            cursor = changes.next;
            if !changes.more {
                return (cutoffs, cursor);
            }
        }
    }

    async fn told(&self) -> Vec<Selector> {
        let (cutoffs, _) = self.feed().await;
        cutoffs.into_iter().map(|cutoff| cutoff.selector).collect()
    }

    async fn advanced(&self, task: &Task, change: TaskChange, now: Timestamp) -> Task {
        self.advance(task.charter.id, change, now).await.unwrap()
    }
}

/// A renewal until so long after the beginning, by a decision of its own.
fn until(seconds: u64) -> Renewal {
    Renewal {
        expires_at: at(seconds),
        decision: DecisionId::new(at(0), random()),
        bounded_by: Bound::Requested,
        requested: Ttl::from_secs(u32::try_from(seconds).unwrap()),
        vouched: Some(Vouched {
            kind: EvidenceKind::Oidc,
            key: None,
            until: at(seconds),
        }),
        facts: NO_FACTS,
    }
}

fn ended(at: Timestamp) -> Settlement {
    Settlement::Ended(Receipt::VerifiedAbsent { at }, signature(at))
}

/// What a ledger keeps of a signature. It is nobody's: ledgers do not look into it.
fn signature(at: Timestamp) -> ReceiptSignature {
    let byte = u8::try_from(at.as_secs() % 251).unwrap();
    ReceiptSignature {
        issuer: "https://dayfly.test".to_owned(),
        key: [byte, 0, b'=', 255],
        bytes: Box::new([byte; 64]),
    }
}

/// The refusal that must have come.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> Refusal {
    match result {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

fn cause_of(lease: &Lease) -> Option<Cause> {
    match &lease.state {
        LeaseState::Revoking(effort) | LeaseState::Stuck(effort) => Some(effort.cause),
        LeaseState::Ended { cause, .. } => Some(*cause),
        LeaseState::Reserved | LeaseState::Active => None,
    }
}

/// Runs every promise against an adapter: `ledger_contract!(name, fixture)`, where the fixture is an
/// `Option`; with none, because the adapter has no server to talk to here, its tests pass unseen.
macro_rules! ledger_contract {
    ($adapter:ident, $fixture:expr) => {
        ledger_contract!(@modules $adapter, $fixture;
            tasks: a_task_is_kept_as_it_was_opened, an_id_is_taken_once,
                a_repeated_opening_answers_the_first_task, a_key_is_not_used_for_two_openings,
                a_key_lives_as_long_as_the_retention, an_agent_opens_as_many_tasks_as_it_may,
                a_repeated_opening_takes_nothing_of_the_budget, a_beat_is_a_sign_of_life,
                only_an_open_task_beats, suspending_ends_what_is_live, resuming_opens_again,
                ending_is_for_good, a_task_past_its_due_instant_can_only_be_ended,
                an_unknown_task_does_not_move, ended_tasks_are_forgotten;
            sub_tasks: a_sub_task_is_kept_with_its_chain, a_sub_task_opens_only_while_everything_above_is_open,
                a_tree_has_so_many_sub_tasks_and_no_more, a_task_ends_with_everything_below_it_in_one_step,
                what_ended_with_its_parent_counts_no_more, a_suspended_task_holds_up_what_is_below,
                nothing_is_given_out_below_a_task_past_its_due_instant,
                a_lease_is_found_under_each_task_and_agent_above, a_cutoff_reaches_what_was_handed_on,
                a_cutoff_of_a_trust_domain_reaches_what_was_handed_on_from_it,
                a_tree_is_forgotten_with_all_its_leases;
            leases: a_lease_is_kept_as_it_was_reserved, nothing_is_reserved_without_an_open_task,
                nothing_is_reserved_past_the_due_instant, a_lease_id_is_taken_once,
                the_task_budget_is_exact, the_agent_budget_holds, the_tool_budget_holds,
                one_task_may_use_a_small_budget_alone, a_budget_holds_however_tasks_are_spread,
                a_repeated_reservation_is_known, a_refused_reservation_leaves_no_trace,
                activating_gives_handle_and_expiry, activating_happens_once,
                a_reserved_lease_is_named_once_its_name_is_known, nothing_is_activated_after_the_task, renewing_moves_the_expiry,
                renewing_moves_an_earlier_end, renewing_never_brings_the_expiry_forward,
                only_what_is_active_is_renewed, only_what_is_active_is_live, nothing_is_live_without_its_task,
                a_revoked_lease_is_due_at_once,
                revoking_again_changes_nothing, many_are_revoked_at_once, an_unknown_lease_is_refused;
            claims: an_expired_lease_is_claimed, what_waits_longest_is_known_without_looking_at_the_rest, a_lease_that_was_bound_to_its_evidence_ends_with_it,
                a_curtailed_lease_falls_due_before_its_credential_does, an_abandoned_reservation_is_claimed,
                a_short_reservation_is_claimed_at_its_expiry, a_task_past_its_deadline_is_claimed,
                a_lost_task_is_claimed, a_claimed_task_returns_until_it_is_ended,
                a_hold_excludes_others, a_late_settlement_is_refused,
                a_hold_that_nobody_took_over_settles, an_end_is_settled_once,
                a_retry_comes_when_it_was_said, a_stuck_lease_comes_back,
                what_is_put_off_counts_as_no_attempt, many_are_settled_at_once_and_each_by_itself,
                what_is_due_is_claimed_once_however_much_it_is, an_order_goes_before_what_fell_due_by_itself,
                what_waits_is_tried_again_at_once_on_order, an_order_to_try_again_leaves_a_hold_alone,
                only_what_has_to_end_is_tried_again, a_stuck_lease_can_be_abandoned,
                whoever_is_at_an_abandoned_lease_loses_it, only_a_stuck_lease_can_be_abandoned,
                an_error_is_kept_short, the_longest_due_come_first, the_limit_is_kept,
                ended_leases_are_forgotten;
            cutoffs: a_cutoff_refuses_what_it_matches, a_cutoff_spares_what_it_does_not_match,
                a_cutoff_stops_activation_and_renewal,
                nothing_is_live_that_a_cutoff_ends_though_nobody_came_to_it_yet, the_further_cutoff_holds,
                cutoffs_in_force_are_listed, a_cutoff_is_dropped_when_nothing_can_match;
            context: the_later_statement_stands,
                the_latest_of_many_statements_stands_in_whatever_order_they_come, facts_are_told_in_their_order,
                whoever_knows_another_ledger_begins_afresh, waiting_for_facts_ends_when_something_is_stated,
                nothing_is_given_out_on_facts_of_before,
                a_statement_divides_what_was_decided_before_it_from_what_was_after,
                a_statement_orders_that_its_subject_is_decided_anew, a_fact_that_expires_is_a_reason_to_decide_anew,
                what_was_taken_back_is_forgotten_after_the_retention, one_subject_has_so_many_facts_and_no_more,
                ends_come_before_decisions_and_then_who_has_waited_longest,
                decisions_have_their_turn_in_a_stream_of_ends,
                a_recheck_is_held_by_one_until_the_hold_runs_out, each_recheck_is_claimed_by_one,
                an_order_that_nobody_began_is_replaced_in_its_place,
                what_is_ordered_again_while_somebody_is_at_it_is_done_once_more_after,
                ends_that_are_ordered_again_keep_those_under_way_going_too, a_decision_by_a_revision_is_for_who_has_it,
                decisions_by_a_revision_and_by_whichever_is_in_force_stand_apart,
                a_decision_about_everything_takes_the_place_of_narrower_ones_of_its_kind, a_live_lease_gets_an_earlier_end,
                a_mark_is_set_by_who_knows_it, one_of_many_sets_a_mark, circumstances_change_in_a_lost_ledger_too;
            finding: leases_are_found_by_what_they_are, leases_are_found_by_their_state,
                filters_combine, pages_follow_each_other, what_lives_is_seen_once_however_small_the_pages;
            changes: the_feed_tells_every_cutoff, the_feed_goes_on_from_a_cursor,
                a_cursor_survives_its_text, an_unplaced_cursor_starts_over, the_feed_comes_in_parts,
                waiting_ends_when_something_comes, waiting_ends_by_itself,
                the_feed_forgets_after_the_retention, nothing_is_missed_under_many_writers;
            status_lists: only_who_wants_a_place_gets_one, no_two_leases_have_one_place, many_are_struck_at_once,
                whoever_is_told_of_in_the_feed_is_struck_in_the_same_step,
                the_end_of_a_task_strikes_all_that_it_has, a_list_stays_until_its_last_token_is_over,
                a_repeated_reservation_takes_one_place, nobody_is_told_of_the_lists_of_a_lost_ledger;
            losses: a_condemned_ledger_ends_and_gives_nothing_out,
                a_recovery_brings_back_those_whom_it_entered, an_adopted_lease_is_due_at_once,
                every_task_ends_with_a_recovery, what_is_answered_is_remembered;
            races: no_lease_is_active_after_the_end, the_task_budget_holds_in_a_race, the_agent_budget_holds_in_a_race_of_its_tasks,
                one_of_many_openings_gets_the_last_place,
                a_lease_is_claimed_by_one, a_key_makes_one_lease, the_ledger_answers_a_ping;
        );
    };
    (@modules $adapter:ident, $fixture:expr; $($module:ident: $($promise:ident),+;)+) => {
        mod $adapter {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn behaves_like_the_model() {
                $crate::contract::ledger::model::behaves_like_the_model(|| $fixture).await;
            }
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    if let Some(fixture) = $fixture {
                        let ledger = $crate::contract::ledger::Fixture::ledger(&fixture).await;
                        $crate::contract::ledger::$module::$promise(ledger).await;
                    }
                }
            )+)+
        }
    };
}

mod adapters;
mod redis;
