//! What was claimed and is under way: what runs at the providers, and what they have ended and is recorded and settled.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ledger::rules::MANY_DUE;
use crate::ledger::{Claim, LeaseClaim, LedgerError};

use super::super::Broker;
use super::lanes::{Lanes, Waiting, Whose};
use super::proved::{self, Proved};
use super::{Done, Sweep};

/// How long the reaper rests at a time while a provider has more to end than it can.
const CROWDED: Duration = Duration::from_millis(20);
/// How often it does so though there will not soon be room.
const IN_VAIN: usize = 5;
/// How often those who wait for receipts are told at most.
const TELL: Duration = Duration::from_millis(20);

/// What was claimed and is worked on.
pub(super) struct Work<'b> {
    broker: &'b Broker,
    lanes: Lanes,
    running: FuturesUnordered<BoxFuture<'b, (Option<Whose>, Done)>>,
    /// What waits to be recorded and settled, and what is.
    proved: VecDeque<Proved>,
    closing: FuturesUnordered<BoxFuture<'b, Vec<Done>>>,
    side_by_side: usize,
    did: Sweep,
    /// When those who wait for receipts were told, and whether there is news since.
    told: Instant,
    news: bool,
}

impl<'b> Work<'b> {
    pub(super) fn new(broker: &'b Broker) -> Self {
        let settings = &broker.parts.settings.reaper;
        Self {
            broker,
            lanes: Lanes::new(settings.concurrency.get(), settings.batch.get()),
            running: FuturesUnordered::new(),
            proved: VecDeque::new(),
            closing: FuturesUnordered::new(),
            side_by_side: proved::side_by_side(),
            did: Sweep::default(),
            told: Instant::now(),
            news: false,
        }
    }

    /// Claims what is due and queues it, working meanwhile. Answers whether there may be more.
    pub(super) async fn claim(&mut self) -> Result<bool, LedgerError> {
        let broker = self.broker;
        let settings = &broker.parts.settings.reaper;
        let claiming = broker
            .parts
            .ledger
            .claim_due(broker.now(), settings.hold, settings.batch);
        let claims = self.alongside(claiming).await;
        self.tell();
        let claims = claims?;
        let full = claims.len() >= settings.batch.get().min(MANY_DUE);
        self.did.claimed += claims.len();
        let now = Instant::now();
        for claim in claims {
            if let Err(over) = self.lanes.put(claim, now) {
                self.put_off(over);
            }
        }
        Ok(full)
    }

    /// What its lane has no room for comes again soon, so that what is due elsewhere is reached.
    fn put_off(&mut self, claim: Box<LeaseClaim>) {
        let broker = self.broker;
        let pause = broker.jitter(broker.parts.settings.reaper.first_retry) + CROWDED;
        let putting = async move { (None, broker.put_off(&claim, pause).await) };
        self.running.push(Box::pin(putting));
    }

    /// Rests while some lane has no room for what the next claim may bring, since to give that back is work for nothing:
    /// as long as there will soon be room, or what was ended is what keeps the next from its provider; and otherwise not
    /// for long, so that what is due elsewhere is reached.
    pub(super) async fn make_room(&mut self, stop: &CancellationToken) {
        let soon = self.broker.parts.settings.reaper.batch.get().div_ceil(8);
        let mut in_vain = 0;
        while in_vain < IN_VAIN && self.lanes.is_crowded() {
            let before = self.lanes.longest();
            let rest = async {
                tokio::select! {
                    () = stop.cancelled() => true,
                    () = tokio::time::sleep(CROWDED) => false,
                }
            };
            if self.alongside(rest).await {
                return;
            }
            let moved = before.saturating_sub(self.lanes.longest());
            if moved < soon && self.proved.len() < proved::WAITING {
                in_vain += 1;
            }
        }
    }

    /// Works until the other thing is done.
    pub(super) async fn alongside<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            self.start();
            tokio::select! {
                biased;
                answer = &mut other => return answer,
                Some(ended) = self.running.next() => self.worked(ended),
                Some(group) = self.closing.next() => self.over(group),
            }
        }
    }

    /// Whether there may be no room for what the next claim brings.
    pub(super) fn is_crowded(&self) -> bool {
        self.lanes.is_crowded()
    }

    /// Works until nothing is left, and tells what was done.
    pub(super) async fn finish(&mut self) -> Sweep {
        loop {
            self.start();
            tokio::select! {
                biased;
                Some(ended) = self.running.next() => self.worked(ended),
                Some(group) = self.closing.next() => self.over(group),
                else => break,
            }
        }
        self.tell();
        self.did
    }

    /// Gives back what waits, for another replica, and ends what is under way.
    pub(super) async fn hand_back(mut self) {
        let broker = self.broker;
        for Waiting { claim, .. } in self.lanes.clear() {
            if let Claim::Lease(claim) = claim {
                let giving = async move { (None, broker.put_off(&claim, Duration::ZERO).await) };
                self.running.push(Box::pin(giving));
            }
        }
        self.finish().await;
    }

    /// Starts all that may run now.
    fn start(&mut self) {
        let broker = self.broker;
        while !self.proved.is_empty() && self.closing.len() < self.side_by_side {
            let some = self.proved.len().min(proved::GROUP);
            let group = self.proved.drain(..some).collect();
            self.closing.push(Box::pin(broker.close(group)));
        }
        let patience = broker.parts.settings.reaper.hold / 2;
        // A journal or a ledger that is slow holds up what would come to it.
        while self.proved.len() < proved::WAITING
            && let Some((whose, waiting)) = self.lanes.take()
        {
            let stale = waiting.since.elapsed() > patience;
            let work = async move {
                let done = match waiting.claim {
                    // The hold is about to run out, and another replica to come.
                    Claim::Lease(claim) if stale => broker.put_off(&claim, Duration::ZERO).await,
                    claim => broker.work(claim).await,
                };
                (Some(whose), done)
            };
            self.running.push(Box::pin(work));
        }
    }

    fn worked(&mut self, (whose, done): (Option<Whose>, Done)) {
        if let Some(whose) = whose {
            self.lanes.done(&whose);
        }
        match done {
            Done::Proved(proved) => self.proved.push_back(*proved),
            done => self.over(vec![done]),
        }
    }

    fn over(&mut self, group: Vec<Done>) {
        group.into_iter().for_each(|done| self.count(&done));
        self.news = true;
        if self.told.elapsed() >= TELL || (self.running.is_empty() && self.closing.is_empty()) {
            self.tell();
        }
    }

    fn count(&mut self, done: &Done) {
        match done {
            Done::Ended => self.did.ended += 1,
            Done::Retried => self.did.retried += 1,
            Done::PutOff => self.did.put_off += 1,
            Done::Stuck => self.did.stuck += 1,
            Done::Task => self.did.tasks += 1,
            Done::Proved(_) | Done::Left => {}
        }
    }

    fn tell(&mut self) {
        if std::mem::take(&mut self.news) {
            self.told = Instant::now();
            self.broker.settled.notify_waiters();
        }
    }
}
