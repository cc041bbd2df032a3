//! No orphan, whenever it dies: a process is stopped at each point where it waits while it issues,
//! renews, revokes and completes, on each ledger and with each provider; then another one goes on.
//! Whatever would still be taken outside has a live lease, and when all is settled nothing is.
//!
//! Each run visits `DAYFLY_TEST_DEATHS` deaths for each pair of ledger and provider, by default a few.

mod store;

use std::io::Write as _;
use std::sync::Arc;

use dayfly::model::ids::TaskId;
use dayfly::model::lease::Lease;
use dayfly::model::task::Outcome;
use tokio::runtime::Runtime;

use crate::contract::provider::Subject;
use crate::contract::provider::adapters::Jwt;
#[cfg(feature = "aws")]
use crate::contract::provider::aws::Sts;
#[cfg(feature = "postgres")]
use crate::contract::provider::postgres::Served;
#[cfg(feature = "vault")]
use crate::contract::provider::vault::Vault;
use crate::ground::{Ground, Process};
use crate::world::mortal::{Mortal, process};
use crate::world::receiver::Receiver;
use crate::world::vending::Vending;
use store::Store;

/// What a process does when it dies.
#[derive(Clone, Copy, Debug)]
enum Work {
    Issue,
    Renew,
    Revoke,
    Complete,
}

const WORKS: [Work; 4] = [Work::Issue, Work::Renew, Work::Revoke, Work::Complete];

/// More points than any work has.
const NEVER: usize = 100_000;

/// The most for a pair: each passes an hour, and the token that a Vault gives Dayfly lives for 32 days.
const MOST: usize = 600;

/// How many deaths a run visits for each pair of ledger and provider.
fn wanted() -> usize {
    #[expect(
        clippy::disallowed_methods,
        reason = "a long run is asked for from outside, like the servers"
    )]
    let wanted = std::env::var("DAYFLY_TEST_DEATHS").ok();
    wanted.map_or(60, |count| count.parse().unwrap()).min(MOST)
}

/// One life that ends at the `last` point of its work, or with it. `None` when it died; otherwise
/// whether the work was done.
fn live(store: &Store, ground: &Ground, work: Work, last: usize) -> Option<()> {
    process(async || {
        let process = store.start(ground).await;
        let task = process.open().await;
        let lease = match work {
            Work::Issue => None,
            _ => Some(process.issue(task).await),
        };
        Mortal::new(process.work(work, task, lease), last).await
    })
}

impl Process<'_> {
    async fn work(&self, work: Work, task: TaskId, lease: Option<Lease>) {
        match (work, lease) {
            (Work::Renew, Some(lease)) => self.renew(lease.id).await,
            (Work::Revoke, Some(lease)) => {
                self.revoke(lease.id).await;
                self.sweep().await;
            }
            (Work::Complete, Some(_)) => {
                self.complete(task, Outcome::Completed).await;
                self.sweep().await;
            }
            _ => drop(self.issue(task).await),
        }
    }
}

/// Dies at one point after the other until the work outlives its death, and begins anew.
fn die_everywhere<S: Subject + 'static>(store: Store, name: &str, subject: impl Future<Output = S>) {
    let kept = store.name();
    let outside = Runtime::new().unwrap();
    let subject = Arc::new(outside.block_on(subject));
    let ground = Ground::new(subject, outside.handle().clone());
    let (mut deaths, mut lives) = (0, 0);
    let wanted = wanted();
    while deaths < wanted {
        for work in WORKS {
            if matches!(work, Work::Renew) && !ground.promise().renewable {
                continue;
            }
            for last in 1..NEVER {
                let survived = live(&store, &ground, work, last).is_some();
                process(async || {
                    let at = format!("{}, died at {last}, survived: {survived}", work_name(work));
                    Box::pin(store.start(&ground).await.aftermath(&at)).await;
                });
                if survived {
                    lives += 1;
                    break;
                }
                deaths += 1;
            }
        }
    }
    let said = format!("{deaths} deaths ({lives} survivals) with {name} on {kept}: nothing left behind\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

fn work_name(work: Work) -> &'static str {
    match work {
        Work::Issue => "issue",
        Work::Renew => "renew",
        Work::Revoke => "revoke",
        Work::Complete => "complete",
    }
}

macro_rules! deaths {
    ($($(#[$only:meta])? $provider:ident: $subject:expr;)+) => {
        $($(#[$only])? mod $provider {
            use super::*;

            #[test]
            fn nothing_is_left_behind_on_the_embedded_ledger() {
                if let Some(subject) = $subject {
                    die_everywhere(Store::embedded(), stringify!($provider), subject);
                }
            }

            #[test]
            fn nothing_is_left_behind_on_redis() {
                if let (Some(store), Some(subject)) = (Store::redis(), $subject) {
                    die_everywhere(store, stringify!($provider), subject);
                }
            }
        })+
    };
}

deaths! {
    jwt: Some(async { Jwt::new() });
    vending: Some(async { Arc::new(Vending::default()) });
    webhook: Some(Receiver::start());
    #[cfg(feature = "postgres")]
    postgres: Served::new();
    #[cfg(feature = "aws")]
    aws: Some(Sts::new());
    #[cfg(feature = "aws")]
    aws_without_slot: Some(Sts::without_slot());
    #[cfg(feature = "vault")]
    vault: Some(Vault::database());
    #[cfg(feature = "vault")]
    vault_tokens: Some(Vault::token());
}
