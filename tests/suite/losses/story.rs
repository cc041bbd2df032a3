//! One loss: the work that it falls into, the quarantine, the recovery that dies and the one that does not,
//! and what is found afterwards.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::Duration;

use dayfly::app::recover::Outcome;
use dayfly::broker::error::BrokerError;
use dayfly::ledger::LedgerError;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::Ending;
use dayfly::model::task;

use super::house::{House, Loss};
use super::{Fate, Plan};
use crate::ground::{A_WHILE, Process};
use crate::world::mortal::{self, Beside, process};

/// How the ledger stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Whole,
    Lost,
    Recovered,
}

/// A loss that is under way.
pub(super) struct Story<'h, 's> {
    house: &'h House<'s>,
    plan: Plan,
    stage: Cell<Stage>,
    /// How often the work, and a recovery from its beginning to its end, waited.
    pub(super) points: Cell<usize>,
    pub(super) recovery_points: Cell<usize>,
}

/// What there is when the work begins.
struct Begun {
    task: TaskId,
    /// Its task ends in the middle of the work.
    other: TaskId,
    renewed: LeaseId,
}

impl<'h, 's> Story<'h, 's> {
    pub(super) fn of(house: &'h House<'s>, plan: Plan) -> Self {
        let mut plan = plan;
        if !house.can(plan.loss) {
            plan.loss = Loss::PutBack;
        }
        Self {
            house,
            plan,
            stage: Cell::new(Stage::Whole),
            points: Cell::new(0),
            recovery_points: Cell::new(plan.recovery_points),
        }
    }

    fn at(&self) -> String {
        format!("{:?}", self.plan)
    }

    pub(super) fn tell(&self) {
        let over = process(async || {
            let process = self.house.start().await;
            self.is_whole(&process);
            let begun = self.begin(&process).await;
            self.lose_in_the_middle(&process, &begun).await;
            if self.plan.fate == Fate::Dies || !self.house.is_shared() {
                return false;
            }
            if self.stage.get() == Stage::Lost {
                self.sit_out(&process).await;
            }
            self.settle(&process).await;
            true
        });
        if over {
            return;
        }
        let over = process(async || {
            let process = self.house.start().await;
            self.find_out(&process).await;
            if !self.house.is_shared() && self.stage.get() == Stage::Lost {
                return false;
            }
            if self.stage.get() == Stage::Lost {
                self.sit_out(&process).await;
            }
            self.settle(&process).await;
            true
        });
        if over {
            return;
        }
        process(async || self.recover_half().await);
        process(async || self.recover().await);
        process(async || {
            let process = self.house.start().await;
            self.settle(&process).await;
        });
    }

    fn is_whole(&self, process: &Process<'_>) {
        let quarantine = process.broker.quarantine();
        assert!(quarantine.is_none(), "{}: {quarantine:?}", self.at());
    }

    /// What there is, some of it before the copy and some after it.
    async fn begin(&self, process: &Process<'_>) -> Begun {
        let task = process.open().await;
        let early = process.issue(task).await.id;
        let renewed = process.issue(task).await.id;
        let over = process.issue(task).await.id;
        let mut other = process.open().await;
        process.revoke(over).await;
        process.sweep().await;
        self.house.keep_copy();
        if self.plan.opens {
            other = process.open().await;
        }
        process.issue(other).await;
        process.issue(task).await;
        process.revoke(early).await;
        process.sweep().await;
        if self.plan.marks {
            assert!(self.house.look(process).await, "{}", self.at());
        }
        // Less than what a request that was under way is thought to take, or more.
        let pause = if self.plan.at.is_multiple_of(2) { 30 } else { 90 };
        self.house.ground.pass(Duration::from_secs(pause)).await;
        Begun { task, other, renewed }
    }

    async fn lose_in_the_middle(&self, process: &Process<'_>, begun: &Begun) {
        let plan = self.plan;
        let happens = |waits: usize| {
            if waits == plan.at {
                self.lose();
                if plan.fate == Fate::Dies {
                    return ControlFlow::Break(());
                }
            }
            let sleeps = plan.fate == Fate::Sleeps && self.house.is_shared();
            if sleeps && waits == plan.at + plan.recovery_dies_at % 4 {
                std::thread::scope(|threads| {
                    let house = self.house;
                    let recovering = threads.spawn(|| mortal::process(async || house.recover().await));
                    // What was kept before the copy was made does not tell that anything is missing.
                    if matches!(recovering.join().unwrap().unwrap(), Outcome::Recovered(_)) {
                        self.stage.set(Stage::Recovered);
                    }
                });
            }
            ControlFlow::Continue(())
        };
        let (_, points) = Beside::new(self.work(process, begun), happens).await;
        self.points.set(points);
        if self.stage.get() == Stage::Whole {
            self.lose();
        }
    }

    fn lose(&self) {
        self.house.lose(self.plan.loss);
        self.stage.set(Stage::Lost);
    }

    /// Several agents at once, a reaper, and a look at the ledger.
    async fn work(&self, process: &Process<'_>, begun: &Begun) {
        let renewable = self.house.ground.promise().renewable;
        let later = async |turns: usize| {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        let whole_life = async {
            let task = match self.plan.opens {
                true => self.gives(process.try_open()).await?,
                false => begun.task,
            };
            let lease = self.gives(process.try_issue(task)).await?;
            if renewable {
                self.gives(process.try_renew(lease.id)).await?;
            }
            self.ends(process.try_revoke(lease.id)).await?;
            self.gives(process.try_issue(task)).await?;
            if self.plan.opens {
                let completed = task::Outcome::Completed;
                self.ends(process.try_complete(task, completed)).await?;
            }
            Some(())
        };
        let renewal = async {
            later(3).await;
            if renewable {
                self.gives(process.try_renew(begun.renewed)).await;
            }
            later(5).await;
            self.ends(process.try_revoke(begun.renewed)).await;
        };
        let many = async {
            later(1).await;
            for _ in 0..3 {
                self.gives(process.try_issue(begun.task)).await;
            }
        };
        let end = async {
            later(6).await;
            self.gives(process.try_issue(begun.other)).await;
            let failed = task::Outcome::Failed;
            self.ends(process.try_complete(begun.other, failed)).await;
        };
        let reaper = async {
            for _ in 0..4 {
                later(5).await;
                if let Err(error) = Box::pin(process.broker.sweep()).await {
                    panic!("{}: {error}", self.at());
                }
            }
        };
        let looks = async {
            later(9).await;
            if self.plan.marks {
                self.house.look(process).await;
            }
        };
        tokio::join!(whole_life, renewal, many, end, reaper, looks);
    }

    /// An order to give something out. Nothing fails before the loss, and nothing is given out of nothing.
    async fn gives<T>(&self, order: impl Future<Output = Result<T, BrokerError>>) -> Option<T> {
        let began = self.stage.get();
        let given = self.ends(order).await;
        // A part of what was put back may be as it was, until somebody looks at the whole.
        let nothing = self.plan.loss != Loss::PutBack && self.house.is_shared();
        let lost = (began, self.stage.get()) == (Stage::Lost, Stage::Lost);
        assert!(
            !(nothing && lost && given.is_some()),
            "{}: given out of nothing",
            self.at()
        );
        given
    }

    /// An order to end something.
    async fn ends<T>(&self, order: impl Future<Output = Result<T, BrokerError>>) -> Option<T> {
        let answer = order.await;
        match (answer, self.stage.get()) {
            (Ok(answer), _) => Some(answer),
            (Err(error), Stage::Whole) => panic!("{}: {error:?}", self.at()),
            (Err(_), _) => None,
        }
    }

    /// A process that starts finds the loss, unless so little was lost that nobody can tell it from what was
    /// under way: then what was under way has ended.
    async fn find_out(&self, process: &Process<'_>) {
        if process.broker.quarantine().is_some() {
            self.refuses(process).await;
            return;
        }
        let Plan {
            loss, opens, marks, ..
        } = self.plan;
        let little = loss == Loss::PutBack && !opens && !marks;
        assert!(little, "{}: not found out", self.at());
        if self.house.is_shared() {
            let outcome = self.house.recover().await.unwrap();
            assert!(matches!(outcome, Outcome::Whole), "{}: {outcome:?}", self.at());
        }
        self.stage.set(Stage::Recovered);
    }

    /// Ends, and gives nothing out.
    async fn refuses(&self, process: &Process<'_>) {
        assert!(process.broker.quarantine().is_some(), "{}", self.at());
        let opened = process.try_open().await;
        assert!(
            matches!(opened, Err(BrokerError::Ledger(LedgerError::Lost(_)))),
            "{}: {opened:?}",
            self.at()
        );
        process.sweep().await;
    }

    /// Waits in quarantine while one recovery dies and another one does it.
    async fn sit_out(&self, process: &Process<'_>) {
        let whole = self.house.look(process).await;
        assert!(!whole, "{}: not found out", self.at());
        let waits = async {
            loop {
                self.refuses(process).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::pin!(waits);
        tokio::select! {
            () = self.recover_half() => {}
            () = &mut waits => {}
        }
        tokio::select! {
            () = self.recover() => {}
            () = &mut waits => {}
        }
    }

    /// A recovery that dies, or in the middle of which the ledger is lost once more.
    async fn recover_half(&self) {
        let plan = self.plan;
        let happens = |waits| {
            if waits < plan.recovery_dies_at {
                return ControlFlow::Continue(());
            }
            if !plan.again {
                return ControlFlow::Break(());
            }
            if waits == plan.recovery_dies_at {
                // What was kept before the copy was made does not tell that anything is missing.
                let loss = if plan.marks { plan.loss } else { Loss::Emptied };
                self.house.lose(loss);
            }
            ControlFlow::Continue(())
        };
        // It may find out or not: another one has to come.
        drop(Beside::new(self.house.recover(), happens).await);
    }

    async fn recover(&self) {
        let recovering = Beside::new(self.house.recover(), |_| ControlFlow::Continue(()));
        let (outcome, points) = recovering.await;
        match outcome.unwrap().unwrap() {
            Outcome::Recovered(report) => {
                assert_eq!(report.unclear, 0, "{}: {report:?}", self.at());
                self.recovery_points.set(points);
            }
            // The one that died had done it.
            Outcome::Whole => {}
            damaged @ Outcome::Damaged(..) => panic!("{}: {damaged:?}", self.at()),
        }
        self.stage.set(Stage::Recovered);
    }

    /// All that was out ends, and the broker issues again.
    async fn settle(&self, process: &Process<'_>) {
        let (at, ground) = (self.at(), &self.house.ground);
        for _ in 0..2 {
            self.house.look(process).await;
        }
        self.is_whole(process);
        process.nothing_lives_that_should_not(&at).await;
        process.sweep().await;
        // What somebody was at who died is theirs for a while.
        ground.pass(A_WHILE).await;
        process.sweep().await;
        if ground.promise().ending != Ending::AtExpiry {
            let living = process.living().await;
            assert!(living.is_empty(), "{at}: still alive: {living:?}");
        }
        let task = process.open().await;
        process.issue(task).await;
        process.complete(task, task::Outcome::Completed).await;
        Box::pin(process.aftermath(&at)).await;
        process.have_receipts(&ground.take_left(), &at).await;
    }
}
