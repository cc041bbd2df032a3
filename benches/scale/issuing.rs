//! Issuing: a lease is written down, and becomes active. Two steps, as for what is made outside.

use std::sync::Arc;
use std::time::Instant;

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ledger::{Budgets, Ledger};
use dayfly::model::fact::FactsVersion;
use dayfly::model::lease::{Lease, LeaseState};

use crate::leases;
use crate::table::{rate, rates, row, spread};

/// How often one is asked, and then the other.
const ROUNDS: usize = 5;

async fn one(ledger: Arc<dyn Ledger>, mut lease: Lease) {
    let handle = lease.handle.take().unwrap();
    lease.state = LeaseState::Reserved;
    let (none, facts) = (Budgets::default(), FactsVersion::default());
    ledger.reserve(&lease, &none, None, facts).await.unwrap();
    ledger
        .activate(lease.id, &handle, lease.expires_at)
        .await
        .unwrap();
}

/// How many are issued in a second, of so many for so many agents. Their tasks are there before.
pub(crate) async fn round(ledger: &Arc<dyn Ledger>, count: usize, agents: usize) -> f64 {
    let tasks = leases::open_tasks(&**ledger, SystemClock::new().now(), count, agents).await;
    let began = Instant::now();
    leases::each(ledger, tasks, count, one).await;
    rate(count, began.elapsed())
}

/// Asks two ledgers in turns, so that what else goes on is shared by both. The ratio is that of neighbouring rounds.
pub(crate) async fn in_turns(
    [one, other]: [&Arc<dyn Ledger>; 2],
    [called, other_called]: [&str; 2],
    count: usize,
    agents: usize,
) {
    let (mut rates_of_one, mut rates_of_other, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (a, b) = (round(one, count, agents).await, round(other, count, agents).await);
        rates_of_one.push(a);
        rates_of_other.push(b);
        ratios.push(b / a);
    }
    let how = format!(
        "reserved and activated, {} callers, {ROUNDS} rounds of {count} in turns",
        leases::CALLERS
    );
    row(&format!("issued, {called}"), rates(spread(rates_of_one)), &how);
    row(
        &format!("issued, {other_called}"),
        rates(spread(rates_of_other)),
        &how,
    );
    let [least, middle, most] = spread(ratios);
    row(
        &format!("issued, {other_called} to {called}"),
        format!("{middle:.2} ({least:.2} to {most:.2})"),
        "of neighbouring rounds",
    );
}
