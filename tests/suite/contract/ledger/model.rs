//! Random lives of a few tasks and leases, held against a model that keeps everything in plain lists
//! and decides by the words of the trait alone.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use dayfly::ledger::context::{RecheckClaim, Stated};
use dayfly::ledger::{
    Budgets, Claim, Filter, LeaseClaim, Ledger, LedgerError, Page, Refusal, Renewal, Settlement,
};
use dayfly::model::cutoff::{Cutoff, Selector};
use dayfly::model::fact::{Fact, FactsVersion};
use dayfly::model::ids::TaskId;
use dayfly::model::lease::{Cause, Curtailed, Effort, Handle, Lease, LeaseState, Receipt};
use dayfly::model::recheck::Progress;
use dayfly::model::status_list::{Listing, Place, StatusList, TokenStatus};
use dayfly::model::task::{Outcome, Task, TaskChange, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::context::{claim, risk};
use super::sub_tasks::below;
use super::{Fixture, HOLD, START, Shorthand as _, cutoff, lease_at, most, secs, signature, task_at, until};

/// The task budget of the run.
const LIMIT: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Op {
    Tick(u64),
    /// Another agent opens a task, and may have one.
    Open,
    /// A helper opens a task below one.
    OpenBelow(usize),
    Advance(usize, TaskChange),
    Reserve(usize, bool),
    Activate(usize),
    Renew(usize),
    Revoke(usize),
    Claim,
    Settle(usize, u8),
    Retry(usize),
    Abandon(usize),
    Cut(u8),
    /// Less is permitted of a lease, for so long.
    Curtail(usize, u64),
    /// Something is stated: as of when, and for how long it is so at most.
    State(u8, u64, Option<u64>),
    /// Whoever decides hears of what was stated.
    Hear,
    /// Somebody looks for a recheck.
    Recheck,
    /// Whoever has a recheck says how far it has come, or that it is done.
    Rechecked(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let change = prop_oneof![
        3 => Just(TaskChange::Beat),
        1 => Just(TaskChange::Suspend),
        2 => Just(TaskChange::Resume),
        1 => Just(TaskChange::End(Outcome::Completed)),
    ];
    let one = || 0..12usize;
    prop_oneof![
        4 => (0..60u64).prop_map(Op::Tick),
        1 => Just(Op::Open),
        2 => (0..8usize).prop_map(Op::OpenBelow),
        3 => (0..8usize, change).prop_map(|(task, change)| Op::Advance(task, change)),
        6 => (0..8usize, any::<bool>()).prop_map(|(task, active)| Op::Reserve(task, active)),
        3 => one().prop_map(Op::Activate),
        2 => one().prop_map(Op::Renew),
        2 => one().prop_map(Op::Revoke),
        4 => Just(Op::Claim),
        4 => (one(), 0..4u8).prop_map(|(claim, how)| Op::Settle(claim, how)),
        2 => one().prop_map(Op::Retry),
        1 => one().prop_map(Op::Abandon),
        1 => (0..4u8).prop_map(Op::Cut),
        2 => (one(), 0..200u64).prop_map(|(lease, left)| Op::Curtail(lease, left)),
        2 => (0..3u8, 0..30u64, prop::option::of(1..90u64)).prop_map(|(level, ago, left)| Op::State(level, ago, left)),
        2 => Just(Op::Hear),
        2 => Just(Op::Recheck),
        2 => any::<bool>().prop_map(Op::Rechecked),
    ]
}

/// What the model knows of a lease.
struct Known {
    lease: Lease,
    due: Option<Timestamp>,
    /// The place in the list of claims of the one that holds, or last held, it.
    claim: Option<usize>,
}

impl Known {
    fn due_at(&mut self, due: Timestamp) {
        self.due = Some(due);
        if let LeaseState::Revoking(effort) | LeaseState::Stuck(effort) = &mut self.lease.state {
            effort.next_at = due;
        }
    }
}

/// What is known of the one fact of the run.
#[derive(Default)]
struct Circumstance {
    standing: Option<Fact>,
    /// It has expired, and was seen off.
    seen_off: bool,
    version: FactsVersion,
    /// As of when those know it who decide.
    heard: FactsVersion,
    walk: Walk,
}

/// The one recheck of the run.
#[derive(Default)]
struct Walk {
    waits: bool,
    /// Somebody had it since it began.
    begun: bool,
    /// It was ordered again since.
    again: bool,
    held_until: Option<Timestamp>,
    looked_at: u64,
    /// The last that somebody was given.
    claim: Option<RecheckClaim>,
}

impl Walk {
    fn order(&mut self) {
        self.again |= self.waits && self.begun;
        self.waits = true;
    }

    /// Whether whoever looks for one is given it.
    fn claim(&mut self, now: Timestamp) -> bool {
        let given = self.waits && self.held_until.is_none_or(|until| until <= now);
        if given {
            (self.begun, self.held_until) = (true, Some(now.plus(HOLD)));
        }
        given
    }

    fn settle(&mut self, looked_at: u64, done: bool) -> Result<(), String> {
        self.held_until.take().ok_or_else(|| name(&Refusal::ClaimLost))?;
        if done {
            (self.waits, self.begun, self.again, self.looked_at) = (self.again, false, false, 0);
        } else {
            self.looked_at = looked_at;
        }
        Ok(())
    }
}

impl Circumstance {
    fn value(&self, now: Timestamp) -> Option<String> {
        let fact = self.standing.as_ref()?;
        Some(fact.value_at(now)?.to_string())
    }

    fn lapsed(&self, now: Timestamp) -> bool {
        let has_value = self.standing.as_ref().is_some_and(|fact| fact.value.is_some());
        has_value && !self.seen_off && self.value(now).is_none()
    }

    /// Whether it is news, where no later statement stands.
    fn state(&mut self, fact: &Fact, now: Timestamp) -> Option<bool> {
        if self
            .standing
            .as_ref()
            .is_some_and(|standing| standing.at > fact.at)
        {
            return None;
        }
        let before = self.value(now);
        let until = self.standing.as_ref().and_then(|fact| fact.expires_at);
        let was_left = self.lapsed(now);
        self.standing = Some(fact.clone());
        let after = self.value(now);
        self.seen_off = after.is_none();
        if before != after || was_left {
            self.walk.order();
        }
        Some(before != after || (after.is_some() && until != fact.expires_at))
    }
}

#[derive(Default)]
struct Model {
    circumstance: Circumstance,
    tasks: Vec<(Task, Option<Timestamp>)>,
    leases: Vec<Known>,
    claims: Vec<(LeaseClaim, usize)>,
    cutoffs: Vec<Cutoff>,
    told: BTreeSet<String>,
    struck: HashSet<Place>,
}

/// When a lease has to end: with its credential, or before.
fn ends(lease: &Lease) -> Timestamp {
    lease
        .curtailed
        .map_or(lease.expires_at, |earlier| earlier.at.min(lease.expires_at))
}

/// The name of a refusal, which is all that is compared: `LeaseNotOpen` keeps its word.
fn name(refusal: &Refusal) -> String {
    match refusal {
        Refusal::LeaseNotOpen(state) | Refusal::LeaseNotEnding(state) | Refusal::LeaseNotStuck(state) => {
            format!("lease is {state}")
        }
        Refusal::TaskNotOpen(state) => format!("task is {}", state.as_str()),
        Refusal::Cut(_) => "cut".to_owned(),
        other => format!("{other:?}"),
    }
}

fn said<T>(result: Result<T, LedgerError>) -> Result<T, String> {
    match result {
        Ok(value) => Ok(value),
        Err(LedgerError::Refused(refusal)) => Err(name(&refusal)),
        Err(error) => panic!("{error}"),
    }
}

impl Model {
    fn state(&self, task: usize, now: Timestamp) -> &'static str {
        let (task, _) = &self.tasks[task];
        if task.due().is_some_and(|(due, _)| due <= now) {
            "ended"
        } else {
            task.state.as_str()
        }
    }

    fn place(&self, id: TaskId) -> usize {
        let known = |(task, _): &(Task, _)| task.charter.id == id;
        self.tasks.iter().position(known).unwrap()
    }

    /// The first state that is not open: of the task, then of each above.
    fn stands(&self, task: usize, now: Timestamp) -> Result<(), String> {
        let chain = self.tasks[task].0.charter.delegators.iter();
        let above = chain.map(|above| self.place(above.task));
        for place in std::iter::once(task).chain(above) {
            match self.state(place, now) {
                "open" => {}
                state => return Err(format!("task is {state}")),
            }
        }
        Ok(())
    }

    /// The sub-tasks below a task that have not ended, by their places.
    fn below(&self, id: TaskId) -> Vec<usize> {
        let part = |task: &Task| task.charter.delegators.iter().any(|above| above.task == id);
        let live = |task: &Task| !matches!(task.state, TaskState::Ended { .. });
        let all = self.tasks.iter().enumerate();
        let below = all.filter(|(_, (task, _))| part(task) && live(task));
        below.map(|(place, _)| place).collect()
    }

    fn cut(&self, lease: &Lease) -> bool {
        self.cutoffs.iter().any(|cutoff| lease.is_cut_by(cutoff))
    }

    fn tell(&mut self, selector: &Selector) {
        self.told.insert(format!("{selector:?}"));
    }

    fn revoke(&mut self, place: usize, cause: Cause, since: Timestamp, due: Timestamp) {
        let known = &mut self.leases[place];
        if let Listing::At(place) = known.lease.listing {
            self.struck.insert(place);
        }
        known.lease.listing = Listing::Unlisted;
        known.lease.curtailed = None;
        known.lease.state = LeaseState::Revoking(Effort {
            cause,
            since,
            attempts: 0,
            last_error: None,
            next_at: since,
        });
        known.due = Some(due);
    }

    fn is_open(&self, place: usize) -> bool {
        matches!(
            self.leases[place].lease.state,
            LeaseState::Reserved | LeaseState::Active
        )
    }

    fn advance(&mut self, place: usize, change: TaskChange, now: Timestamp) -> Result<Task, String> {
        let state = self.state(place, now);
        let (task, due) = &mut self.tasks[place];
        let over = matches!(task.state, TaskState::Ended { .. });
        let mut cause = None;
        match (change, state) {
            (TaskChange::End(_), _) if over => {}
            (TaskChange::End(outcome), _) => {
                task.state = TaskState::Ended { outcome, at: now };
                cause = Some(Cause::TaskEnded(outcome));
            }
            (TaskChange::Beat, "open") => task.beat_at = task.beat_at.max(now),
            (TaskChange::Suspend, "open") => {
                task.state = TaskState::Suspended;
                cause = Some(Cause::TaskSuspended);
            }
            (TaskChange::Resume, "suspended") => {
                task.state = TaskState::Open;
                task.beat_at = now;
            }
            (TaskChange::Suspend, "suspended") | (TaskChange::Resume, "open") => {}
            _ => return Err(format!("task is {state}")),
        }
        *due = task.due().map(|(due, _)| due);
        let task = task.clone();
        if let Some(cause) = cause {
            let below = match cause {
                Cause::TaskEnded(_) => {
                    for place in self.below(task.charter.id) {
                        let outcome = Outcome::ParentEnded;
                        let (task, due) = &mut self.tasks[place];
                        (task.state, *due) = (TaskState::Ended { outcome, at: now }, None);
                        let selector = Selector::Task(task.charter.id);
                        self.tell(&selector);
                    }
                    Cause::TaskEnded(Outcome::ParentEnded)
                }
                other => other,
            };
            for lease in 0..self.leases.len() {
                let of = &self.leases[lease].lease;
                let own = of.task == task.charter.id;
                let handed_on = of.delegators.iter().any(|above| above.task == task.charter.id);
                if (own || handed_on) && self.is_open(lease) {
                    self.revoke(lease, if own { cause } else { below }, now, now);
                    if cause == Cause::TaskSuspended {
                        let id = self.leases[lease].lease.id;
                        self.tell(&Selector::Lease(id));
                    }
                }
            }
            if cause != Cause::TaskSuspended {
                self.tell(&Selector::Task(task.charter.id));
            }
        }
        Ok(task)
    }

    fn open(&mut self, task: &Task) -> Result<(), String> {
        let open = |(known, _): &&(Task, Option<Timestamp>)| {
            known.charter.agent == task.charter.agent && !matches!(known.state, TaskState::Ended { .. })
        };
        if self.tasks.iter().any(|known| open(&known)) {
            let budget = dayfly::ledger::Budget::OpenTasks;
            return Err(name(&Refusal::Budget { budget, limit: 1 }));
        }
        self.tasks.push((task.clone(), task.due().map(|(due, _)| due)));
        Ok(())
    }

    fn open_below(&mut self, parent: usize, task: &Task, now: Timestamp) -> Result<(), String> {
        self.stands(parent, now)?;
        self.tasks.push((task.clone(), task.due().map(|(due, _)| due)));
        Ok(())
    }

    fn reserve(&mut self, place: usize, lease: &Lease, now: Timestamp) -> Result<(), String> {
        self.stands(place, now)?;
        if self.circumstance.heard < self.circumstance.version {
            return Err("StaleFacts".to_owned());
        }
        if self.cut(lease) {
            return Err("cut".to_owned());
        }
        let live = |known: &&Known| {
            known.lease.task == lease.task && !matches!(known.lease.state, LeaseState::Ended { .. })
        };
        if self.leases.iter().filter(live).count() >= 3 {
            let budget = dayfly::ledger::Budget::Task;
            return Err(name(&Refusal::Budget { budget, limit: LIMIT }));
        }
        let due = match lease.state {
            LeaseState::Reserved => now.plus(secs(60)).min(lease.expires_at),
            _ => lease.expires_at,
        };
        self.leases.push(Known {
            lease: lease.clone(),
            due: Some(due),
            claim: None,
        });
        Ok(())
    }

    fn activate(&mut self, place: usize, handle: &Handle, expires_at: Timestamp) -> Result<(), String> {
        let lease = &self.leases[place].lease;
        if lease.state != LeaseState::Reserved {
            return Err(format!("lease is {}", lease.state.as_str()));
        }
        if self.cut(lease) {
            return Err("cut".to_owned());
        }
        let known = &mut self.leases[place];
        known.lease.state = LeaseState::Active;
        known.lease.handle = Some(handle.clone());
        known.lease.expires_at = expires_at;
        known.due = Some(ends(&known.lease));
        Ok(())
    }

    fn live(&self, place: usize, now: Timestamp) -> Result<Lease, String> {
        let lease = &self.leases[place].lease;
        if lease.state != LeaseState::Active {
            return Err(format!("lease is {}", lease.state.as_str()));
        }
        if ends(lease) <= now {
            return Err("lease is expired".to_owned());
        }
        self.stands(self.place(lease.task), now)?;
        if self.cut(lease) {
            return Err("cut".to_owned());
        }
        Ok(lease.clone())
    }

    fn renew(&mut self, place: usize, terms: Renewal, now: Timestamp) -> Result<Lease, String> {
        let live = self.live(place, now);
        let stale = self.circumstance.heard < self.circumstance.version;
        if stale && live.as_ref().err().is_none_or(|why| why == "cut") {
            return Err("StaleFacts".to_owned());
        }
        live?;
        let known = &mut self.leases[place];
        if terms.expires_at > ends(&known.lease) {
            if terms.expires_at < known.lease.expires_at {
                known.lease.curtailed.as_mut().unwrap().at = terms.expires_at;
            } else {
                known.lease.curtailed = None;
                known.lease.expires_at = terms.expires_at;
            }
            known.lease.decision = terms.decision;
            known.lease.bounded_by = terms.bounded_by;
            known.lease.requested = terms.requested;
            known.lease.vouched = terms.vouched;
            known.due = Some(terms.expires_at);
        }
        Ok(known.lease.clone())
    }

    fn curtail(&mut self, place: usize, wanted: Curtailed, now: Timestamp) -> Lease {
        let open = self.is_open(place);
        let known = &mut self.leases[place];
        let at = wanted.at.max(now);
        if open && at < ends(&known.lease) {
            known.lease.curtailed = Some(Curtailed { at, ..wanted });
            if known.lease.state == LeaseState::Active {
                known.due = Some(at);
            }
        }
        known.lease.clone()
    }

    /// What must be claimed, as the printed ids of leases and tasks.
    fn claim(&mut self, now: Timestamp) -> BTreeSet<String> {
        let mut due = BTreeSet::new();
        for (task, at) in &mut self.tasks {
            if at.is_some_and(|at| at <= now) {
                *at = Some(now.plus(HOLD));
                due.insert(task.charter.id.to_string());
            }
        }
        for place in 0..self.leases.len() {
            if self.leases[place].due.is_none_or(|at| at > now) {
                continue;
            }
            let lease = self.leases[place].lease.clone();
            if now >= lease.expires_at {
                self.leases[place].lease.listing = Listing::Unlisted; // its credential says so itself
            }
            match lease.state {
                LeaseState::Active if ends(&lease) < lease.expires_at => {
                    let earlier = lease.curtailed.unwrap();
                    self.revoke(place, earlier.cause, earlier.at, now);
                    if now < lease.expires_at {
                        self.tell(&Selector::Lease(lease.id));
                    }
                }
                LeaseState::Active => self.revoke(place, Cause::Expired, lease.expires_at, now),
                LeaseState::Reserved => {
                    self.revoke(place, Cause::Compensated, now, now);
                    if now < lease.expires_at {
                        self.tell(&Selector::Lease(lease.id));
                    }
                }
                _ => {}
            }
            self.leases[place].due_at(now.plus(HOLD));
            due.insert(lease.id.to_string());
        }
        due
    }

    fn settle(&mut self, claim: usize, settlement: &Settlement, now: Timestamp) -> Result<(), String> {
        let place = self.claims[claim].1;
        let known = &mut self.leases[place];
        if known.claim != Some(claim) {
            return Err(name(&Refusal::ClaimLost));
        }
        known.claim = None;
        let (LeaseState::Revoking(effort) | LeaseState::Stuck(effort)) = known.lease.state.clone() else {
            panic!("claimed, and not to be ended")
        };
        let failed = |error: &String| Effort {
            attempts: effort.attempts + 1,
            last_error: Some(error.clone()),
            ..effort.clone()
        };
        let due;
        (known.lease.state, due) = match settlement {
            Settlement::Ended(receipt, signature) => {
                let ended = LeaseState::Ended {
                    cause: effort.cause,
                    at: now,
                    receipt: *receipt,
                    signed: Some(signature.clone()),
                };
                (ended, None)
            }
            Settlement::RetryAt(at, error) => (LeaseState::Revoking(failed(error)), Some(*at)),
            Settlement::Stuck(at, error) => (LeaseState::Stuck(failed(error)), Some(*at)),
            Settlement::PutOff(at) => (known.lease.state.clone(), Some(*at)),
        };
        match due {
            Some(due) => known.due_at(due),
            None => known.due = None,
        }
        Ok(())
    }

    fn retry(&mut self, place: usize, now: Timestamp) -> Result<Lease, String> {
        let known = &mut self.leases[place];
        let (LeaseState::Revoking(effort) | LeaseState::Stuck(effort)) = &known.lease.state else {
            return Err(format!("lease is {}", known.lease.state.as_str()));
        };
        if known.claim.is_none() && effort.next_at > now {
            known.due_at(now);
        }
        Ok(known.lease.clone())
    }

    fn abandon(&mut self, place: usize, now: Timestamp) -> Result<Lease, String> {
        let known = &mut self.leases[place];
        let LeaseState::Stuck(effort) = &known.lease.state else {
            return Err(format!("lease is {}", known.lease.state.as_str()));
        };
        known.lease.state = LeaseState::Ended {
            cause: effort.cause,
            at: now,
            receipt: Receipt::Abandoned { at: now },
            signed: Some(signature(now)),
        };
        (known.due, known.claim) = (None, None);
        Ok(known.lease.clone())
    }
}

async fn live(ledger: &std::sync::Arc<dyn Ledger>, ops: &[Op]) {
    let (mut model, mut now) = (Model::default(), START);
    let mut places = Vec::new();
    for heartbeat in [None, Some(90), None] {
        let mut task = task_at(START);
        task.charter.heartbeat = heartbeat.and_then(Ttl::from_secs);
        let task = ledger.opened(task).await;
        let due = task.due().map(|(due, _)| due);
        model.tasks.push((task, due));
    }
    let budgets = Budgets {
        task: Some(LIMIT),
        ..Budgets::default()
    };
    for op in ops {
        let place = |wanted: usize| (!model.leases.is_empty()).then(|| wanted % model.leases.len().max(1));
        match *op {
            Op::Tick(seconds) => now = now.plus(secs(seconds)),
            Op::Open => {
                let mut task = task_at(now);
                task.charter.agent = "report-bot".parse().unwrap();
                let made = said(ledger.open(&task, Some(1), None).await).map(|_| ());
                assert_eq!(made, model.open(&task), "{op:?}");
            }
            Op::OpenBelow(parent) => {
                let parent = parent % model.tasks.len();
                let task = below(&model.tasks[parent].0, "helper-bot", now);
                let made = said(ledger.open(&task, None, None).await).map(|_| ());
                assert_eq!(made, model.open_below(parent, &task, now), "{op:?}");
            }
            Op::Advance(task, change) => {
                let task = task % model.tasks.len();
                let id = model.tasks[task].0.charter.id;
                let made = said(ledger.advance(id, change, now).await);
                assert_eq!(made, model.advance(task, change, now), "{op:?}");
            }
            Op::Reserve(task, active) => {
                let task = task % model.tasks.len();
                let mut lease = lease_at(&model.tasks[task].0, now);
                if active {
                    lease.state = LeaseState::Active;
                }
                if task < 2 {
                    lease.listing = Listing::Wanted;
                }
                let made = said(
                    ledger
                        .reserve(&lease, &budgets, None, model.circumstance.heard)
                        .await,
                );
                if let Ok(place) = made {
                    assert_eq!(place.is_some(), task < 2, "{op:?}");
                    lease.listing = place.map_or(Listing::Unlisted, Listing::At);
                    places.extend(place);
                }
                assert_eq!(made.map(drop), model.reserve(task, &lease, now), "{op:?}");
            }
            Op::Activate(lease) => {
                let Some(lease) = place(lease) else { continue };
                let (handle, until) = (Handle("handle".to_owned()), now.plus(secs(100)));
                let made = said(
                    ledger
                        .activate(model.leases[lease].lease.id, &handle, until)
                        .await,
                );
                assert_eq!(made, model.activate(lease, &handle, until), "{op:?}");
            }
            Op::Renew(lease) => {
                let Some(lease) = place(lease) else { continue };
                // Half of them ask for less than there is.
                let until = Renewal {
                    expires_at: now.plus(secs(if lease % 2 == 0 { 150 } else { 20 })),
                    facts: model.circumstance.heard,
                    ..until(0)
                };
                let made = said(ledger.renew(model.leases[lease].lease.id, until, now).await);
                assert_eq!(made, model.renew(lease, until, now), "{op:?}");
            }
            Op::Revoke(lease) => {
                let Some(lease) = place(lease) else { continue };
                let id = model.leases[lease].lease.id;
                let made = said(ledger.revoke(id, Cause::Revoked, now).await).unwrap();
                if model.is_open(lease) {
                    model.revoke(lease, Cause::Revoked, now, now);
                    model.tell(&Selector::Lease(id));
                }
                assert_eq!(made, model.leases[lease].lease, "{op:?}");
            }
            Op::Claim => {
                let claims = ledger.claim_due(now, HOLD, most()).await.unwrap();
                let due = model.claim(now);
                let mut claimed = BTreeSet::new();
                for claim in claims {
                    match claim {
                        Claim::Task(task, _) => claimed.insert(task.charter.id.to_string()),
                        Claim::Lease(claim) => {
                            let id = claim.lease.id;
                            let place = model
                                .leases
                                .iter()
                                .position(|known| known.lease.id == id)
                                .unwrap();
                            assert_eq!(claim.lease, model.leases[place].lease);
                            model.leases[place].claim = Some(model.claims.len());
                            model.claims.push((*claim, place));
                            claimed.insert(id.to_string())
                        }
                    };
                }
                assert_eq!(claimed, due, "{op:?} at {now}");
            }
            Op::Settle(claim, how) => {
                if model.claims.is_empty() {
                    continue;
                }
                let claim = claim % model.claims.len();
                let settlement = match how {
                    0 => Settlement::Ended(Receipt::DeniedAt { at: now }, signature(now)),
                    1 => Settlement::RetryAt(now.plus(secs(20)), "no answer".to_owned()),
                    2 => Settlement::PutOff(now.plus(secs(10))),
                    _ => Settlement::Stuck(now.plus(secs(40)), "refused".to_owned()),
                };
                let made = said(
                    ledger
                        .settle(&model.claims[claim].0, settlement.clone(), now)
                        .await,
                );
                assert_eq!(made, model.settle(claim, &settlement, now), "{op:?}");
            }
            Op::Retry(lease) => {
                let Some(lease) = place(lease) else { continue };
                let made = said(ledger.retry(model.leases[lease].lease.id, now).await);
                assert_eq!(made, model.retry(lease, now), "{op:?}");
            }
            Op::Abandon(lease) => {
                let Some(lease) = place(lease) else { continue };
                let made = said(
                    ledger
                        .abandon(&model.leases[lease].lease, &signature(now), now)
                        .await,
                );
                assert_eq!(made, model.abandon(lease, now), "{op:?}");
            }
            Op::Curtail(lease, left) => {
                let Some(lease) = place(lease) else { continue };
                let wanted = Curtailed {
                    at: START.plus(secs(left)),
                    cause: Cause::Shortened,
                };
                let id = model.leases[lease].lease.id;
                let made = ledger.curtail(id, wanted, now).await.unwrap();
                assert_eq!(made, model.curtail(lease, wanted, now), "{op:?}");
            }
            Op::State(level, ago, left) => {
                let value = ["", "low", "high"][usize::from(level)];
                let fact = Fact {
                    expires_at: left.map(|left| now.plus(secs(left)).minus(secs(ago))),
                    at: now.minus(secs(ago)),
                    ..risk(value, 0)
                };
                let stated = ledger.state(&fact, "because", now).await.unwrap();
                let circumstance = &mut model.circumstance;
                match (circumstance.state(&fact, now), stated) {
                    (None, Stated::Superseded) | (Some(false), Stated::Unchanged) => {}
                    (Some(true), Stated::New(version)) => {
                        assert!(version > circumstance.version);
                        circumstance.version = version;
                    }
                    other => panic!("{op:?}: {other:?}"),
                }
            }
            Op::Hear => {
                let circumstance = &mut model.circumstance;
                let told = ledger.facts(circumstance.heard, Duration::ZERO).await.unwrap();
                assert_eq!(told.version, circumstance.version, "{op:?}");
                let news = circumstance.heard < circumstance.version;
                assert_eq!(told.stated.len(), usize::from(news), "{op:?}");
                if news {
                    let value = told.stated[0].value_at(now);
                    assert_eq!(value.map(ToString::to_string), circumstance.value(now));
                }
                circumstance.heard = told.version;
            }
            Op::Recheck => {
                let circumstance = &mut model.circumstance;
                if circumstance.lapsed(now) {
                    circumstance.seen_off = true;
                    circumstance.walk.order();
                }
                let walk = &mut circumstance.walk;
                let found = claim(ledger, now).await;
                assert_eq!(found.is_some(), walk.claim(now), "{op:?}");
                let Some(found) = found else { continue };
                assert_eq!(found.recheck.progress.looked_at, walk.looked_at, "{op:?}");
                if let Some(before) = walk.claim.replace(found) {
                    let late = ledger.settle_recheck(&before, Progress::default(), true).await;
                    assert_eq!(said(late), Err(name(&Refusal::ClaimLost)), "{op:?}");
                }
            }
            Op::Rechecked(done) => {
                let walk = &mut model.circumstance.walk;
                let Some(held) = &walk.claim else { continue };
                let progress = Progress {
                    looked_at: held.recheck.progress.looked_at + 1,
                    ..held.recheck.progress
                };
                let made = said(ledger.settle_recheck(held, progress, done).await);
                assert_eq!(made, walk.settle(progress.looked_at, done), "{op:?}");
            }
            Op::Cut(kind) => {
                let task = &model.tasks[usize::from(kind) % 3].0.charter;
                let selector = match kind {
                    0 => Selector::Agent(task.agent.clone()),
                    1 => Selector::Agent("somebody-else".parse().unwrap()),
                    _ => Selector::Task(task.id),
                };
                let cutoff = cutoff(selector, now, now);
                ledger.cut(&cutoff).await.unwrap();
                model.tell(&cutoff.selector);
                model.cutoffs.push(cutoff);
            }
        }
        assert_eq!(
            ledger.rechecks().await.unwrap().len(),
            usize::from(model.circumstance.walk.waits),
            "after {op:?}"
        );
        for (place, known) in model.leases.iter().enumerate() {
            let id = known.lease.id;
            assert_eq!(ledger.stored(id).await, known.lease, "after {op:?}");
            let live = said(ledger.live(id, now).await);
            assert_eq!(live, model.live(place, now), "after {op:?} at {now}");
        }
        for (task, _) in &model.tasks {
            assert_eq!(
                ledger.task(task.charter.id).await.unwrap().as_ref(),
                Some(task),
                "after {op:?}"
            );
            let mut below: Vec<_> = model.below(task.charter.id).into_iter().collect();
            below.sort_by_key(|place| model.tasks[*place].0.charter.id);
            let below: Vec<_> = below
                .into_iter()
                .map(|place| model.tasks[place].0.clone())
                .collect();
            let told = ledger.below(task.charter.id).await.unwrap();
            assert_eq!(told, below, "after {op:?}");
        }
    }
    let told: BTreeSet<_> = ledger
        .told()
        .await
        .iter()
        .map(|selector| format!("{selector:?}"))
        .collect();
    assert_eq!(told, model.told);
    let naming = ledger.naming().unwrap();
    for place in places {
        let entry = naming.entry(model.tasks[0].0.charter.id.slot(), place);
        let list = ledger.struck(place.hour, entry.list.part).await.unwrap();
        let status = StatusList::of_bits(list).get(entry.index).unwrap();
        assert_eq!(
            status != TokenStatus::Valid,
            model.struck.contains(&place),
            "{place:?}"
        );
    }
    let page = Page {
        after: None,
        limit: most(),
    };
    let mut all: Vec<_> = model.leases.into_iter().map(|known| known.lease).collect();
    all.sort_by_key(|lease| lease.id);
    assert_eq!(ledger.find(&Filter::default(), &page).await.unwrap(), all);
}

pub(super) async fn behaves_like_the_model<F: Fixture>(fixture: impl Fn() -> Option<F>) {
    if fixture().is_none() {
        return;
    }
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Handle::current();
    let run = || {
        TestRunner::new(config).run(&prop::collection::vec(op(), 1..60), |ops| {
            let fixture = fixture().unwrap(); // a new one for each life, because a ledger is empty once
            runtime.block_on(async { live(&fixture.ledger().await, &ops).await });
            Ok(())
        })
    };
    tokio::task::block_in_place(run).unwrap();
}
