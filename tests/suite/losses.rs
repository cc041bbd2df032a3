//! No orphan, whatever is lost: in the middle of the work of several agents the store of the ledger is
//! emptied or put back to an earlier state, at each point where something waits, on each ledger and with each
//! provider. Nothing is given out until it is recovered; a recovery is killed at each point where it waits, or
//! the ledger is lost once more there, and another recovery goes on. Then nothing is alive that the ledger does not know, nothing that ended is alive,
//! and all that left the house ends with a receipt.
//!
//! Each run visits `DAYFLY_TEST_LOSSES` losses for each pair of ledger and provider, by default a few.

mod house;
mod story;

use std::io::Write as _;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::contract::provider::Subject;
use crate::contract::provider::adapters::Jwt;
#[cfg(feature = "aws")]
use crate::contract::provider::aws::Sts;
#[cfg(feature = "postgres")]
use crate::contract::provider::postgres::Served;
#[cfg(feature = "vault")]
use crate::contract::provider::vault::Vault;
use crate::ground::Ground;
use crate::redis_servers::Server;
use crate::world::receiver::Receiver;
use crate::world::vending::Vending;
use house::{House, Loss};
use story::Story;

/// What becomes of the process whose store is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It goes on with its work, and waits for the recovery where it can.
    LivesOn,
    /// It dies at that point.
    Dies,
    /// The recovery comes and goes while it waits at one point.
    Sleeps,
}

const LOSSES: [Loss; 3] = [Loss::PutFarBack, Loss::Emptied, Loss::PutBack];
const FATES: [Fate; 3] = [Fate::LivesOn, Fate::Dies, Fate::Sleeps];
/// All of what can be combined: losses, fates, and two questions.
const COMBINATIONS: usize = 36;

/// The most for a pair: each passes more than an hour, and the token that a Vault gives Dayfly lives for 32 days.
const MOST: usize = 600;
/// How many losses a house sees. Each recovery reads the whole journal.
const LOSSES_OF_A_HOUSE: usize = 9;

/// How many losses a run visits for each pair of ledger and provider.
fn wanted() -> usize {
    #[expect(
        clippy::disallowed_methods,
        reason = "a long run is asked for from outside, like the servers"
    )]
    let wanted = std::env::var("DAYFLY_TEST_LOSSES").ok();
    wanted.map_or(9, |count| count.parse().unwrap()).min(MOST)
}

/// One loss.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// At which waiting of the work; after all of it when there are fewer.
    at: usize,
    loss: Loss,
    fate: Fate,
    /// Whether a task is opened after the copy was made, and not only leases.
    opens: bool,
    /// Whether what to remember of the ledger is kept after that.
    marks: bool,
    /// Whether the ledger is lost once more in the middle of the first recovery. Otherwise that dies.
    again: bool,
    /// How often a recovery waits, and at which waiting that happens.
    recovery_points: usize,
    recovery_dies_at: usize,
}

impl Plan {
    fn nth(number: usize, points: usize, recovery_points: usize) -> Self {
        // Far from each other, and each of them once in `points` losses.
        let turns = number + number / COMBINATIONS;
        let stride = (points * 5 / 8..)
            .find(|stride| gcd(*stride, points) == 1)
            .unwrap();
        Self {
            at: 1 + turns * stride % points,
            loss: LOSSES[number % 3],
            fate: FATES[number / 3 % 3],
            opens: (number / 9).is_multiple_of(2),
            marks: (number / 18).is_multiple_of(2),
            again: !number.is_multiple_of(2),
            recovery_points,
            recovery_dies_at: 1 + number * 5 % recovery_points,
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Loses the store at one point after the other.
fn lose_everywhere<S: Subject + 'static>(
    server: Option<Server>,
    name: &str,
    offset: usize,
    subject: impl Future<Output = S>,
) {
    let outside = Runtime::new().unwrap();
    let subject: Arc<dyn Subject> = Arc::new(outside.block_on(subject));
    let (mut points, mut recovery_points) = (40, 20);
    let (mut losses, mut now) = (0, subject.begins_at());
    let wanted = wanted();
    while losses < wanted {
        let ground = Ground::at(now, subject.clone(), outside.handle().clone());
        let house = House::new(ground, server.as_ref());
        for _ in 0..LOSSES_OF_A_HOUSE.min(wanted - losses) {
            let story = Story::of(&house, Plan::nth(offset + losses, points, recovery_points));
            story.tell();
            points = points.max(story.points.get());
            recovery_points = story.recovery_points.get().max(1);
            losses += 1;
        }
        now = house.ground.world().now();
    }
    let kept = if server.is_some() {
        "Redis"
    } else {
        "the embedded ledger"
    };
    let said = format!(
        "{losses} losses (of {points} points of the work, {recovery_points} of a recovery) with {name} on {kept}: \
         nothing left behind\n"
    );
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

/// A server of its own, to be emptied.
fn redis() -> Option<Server> {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(Server::start_with("save \"\"\nappendonly no\n", &[]))
}

macro_rules! losses {
    ($($(#[$only:meta])? $provider:ident, $offset:literal: $subject:expr;)+) => {
        $($(#[$only])? mod $provider {
            use super::*;

            #[test]
            fn nothing_is_left_behind_on_the_embedded_ledger() {
                if let Some(subject) = $subject {
                    lose_everywhere(None, stringify!($provider), $offset, subject);
                }
            }

            #[test]
            fn nothing_is_left_behind_on_redis() {
                if let (Some(server), Some(subject)) = (redis(), $subject) {
                    lose_everywhere(Some(server), stringify!($provider), $offset, subject);
                }
            }
        })+
    };
}

// Each begins elsewhere among the combinations, so that short runs together see all of them.
losses! {
    jwt, 0: Some(async { Jwt::new() });
    vending, 9: Some(async { Arc::new(Vending::default()) });
    webhook, 18: Some(Receiver::start());
    #[cfg(feature = "postgres")]
    postgres, 27: Served::new();
    #[cfg(feature = "aws")]
    aws, 0: Some(Sts::new());
    #[cfg(feature = "aws")]
    aws_without_slot, 9: Some(Sts::without_slot());
    #[cfg(feature = "vault")]
    vault, 18: Some(Vault::database());
    #[cfg(feature = "vault")]
    vault_tokens, 27: Some(Vault::token());
}
