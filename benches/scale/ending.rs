//! What falls due and what is ordered to end, by the steps of the ledger that the broker takes for it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly::broker::reaper;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::ledger::{Claim, Filter, LeaseClaim, Ledger, Page, Settlement};
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::{Cause, Receipt, ReceiptSignature};
use dayfly::model::time::Timestamp;
use futures_util::StreamExt as _;
use futures_util::stream;

use crate::table::{rate, row};

/// How many ends the reaper settles together, and how many such groups at a time.
const GROUP: usize = 256;
const SIDE_BY_SIDE: usize = 3;

/// The first of those that were filled in end, all at the same time, as many as that.
pub(crate) async fn by_time(ledger: &dyn Ledger, filled_at: Timestamp, count: usize) {
    // Ten are issued in a millisecond, for an hour.
    let after = Duration::from_millis(u64::try_from(count / 10).unwrap());
    let now = filled_at.plus(Duration::from_secs(3600) + after);
    let began = Instant::now();
    let claims = claim(ledger, now).await;
    let took = began.elapsed();
    assert!(claims.len() >= count, "only {} were due", claims.len());
    let settings = reaper::Settings::default();
    row(
        "leases due, claimed",
        format!("{:.0} a second", rate(claims.len(), took)),
        &format!("{}, up to {} at a time", claims.len(), settings.batch),
    );
    let expired = |claim: &LeaseClaim| Receipt::ExpiresAt {
        at: claim.lease.expires_at,
    };
    let many = claims.len();
    let settled = settle(ledger, claims, expired, now).await;
    row(
        "leases due, settled",
        format!("{:.0} a second", rate(many, settled)),
        &format!("the same, {GROUP} at a time and {SIDE_BY_SIDE} times so many at once"),
    );
    row(
        "leases due, ended",
        format!("{:.0} a second", rate(many, took + settled)),
        "both, one after the other",
    );
}

/// An order ends as many of those for a tool, as tokens end: nothing is to be done outside.
pub(crate) async fn by_order(ledger: &Arc<dyn Ledger>, count: usize) {
    let pages = live(&**ledger, count).await;
    let now = SystemClock::new().now();
    let began = Instant::now();
    let mut turned = 0;
    for page in &pages {
        turned += ledger.revoke_all(page, Cause::Cutoff, now).await.unwrap();
    }
    let took = began.elapsed();
    row(
        "leases revoked: turned by `revoke_all`",
        format!("{:.0} a second", rate(turned, took)),
        &format!("{turned}, {} at a time, found before", Page::MOST),
    );
    let began = Instant::now();
    let claims = claim(&**ledger, now).await;
    let claimed = began.elapsed();
    assert_eq!(claims.len(), turned);
    let denied = |_: &LeaseClaim| Receipt::DeniedAt { at: now };
    let settled = settle(&**ledger, claims, denied, now).await;
    row(
        "leases revoked: ended, to `settle_all`",
        format!("{:.0} a second", rate(turned, took + claimed + settled)),
        "the same tokens turned, claimed and settled, one after the other",
    );
}

/// Pages of live leases for one tool, as the broker walks over them.
async fn live(ledger: &dyn Ledger, count: usize) -> Vec<Vec<LeaseId>> {
    let filter = Filter {
        tool: Some("tool-3".parse().unwrap()),
        live: true,
        ..Filter::default()
    };
    let mut page = Page {
        after: None,
        limit: NonZeroUsize::new(Page::MOST).unwrap(),
    };
    let mut pages = Vec::new();
    for _ in 0..count.div_ceil(Page::MOST) {
        let found = ledger.find(&filter, &page).await.unwrap();
        page.after = found.last().map(|lease| lease.id);
        pages.push(found.into_iter().map(|lease| lease.id).collect());
    }
    pages
}

/// Claims what is due by then, as the reaper does it.
async fn claim(ledger: &dyn Ledger, now: Timestamp) -> Vec<LeaseClaim> {
    let reaper::Settings { batch, hold, .. } = reaper::Settings::default();
    let mut claims = Vec::new();
    loop {
        let some = ledger.claim_due(now, hold, batch).await.unwrap();
        if some.is_empty() {
            return claims;
        }
        claims.extend(some.into_iter().filter_map(|claim| match claim {
            Claim::Lease(claim) => Some(*claim),
            Claim::Task(..) => None,
        }));
    }
}

/// Settles these, with that proof, in groups as the reaper does it.
async fn settle(
    ledger: &dyn Ledger,
    claims: Vec<LeaseClaim>,
    proof: impl Fn(&LeaseClaim) -> Receipt,
    now: Timestamp,
) -> Duration {
    let signature = ReceiptSignature {
        issuer: "https://dayfly.example.org".to_owned(),
        key: [7; 4],
        bytes: Box::new([7; 64]),
    };
    let mut words: Vec<(LeaseClaim, Settlement)> = claims
        .into_iter()
        .map(|claim| {
            let ended = Settlement::Ended(proof(&claim), signature.clone());
            (claim, ended)
        })
        .collect();
    let mut groups = Vec::new();
    while !words.is_empty() {
        groups.push(words.split_off(words.len().saturating_sub(GROUP)));
    }
    let began = Instant::now();
    let mut answers = stream::iter(&groups)
        .map(|group| ledger.settle_all(group, now))
        .buffer_unordered(SIDE_BY_SIDE);
    while let Some(answers) = answers.next().await {
        for answer in answers {
            answer.unwrap();
        }
    }
    began.elapsed()
}
