//! Facts and the version that they have, rechecks and who works at them, earlier ends, and marks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dayfly::ledger::context::{MOST_RECHECKS, RecheckClaim, Stated, Statements};
use dayfly::ledger::lineage::{Loss, Writer};
use dayfly::ledger::{Filter, Ledger, LedgerError, Page, Refusal, Renewal, rules};
use dayfly::model::cutoff::Selector;
use dayfly::model::decision::Revision;
use dayfly::model::fact::{Fact, FactsVersion, MOST_OF_ONE};
use dayfly::model::ids::Slot;
use dayfly::model::lease::{Cause, Curtailed, Handle, Lease, LeaseState, VouchingKey};
use dayfly::model::recheck::{Progress, Recheck, Work};
use dayfly::model::time::Timestamp;
use tokio::task::JoinSet;

use super::losses::{epoch, lost};
use super::{
    HOLD, NO_FACTS, RETENTION, START, Shorthand as _, UNLIMITED, active_at, at, cutoff, lease_at, most,
    refusal, secs, task_in, until,
};

type Subject = Arc<dyn Ledger>;

/// That the risk of the agent of the tests is so, since so long after the beginning; nothing takes it back.
pub(super) fn risk(value: &str, since: u64) -> Fact {
    Fact {
        about: "agent/support-bot".parse().unwrap(),
        name: "risk".parse().unwrap(),
        value: (!value.is_empty()).then(|| value.parse().unwrap()),
        source: "idp".parse().unwrap(),
        at: at(since),
        expires_at: None,
    }
}

fn about(subject: &str, name: &str, value: &str) -> Fact {
    Fact {
        about: subject.parse().unwrap(),
        name: name.parse().unwrap(),
        ..risk(value, 1)
    }
}

fn revision(name: &str) -> Revision {
    Revision(name.into())
}

/// States something that is news.
pub(super) async fn new(ledger: &Subject, fact: &Fact, now: Timestamp) -> FactsVersion {
    match ledger.state(fact, "because", now).await.unwrap() {
        Stated::New(version) => version,
        other => panic!("{other:?}: {fact:?}"),
    }
}

async fn since(ledger: &Subject, version: FactsVersion) -> Statements {
    ledger.facts(version, Duration::ZERO).await.unwrap()
}

fn decide(whom: Selector, by: Option<&str>) -> Recheck {
    Recheck {
        whom,
        work: Work::Decide {
            revision: by.map(revision),
        },
        why: "because".to_owned(),
        ordered_at: at(1),
        progress: Progress::default(),
    }
}

fn cut(whom: Selector, up_to: Timestamp) -> Recheck {
    Recheck {
        work: Work::Cut {
            cutoff: cutoff(whom.clone(), up_to, at(1)),
        },
        ..decide(whom, None)
    }
}

fn because(why: &str, recheck: Recheck) -> Recheck {
    Recheck {
        why: why.to_owned(),
        ordered_at: at(2),
        ..recheck
    }
}

fn agent(name: &str) -> Selector {
    Selector::Agent(name.parse().unwrap())
}

fn tool(name: &str) -> Selector {
    Selector::Tool(name.parse().unwrap())
}

/// What somebody with revision `r1` gets.
pub(super) async fn claim(ledger: &Subject, now: Timestamp) -> Option<RecheckClaim> {
    ledger.claim_recheck(now, HOLD, &revision("r1")).await.unwrap()
}

/// Whom the rechecks that wait are about, each claimed and done, in that order.
async fn drained(ledger: &Subject, now: Timestamp) -> Vec<Selector> {
    let mut whom = Vec::new();
    while let Some(claim) = claim(ledger, now).await {
        whom.push(claim.recheck.whom.clone());
        ledger
            .settle_recheck(&claim, Progress::default(), true)
            .await
            .unwrap();
    }
    whom
}

async fn waiting(ledger: &Subject) -> Vec<Recheck> {
    ledger.rechecks().await.unwrap()
}

fn looked_at(count: u64) -> Progress {
    Progress {
        looked_at: count,
        ..Progress::default()
    }
}

// Facts

pub(super) async fn the_later_statement_stands(ledger: Subject) {
    assert_eq!(since(&ledger, NO_FACTS).await, Statements::default());
    let high = risk("high", 10);
    let one = new(&ledger, &high, at(11)).await;
    let told = since(&ledger, NO_FACTS).await;
    assert_eq!((&told.stated, told.version), (&vec![high], one));
    let say = async |value, at_, now| ledger.state(&risk(value, at_), "because", now).await.unwrap();
    assert_eq!(say("low", 5, at(12)).await, Stated::Superseded);
    assert_eq!(say("high", 20, at(20)).await, Stated::Unchanged);
    assert_eq!(
        say("low", 15, at(21)).await,
        Stated::Superseded,
        "it was so since"
    );
    assert_eq!(since(&ledger, one).await.version, one, "nothing of it is news");

    let two = new(&ledger, &risk("low", 20), at(22)).await;
    assert!(two > one, "of two since the same instant the one that came later");
    let back = risk("", 25);
    let three = new(&ledger, &back, at(26)).await;
    assert_eq!(say("critical", 24, at(27)).await, Stated::Superseded);
    assert_eq!(say("", 28, at(28)).await, Stated::Unchanged);
    let told = since(&ledger, one).await;
    assert_eq!((told.version, told.afresh), (three, false));
    assert_eq!(told.stated.len(), 1, "one statement stands about each name");
    assert_eq!(told.stated[0].value, None);
    assert_eq!(since(&ledger, three).await.stated, []);
}

/// Many brokers say at once what they heard in whatever order.
pub(super) async fn the_latest_of_many_statements_stands_in_whatever_order_they_come(ledger: Subject) {
    let mut saying = JoinSet::new();
    for number in 0..40 {
        let (ledger, fact) = (
            Arc::clone(&ledger),
            risk(&format!("level-{number}"), number * 7 % 40),
        );
        saying.spawn(async move { ledger.state(&fact, "because", at(50)).await.unwrap() });
    }
    saying.join_all().await;
    let told = since(&ledger, NO_FACTS).await;
    let latest = (0..40).find(|number| number * 7 % 40 == 39).unwrap();
    assert_eq!(told.stated, [risk(&format!("level-{latest}"), 39)]);
    assert_eq!(drained(&ledger, at(51)).await, [agent("support-bot")]);
}

pub(super) async fn facts_are_told_in_their_order(ledger: Subject) {
    let first = new(&ledger, &about("tool/crm", "incident", "open"), at(1)).await;
    let mut expected = Vec::new();
    for number in 0..600 {
        let fact = about(&format!("user/user-{number}"), "risk", "high");
        new(&ledger, &fact, at(2)).await;
        expected.push(fact);
    }
    let told = since(&ledger, first).await;
    assert_eq!((told.stated, told.afresh), (expected, false));
    assert_eq!(since(&ledger, NO_FACTS).await.stated.len(), 601);
}

pub(super) async fn whoever_knows_another_ledger_begins_afresh(ledger: Subject) {
    let one = new(&ledger, &risk("high", 1), at(2)).await;
    new(&ledger, &about("tool/crm", "incident", "open"), at(3)).await;
    let beyond = FactsVersion(one.0 + 100_000);
    for strange in [FactsVersion(1), FactsVersion(one.0 - 1000), beyond] {
        let told = since(&ledger, strange).await;
        assert_eq!((told.stated.len(), told.afresh), (2, true), "{strange:?}");
    }
    let known = since(&ledger, one).await;
    assert_eq!((known.stated.len(), known.afresh), (1, false));

    // A recovery may have gone back behind what somebody knows.
    ledger.condemn(Loss::RolledBack).await.unwrap();
    ledger.begin_epoch(epoch(2), &[Writer(0)].into()).await.unwrap();
    ledger.rejoin().await.unwrap();
    new(&ledger, &risk("low", 4), at(4)).await;
    let told = since(&ledger, known.version).await;
    assert_eq!((told.stated.len(), told.afresh), (2, true));
}

pub(super) async fn waiting_for_facts_ends_when_something_is_stated(ledger: Subject) {
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let ledger = Arc::clone(&ledger);
        waiting.spawn(async move { ledger.facts(NO_FACTS, secs(120)).await.unwrap() });
    }
    tokio::task::yield_now().await;
    new(&ledger, &risk("high", 1), at(1)).await;
    let told = tokio::time::timeout(secs(20), waiting.join_all()).await;
    for told in told.expect("they were told") {
        assert_eq!(told.stated, [risk("high", 1)]);
    }
    let version = since(&ledger, NO_FACTS).await.version;
    let told = ledger.facts(version, Duration::from_millis(20)).await.unwrap();
    assert_eq!((told.stated.len(), told.version), (0, version));
}

pub(super) async fn nothing_is_given_out_on_facts_of_before(ledger: Subject) {
    let mut tasks = Vec::new();
    for slot in [1, 2, 900, 4000] {
        tasks.push(ledger.opened(task_in(Slot::new(slot), START)).await);
    }
    let leases: Vec<Lease> = tasks.iter().map(|task| active_at(task, at(1))).collect();
    for lease in &leases {
        ledger.hold(lease.clone()).await;
    }
    let version = new(&ledger, &risk("high", 2), at(2)).await;
    for (task, held) in tasks.iter().zip(&leases) {
        let reserve = async |facts| {
            ledger
                .reserve(&active_at(task, at(3)), &UNLIMITED, None, facts)
                .await
        };
        let before = FactsVersion(version.0 - 1);
        assert_eq!(refusal(reserve(before).await), Refusal::StaleFacts);
        assert_eq!(refusal(reserve(NO_FACTS).await), Refusal::StaleFacts);
        reserve(version).await.unwrap();
        reserve(FactsVersion(version.0 + 1)).await.unwrap();
        let terms = |facts| Renewal { facts, ..until(400) };
        let renewed = ledger.renew(held.id, terms(before), at(3)).await;
        assert_eq!(refusal(renewed), Refusal::StaleFacts);
        ledger.renew(held.id, terms(version), at(3)).await.unwrap();
        ledger.live(held.id, at(3)).await.unwrap();
    }
    let same = ledger.state(&risk("high", 5), "because", at(5)).await.unwrap();
    assert_eq!(same, Stated::Unchanged);
    let lease = active_at(&tasks[0], at(6));
    ledger.reserve(&lease, &UNLIMITED, None, version).await.unwrap();
}

/// Whatever is reserved while something is stated, from the answer on nothing is on facts of before, and
/// what was reserved until then is found.
pub(super) async fn a_statement_divides_what_was_decided_before_it_from_what_was_after(ledger: Subject) {
    let stated = Arc::new(AtomicBool::new(false));
    let mut reserving = JoinSet::new();
    for number in 0..16 {
        let (ledger, stated) = (Arc::clone(&ledger), Arc::clone(&stated));
        reserving.spawn(async move {
            let task = ledger.opened(task_in(Slot::new(number * 251), START)).await;
            let mut made = Vec::new();
            for second in 1..60 {
                let after = stated.load(Ordering::SeqCst);
                let lease = active_at(&task, at(second));
                match ledger.reserve(&lease, &UNLIMITED, None, NO_FACTS).await {
                    Ok(_) => {
                        assert!(!after, "reserved after the answer");
                        made.push(lease.id);
                    }
                    refused => {
                        assert_eq!(refusal(refused), Refusal::StaleFacts);
                        break;
                    }
                }
            }
            made
        });
    }
    tokio::task::yield_now().await;
    new(&ledger, &risk("high", 1), at(1)).await;
    stated.store(true, Ordering::SeqCst);
    let page = Page {
        after: None,
        limit: most(),
    };
    let agents = Filter::of(&agent("support-bot"));
    let mut found = Vec::new();
    let mut next = page;
    loop {
        let leases = ledger.find(&agents, &next).await.unwrap();
        found.extend(leases.iter().map(|lease| lease.id));
        match leases.last() {
            Some(last) => next.after = Some(last.id),
            None => break,
        }
    }
    for made in reserving.join_all().await.into_iter().flatten() {
        assert!(found.contains(&made), "{made}");
    }
}

pub(super) async fn a_statement_orders_that_its_subject_is_decided_anew(ledger: Subject) {
    new(&ledger, &risk("high", 10), at(11)).await;
    let order = claim(&ledger, at(12)).await.unwrap();
    let expected = Recheck {
        whom: agent("support-bot"),
        ordered_at: at(11),
        ..decide(Selector::All, None)
    };
    assert_eq!(order.recheck, expected);
    ledger
        .settle_recheck(&order, Progress::default(), true)
        .await
        .unwrap();

    let say = async |fact: &Fact| ledger.state(fact, "because", at(20)).await.unwrap();
    assert_eq!(say(&risk("high", 15)).await, Stated::Unchanged);
    assert_eq!(say(&risk("low", 5)).await, Stated::Superseded);
    let for_now = Fact {
        expires_at: Some(at(400)),
        ..risk("high", 16)
    };
    let told = new(&ledger, &for_now, at(20)).await;
    assert_eq!(
        since(&ledger, NO_FACTS).await.stated,
        [for_now],
        "until when is news"
    );
    assert_eq!(waiting(&ledger).await, [], "and no reason to decide anew");

    new(&ledger, &risk("", 17), at(21)).await;
    for subject in [
        "tool/crm",
        "user/user-1",
        "environment/production",
        "task/tsk_01m80z50ste03r000000000t8q",
    ] {
        new(&ledger, &about(subject, "incident", "open"), at(22)).await;
    }
    let whom = drained(&ledger, at(23)).await;
    assert_eq!(
        whom[..3],
        [
            agent("support-bot"),
            tool("crm"),
            Selector::User("user-1".parse().unwrap())
        ]
    );
    assert_eq!(whom[3], Selector::Environment("production".parse().unwrap()));
    assert!(matches!(whom[4], Selector::Task(_)));
    assert!(told > NO_FACTS);
}

pub(super) async fn a_fact_that_expires_is_a_reason_to_decide_anew(ledger: Subject) {
    let until_60 = Fact {
        expires_at: Some(at(60)),
        ..risk("high", 10)
    };
    let version = new(&ledger, &until_60, at(11)).await;
    assert_eq!(drained(&ledger, at(59)).await, [agent("support-bot")]);
    let order = claim(&ledger, at(60)).await.unwrap();
    assert_eq!(
        (order.recheck.whom.clone(), order.recheck.ordered_at),
        (agent("support-bot"), at(60))
    );
    assert_eq!(order.recheck.why, "agent/support-bot risk=high expired");
    ledger
        .settle_recheck(&order, Progress::default(), true)
        .await
        .unwrap();
    assert_eq!(drained(&ledger, at(61)).await, [], "once");
    assert_eq!(since(&ledger, version).await.stated, [], "everybody knew");
    assert_eq!(
        ledger.state(&risk("low", 9), "because", at(62)).await.unwrap(),
        Stated::Superseded,
        "it still holds against what was before"
    );

    // One that nobody saw off before something else was stated.
    let until_90 = Fact {
        expires_at: Some(at(90)),
        ..risk("high", 70)
    };
    new(&ledger, &until_90, at(70)).await;
    assert_eq!(drained(&ledger, at(80)).await.len(), 1);
    let back = ledger.state(&risk("", 91), "because", at(91)).await.unwrap();
    assert_eq!(back, Stated::Unchanged, "it was not so any more");
    assert_eq!(drained(&ledger, at(92)).await, [agent("support-bot")]);
}

pub(super) async fn what_was_taken_back_is_forgotten_after_the_retention(ledger: Subject) {
    let one = new(&ledger, &risk("high", 10), at(10)).await;
    let two = new(&ledger, &about("tool/crm", "incident", "open"), at(10)).await;
    new(&ledger, &risk("", 20), at(20)).await;
    drained(&ledger, at(21)).await;
    let late = at(20).plus(RETENTION);
    assert_eq!(drained(&ledger, late.minus(secs(1))).await, []);
    let before = ledger.state(&risk("low", 15), "because", late).await.unwrap();
    assert_eq!(before, Stated::Superseded);
    assert_eq!(since(&ledger, two).await.stated.len(), 1);

    assert_eq!(drained(&ledger, late).await, []);
    for known in [one, two] {
        let told = since(&ledger, known).await;
        assert!(
            told.afresh,
            "who has not heard that it was taken back does not hear it any more"
        );
        assert_eq!(told.stated, [about("tool/crm", "incident", "open")]);
    }
    new(&ledger, &risk("low", 15), late).await;
}

pub(super) async fn one_subject_has_so_many_facts_and_no_more(ledger: Subject) {
    let fact = |number: usize, value: &str| about("agent/support-bot", &format!("fact-{number}"), value);
    for number in 0..MOST_OF_ONE {
        new(&ledger, &fact(number, "a"), at(1)).await;
    }
    let before = since(&ledger, NO_FACTS).await.version;
    let say = async |fact: &Fact, now| ledger.state(fact, "because", now).await;
    let more = fact(MOST_OF_ONE, "a");
    assert_eq!(refusal(say(&more, at(2)).await), Refusal::TooManyFacts);
    assert_eq!(since(&ledger, before).await.version, before, "it left no trace");
    new(&ledger, &fact(3, "b"), at(3)).await;
    new(&ledger, &about("agent/report-bot", "risk", "high"), at(3)).await;
    new(&ledger, &fact(3, ""), at(4)).await;
    new(&ledger, &more, at(5)).await;
    assert_eq!(refusal(say(&fact(3, "c"), at(6)).await), Refusal::TooManyFacts);

    let for_now = Fact {
        expires_at: Some(at(60)),
        ..fact(5, "a")
    };
    new(&ledger, &for_now, at(7)).await;
    drained(&ledger, at(60)).await;
    new(&ledger, &fact(3, "c"), at(61)).await;
}

// Rechecks

pub(super) async fn ends_come_before_decisions_and_then_who_has_waited_longest(ledger: Subject) {
    let distrust = Recheck {
        work: Work::Distrust {
            key: VouchingKey([1; 8]),
        },
        ..decide(Selector::All, None)
    };
    let orders = [
        decide(agent("a"), None),
        decide(tool("b"), None),
        distrust,
        cut(agent("a"), at(1)),
    ];
    for order in &orders {
        ledger.order_recheck(order).await.unwrap();
    }
    let [first, second, third, fourth] = orders;
    let expected = [third.clone(), fourth.clone(), first.clone(), second.clone()];
    assert_eq!(waiting(&ledger).await, expected);
    for order in [&third, &fourth, &first] {
        let claim = claim(&ledger, at(2)).await.unwrap();
        assert_eq!(claim.recheck, *order);
        let ended = claim.recheck.work.is_urgent();
        ledger.settle_recheck(&claim, looked_at(5), ended).await.unwrap();
    }
    let next = claim(&ledger, at(3)).await.unwrap();
    assert_eq!(next.recheck, second, "who was at it goes behind the others");
    ledger.settle_recheck(&next, looked_at(9), true).await.unwrap();
    let again = claim(&ledger, at(3)).await.unwrap();
    assert_eq!(
        again.recheck.progress,
        looked_at(5),
        "and goes on from where it was"
    );
    ledger.settle_recheck(&again, looked_at(9), true).await.unwrap();
    let twice = ledger.settle_recheck(&again, looked_at(9), true).await;
    assert_eq!(refusal(twice), Refusal::ClaimLost);
    assert_eq!(claim(&ledger, at(4)).await, None);
    assert_eq!(waiting(&ledger).await, []);
}

pub(super) async fn decisions_have_their_turn_in_a_stream_of_ends(ledger: Subject) {
    const NONE: [usize; 0] = [];
    /// Of so many claims, each settled, the numbers of those that were decisions. Two more ends come before each.
    async fn decisions(ledger: &Subject, day: &str, claims: usize) -> Vec<usize> {
        let mut decisions = Vec::new();
        for number in 0..claims {
            for user in ["one", "other"] {
                let whom = Selector::User(format!("{user}-{day}-{number}").parse().unwrap());
                ledger.order_recheck(&cut(whom, at(1))).await.unwrap();
            }
            let claim = claim(ledger, at(2)).await.unwrap();
            let urgent = claim.recheck.work.is_urgent();
            if !urgent {
                decisions.push(number);
            }
            ledger.settle_recheck(&claim, looked_at(1), urgent).await.unwrap();
        }
        decisions
    }

    assert_eq!(
        decisions(&ledger, "first", 10).await,
        NONE,
        "none waits, so nothing is owed"
    );
    let elsewhere = decide(agent("a"), Some("r2"));
    ledger.order_recheck(&elsewhere).await.unwrap();
    assert_eq!(
        decisions(&ledger, "second", 10).await,
        NONE,
        "it is for somebody else"
    );
    while let Some(claim) = claim(&ledger, at(3)).await {
        ledger.settle_recheck(&claim, looked_at(1), true).await.unwrap();
    }
    assert_eq!(waiting(&ledger).await, [elsewhere]);

    ledger.order_recheck(&decide(agent("b"), None)).await.unwrap();
    let first = claim(&ledger, at(3)).await.unwrap();
    assert!(!first.recheck.work.is_urgent());
    ledger.settle_recheck(&first, looked_at(1), false).await.unwrap();
    assert_eq!(decisions(&ledger, "third", 24).await, [7, 15, 23]);
}

pub(super) async fn a_recheck_is_held_by_one_until_the_hold_runs_out(ledger: Subject) {
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    let first = claim(&ledger, at(1)).await.unwrap();
    assert_eq!(claim(&ledger, at(30)).await, None);
    assert_eq!(waiting(&ledger).await.len(), 1, "it waits to be done");
    let second = claim(&ledger, at(31)).await.unwrap();
    let late = ledger.settle_recheck(&first, looked_at(1), true).await;
    assert_eq!(refusal(late), Refusal::ClaimLost);
    ledger.settle_recheck(&second, looked_at(2), false).await.unwrap();
    let late = ledger.settle_recheck(&first, looked_at(1), false).await;
    assert_eq!(refusal(late), Refusal::ClaimLost);
    let third = claim(&ledger, at(32)).await.unwrap();
    assert_eq!(third.recheck.progress, looked_at(2));
    // Nobody else came.
    ledger.settle_recheck(&third, looked_at(3), true).await.unwrap();

    // One that was ordered again later is another one.
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    let fourth = claim(&ledger, at(33)).await.unwrap();
    for before in [&first, &second, &third] {
        let late = ledger.settle_recheck(before, looked_at(1), true).await;
        assert_eq!(refusal(late), Refusal::ClaimLost);
    }
    ledger.settle_recheck(&fourth, looked_at(1), true).await.unwrap();
}

pub(super) async fn each_recheck_is_claimed_by_one(ledger: Subject) {
    for number in 0..12 {
        let whom = agent(&format!("agent-{number}"));
        ledger.order_recheck(&decide(whom, None)).await.unwrap();
    }
    let mut claiming = JoinSet::new();
    for _ in 0..30 {
        let ledger = Arc::clone(&ledger);
        claiming.spawn(async move { claim(&ledger, at(2)).await });
    }
    let claims: Vec<_> = claiming.join_all().await.into_iter().flatten().collect();
    let mut whom: Vec<_> = claims
        .iter()
        .map(|claim| format!("{:?}", claim.recheck.whom))
        .collect();
    whom.sort();
    whom.dedup();
    assert_eq!((claims.len(), whom.len()), (12, 12));
}

pub(super) async fn an_order_that_nobody_began_is_replaced_in_its_place(ledger: Subject) {
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    ledger.order_recheck(&decide(agent("b"), None)).await.unwrap();
    let again = because("another reason", decide(agent("a"), None));
    ledger.order_recheck(&again).await.unwrap();
    assert_eq!(waiting(&ledger).await, [again.clone(), decide(agent("b"), None)]);
    assert_eq!(
        drained(&ledger, at(3)).await,
        [agent("a"), agent("b")],
        "once each"
    );

    // Of two cutoffs the one that reaches further.
    ledger.order_recheck(&cut(agent("a"), at(50))).await.unwrap();
    ledger.order_recheck(&cut(agent("a"), at(40))).await.unwrap();
    assert_eq!(waiting(&ledger).await, [cut(agent("a"), at(50))]);
    ledger.order_recheck(&cut(agent("a"), at(60))).await.unwrap();
    assert_eq!(waiting(&ledger).await, [cut(agent("a"), at(60))]);
}

/// However often it is ordered: whoever is at it comes to the end, and then it is done once more.
pub(super) async fn what_is_ordered_again_while_somebody_is_at_it_is_done_once_more_after(ledger: Subject) {
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    ledger.order_recheck(&decide(agent("b"), None)).await.unwrap();
    let order = async |why: &str| {
        let again = because(why, decide(agent("a"), None));
        ledger.order_recheck(&again).await.unwrap();
        again
    };
    let held = claim(&ledger, at(1)).await.unwrap();
    order("while somebody holds it").await;
    ledger.settle_recheck(&held, looked_at(7), false).await.unwrap();
    order("while it waits to go on").await;
    let other = claim(&ledger, at(2)).await.unwrap();
    assert_eq!(other.recheck.whom, agent("b"));
    let held = claim(&ledger, at(2)).await.unwrap();
    let under_way = Recheck {
        progress: looked_at(7),
        ..decide(agent("a"), None)
    };
    assert_eq!(
        held.recheck, under_way,
        "nothing is looked at twice before all is once"
    );
    let last = order("a third time").await;
    assert_eq!(waiting(&ledger).await.len(), 2, "it is in the queue once");
    // Whoever died leaves it to another, as ever.
    let taken_over = claim(&ledger, at(40)).await.unwrap();
    assert_eq!(taken_over.recheck.whom, agent("b"));
    let held = claim(&ledger, at(40)).await.unwrap();
    assert_eq!(held.recheck, under_way);
    ledger.settle_recheck(&held, looked_at(9), true).await.unwrap();
    ledger
        .settle_recheck(&taken_over, looked_at(9), false)
        .await
        .unwrap();

    let orders = waiting(&ledger).await;
    assert_eq!(orders[0], last, "from the beginning, in the order of the queue");
    assert_eq!((orders.len(), &orders[1].whom), (2, &agent("b")));
    let twice = ledger.settle_recheck(&held, looked_at(9), true).await;
    assert_eq!(refusal(twice), Refusal::ClaimLost);
    assert_eq!(drained(&ledger, at(41)).await, [agent("a"), agent("b")]);
    assert_eq!(waiting(&ledger).await, [], "once more, and no more");
}

pub(super) async fn ends_that_are_ordered_again_keep_those_under_way_going_too(ledger: Subject) {
    let distrust = Recheck {
        work: Work::Distrust {
            key: VouchingKey([1; 8]),
        },
        ..decide(Selector::All, None)
    };
    ledger.order_recheck(&distrust).await.unwrap();
    ledger.order_recheck(&cut(agent("a"), at(50))).await.unwrap();
    for _ in 0..2 {
        let claim = claim(&ledger, at(1)).await.unwrap();
        ledger.settle_recheck(&claim, looked_at(3), false).await.unwrap();
    }
    ledger.order_recheck(&distrust).await.unwrap();
    for up_to in [60, 70, 65] {
        ledger.order_recheck(&cut(agent("a"), at(up_to))).await.unwrap();
    }
    let under_way = |recheck: Recheck| Recheck {
        progress: looked_at(3),
        ..recheck
    };
    let expected = [under_way(distrust.clone()), under_way(cut(agent("a"), at(50)))];
    assert_eq!(waiting(&ledger).await, expected);
    for _ in 0..2 {
        let claim = claim(&ledger, at(2)).await.unwrap();
        assert_eq!(claim.recheck.progress, looked_at(3));
        ledger.settle_recheck(&claim, looked_at(4), true).await.unwrap();
    }
    // Of those that came meanwhile the one that reaches furthest.
    assert_eq!(waiting(&ledger).await, [distrust, cut(agent("a"), at(70))]);
    let held = claim(&ledger, at(3)).await.unwrap();
    ledger.settle_recheck(&held, looked_at(4), true).await.unwrap();
    let held = claim(&ledger, at(3)).await.unwrap();
    // One that reaches less far adds nothing.
    ledger.order_recheck(&cut(agent("a"), at(69))).await.unwrap();
    ledger.settle_recheck(&held, looked_at(4), true).await.unwrap();
    assert_eq!(waiting(&ledger).await, []);
}

pub(super) async fn a_decision_by_a_revision_is_for_who_has_it(ledger: Subject) {
    ledger
        .order_recheck(&decide(Selector::All, Some("r2")))
        .await
        .unwrap();
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    let held = claim(&ledger, at(1)).await.unwrap();
    assert_eq!(held.recheck.whom, agent("a"), "that of `r1` is not the first");
    assert_eq!(claim(&ledger, at(1)).await, None);
    let theirs = ledger.claim_recheck(at(1), HOLD, &revision("r2")).await.unwrap();
    let theirs = theirs.unwrap();
    assert_eq!(theirs.recheck, decide(Selector::All, Some("r2")));
    ledger.settle_recheck(&theirs, looked_at(5), false).await.unwrap();

    // A later revision takes the place, also of one under way.
    ledger
        .order_recheck(&decide(Selector::All, Some("r1")))
        .await
        .unwrap();
    let orders = waiting(&ledger).await;
    assert_eq!(
        orders,
        [decide(agent("a"), None), decide(Selector::All, Some("r1"))]
    );
    let mine = claim(&ledger, at(2)).await.unwrap();
    ledger
        .order_recheck(&decide(Selector::All, Some("r2")))
        .await
        .unwrap();
    let late = ledger.settle_recheck(&mine, looked_at(1), true).await;
    assert_eq!(refusal(late), Refusal::ClaimLost);
    assert_eq!(waiting(&ledger).await[1], decide(Selector::All, Some("r2")));
}

/// Whoever has another revision works off what facts order, also where a revision has something to say about
/// the same leases.
pub(super) async fn decisions_by_a_revision_and_by_whichever_is_in_force_stand_apart(ledger: Subject) {
    for whom in [agent("support-bot"), Selector::All] {
        ledger
            .order_recheck(&decide(whom.clone(), Some("r2")))
            .await
            .unwrap();
        ledger.order_recheck(&decide(whom.clone(), None)).await.unwrap();
        let claimed = claim(&ledger, at(1)).await.expect("one for `r1`");
        assert_eq!(claimed.recheck, decide(whom.clone(), None));
        ledger
            .order_recheck(&decide(whom.clone(), Some("r3")))
            .await
            .unwrap();
        ledger.settle_recheck(&claimed, looked_at(1), true).await.unwrap();
        assert_eq!(waiting(&ledger).await, [decide(whom, Some("r3"))]);
    }
    new(&ledger, &risk("high", 2), at(2)).await;
    assert_eq!(drained(&ledger, at(3)).await, [agent("support-bot")]);
}

pub(super) async fn a_decision_about_everything_takes_the_place_of_narrower_ones_of_its_kind(
    ledger: Subject,
) {
    let orders = [
        decide(agent("a"), None),
        decide(tool("b"), Some("r2")),
        cut(agent("a"), at(1)),
    ];
    for order in &orders {
        ledger.order_recheck(order).await.unwrap();
    }
    let held = claim(&ledger, at(1)).await.unwrap();
    ledger.settle_recheck(&held, looked_at(1), false).await.unwrap();
    let narrow = ledger.claim_recheck(at(1), HOLD, &revision("r2")).await.unwrap();
    assert_eq!(narrow.unwrap().recheck.whom, agent("a"));
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    ledger.order_recheck(&decide(Selector::All, None)).await.unwrap();
    let whom = async || {
        waiting(&ledger)
            .await
            .into_iter()
            .map(|order| order.whom)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        whom().await,
        [agent("a"), tool("b"), Selector::All],
        "the end, and the decision that waits for a revision, stay"
    );
    ledger
        .order_recheck(&decide(Selector::All, Some("r3")))
        .await
        .unwrap();
    assert_eq!(
        waiting(&ledger).await[1..],
        [decide(Selector::All, None), decide(Selector::All, Some("r3"))],
        "one by no revision is for everybody"
    );
    ledger.order_recheck(&decide(agent("a"), None)).await.unwrap();
    assert_eq!(
        whom().await,
        [agent("a"), Selector::All, Selector::All, agent("a")],
        "what changed since"
    );

    // Who is at everything comes to its end, and then begins again: what it takes the place of came later.
    let held = claim(&ledger, at(40)).await.unwrap();
    ledger.settle_recheck(&held, looked_at(1), true).await.unwrap();
    let all = claim(&ledger, at(40)).await.unwrap();
    assert_eq!(all.recheck, decide(Selector::All, None));
    ledger.order_recheck(&decide(Selector::All, None)).await.unwrap();
    assert_eq!(whom().await, [Selector::All, Selector::All]);
    ledger.settle_recheck(&all, looked_at(9), true).await.unwrap();
    assert_eq!(drained(&ledger, at(41)).await, [Selector::All]);
    assert_eq!(waiting(&ledger).await, [decide(Selector::All, Some("r3"))]);
}

/// Not run against every adapter: it takes a while.
pub(super) async fn a_flood_of_decisions_becomes_one_about_everything(ledger: Subject) {
    let user = |number: usize| Selector::User(format!("user-{number}").parse().unwrap());
    let order = |order: Recheck| {
        let ledger = Arc::clone(&ledger);
        async move { ledger.order_recheck(&order).await }
    };
    let mut ordering = JoinSet::new();
    for number in 0..MOST_RECHECKS {
        ordering.spawn(order(decide(user(number), (number / 2 == 38).then_some("r1"))));
    }
    for made in ordering.join_all().await {
        made.unwrap();
    }
    assert_eq!(waiting(&ledger).await.len(), MOST_RECHECKS);
    order(decide(user(5), None)).await.unwrap();
    assert_eq!(waiting(&ledger).await.len(), MOST_RECHECKS, "no more than before");
    // An end finds its place, and nothing that was ordered is lost.
    order(cut(agent("a"), at(1))).await.unwrap();
    let orders = waiting(&ledger).await;
    assert_eq!(orders[0], cut(agent("a"), at(1)));
    assert_eq!(orders.len(), 3);
    for all in [decide(Selector::All, None), decide(Selector::All, Some("r1"))] {
        assert!(orders.contains(&all), "{orders:?}");
    }

    let mut ordering = JoinSet::new();
    for number in 0..MOST_RECHECKS - 3 {
        ordering.spawn(order(cut(user(number), at(1))));
    }
    for made in ordering.join_all().await {
        made.unwrap();
    }
    assert_eq!(
        refusal(order(cut(agent("b"), at(1))).await),
        Refusal::TooManyRechecks
    );
    new(&ledger, &risk("high", 1), at(1)).await;
    let orders = waiting(&ledger).await;
    assert_eq!(orders.len(), MOST_RECHECKS);
    assert_eq!(orders.last().unwrap().whom, Selector::All);

    // Decisions always find a place, also where there are none yet.
    drained(&ledger, at(2)).await;
    let mut ordering = JoinSet::new();
    for number in 0..MOST_RECHECKS - 1 {
        ordering.spawn(order(cut(user(number), at(1))));
    }
    for made in ordering.join_all().await {
        made.unwrap();
    }
    for by in [None, Some("r1"), Some("r2")] {
        order(decide(user(1), by)).await.unwrap();
    }
    let orders = waiting(&ledger).await;
    assert_eq!(orders.len(), MOST_RECHECKS + 1);
}

// Earlier ends

pub(super) async fn a_live_lease_gets_an_earlier_end(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    let short = |seconds| Curtailed {
        at: at(seconds),
        cause: Cause::Shortened,
    };
    let curtail = async |lease: &Lease, seconds, now| ledger.curtail(lease.id, short(seconds), at(now)).await;
    assert_eq!(
        curtail(&lease, 301, 2).await.unwrap(),
        lease,
        "it ends as early already"
    );
    let expected = Lease {
        curtailed: Some(short(100)),
        ..lease.clone()
    };
    assert_eq!(curtail(&lease, 100, 2).await.unwrap(), expected);
    assert_eq!(
        curtail(&lease, 150, 3).await.unwrap(),
        expected,
        "no later than before"
    );
    assert_eq!(ledger.stored(lease.id).await, expected);
    let signal = Curtailed {
        at: at(60),
        cause: Cause::NotPermitted,
    };
    let tighter = ledger.curtail(lease.id, signal, at(4)).await.unwrap();
    assert_eq!(tighter.curtailed, Some(signal));
    assert!(ledger.due(at(59)).await.is_empty());
    let late = ledger.live(lease.id, at(60)).await;
    assert_eq!(refusal(late), Refusal::LeaseNotOpen("expired"));
    let claims = ledger.due_leases(at(60)).await;
    let effort = rules::effort(&claims[0].lease.state).unwrap();
    assert_eq!((effort.cause, effort.since), (Cause::NotPermitted, at(60)));
    assert_eq!(ledger.told().await, [Selector::Lease(lease.id)]);
    let revoking = ledger.stored(lease.id).await;
    assert_eq!(curtail(&lease, 50, 61).await.unwrap(), revoking);

    let reserved = ledger.hold(lease_at(&task, at(61))).await;
    assert_eq!(
        curtail(&reserved, 80, 62).await.unwrap().curtailed,
        Some(short(80))
    );
    ledger
        .activate(reserved.id, &Handle("h".to_owned()), at(300))
        .await
        .unwrap();
    assert_eq!(ledger.stored(reserved.id).await.ends_at(), at(80));
    let past = ledger.hold(active_at(&task, at(62))).await;
    let now = curtail(&past, 10, 63).await.unwrap();
    assert_eq!(now.curtailed, Some(short(63)), "not before it was decided");
    let due = ledger.due_leases(at(80)).await;
    assert_eq!(
        due.iter().map(|claim| claim.lease.id).collect::<Vec<_>>(),
        [past.id, reserved.id]
    );

    let unknown = lease_at(&task, at(64));
    assert_eq!(refusal(curtail(&unknown, 70, 65).await), Refusal::NoLease);
}

// Marks

pub(super) async fn a_mark_is_set_by_who_knows_it(ledger: Subject) {
    let set = async |value: &[u8], expected: Option<&[u8]>| {
        ledger.set_mark("revision", value, expected).await.unwrap()
    };
    assert_eq!(ledger.mark("revision").await.unwrap(), None);
    assert!(!set(b"a", Some(b"")).await);
    assert!(set(b"a", None).await);
    assert!(!set(b"b", None).await);
    assert!(!set(b"b", Some(b"c")).await);
    assert!(set(b"\0\xff", Some(b"a")).await);
    assert_eq!(
        ledger.mark("revision").await.unwrap().as_deref(),
        Some(b"\0\xff".as_slice())
    );
    assert_eq!(ledger.mark("other").await.unwrap(), None);
    let large = vec![7; 64 * 1024];
    assert!(ledger.set_mark("large", &large, None).await.unwrap());
    assert_eq!(ledger.mark("large").await.unwrap(), Some(large.clone()));
    let larger = [large, vec![7]].concat();
    let refused = ledger.set_mark("larger", &larger, None).await;
    assert!(matches!(refused, Err(LedgerError::Corrupt(_))), "{refused:?}");
}

pub(super) async fn one_of_many_sets_a_mark(ledger: Subject) {
    let mut setting = JoinSet::new();
    for number in 0..24u8 {
        let ledger = Arc::clone(&ledger);
        setting.spawn(async move { ledger.set_mark("m", &[number], None).await.unwrap() });
    }
    let set = setting.join_all().await;
    assert_eq!(set.iter().filter(|set| **set).count(), 1);
}

// Losses

pub(super) async fn circumstances_change_in_a_lost_ledger_too(ledger: Subject) {
    let task = ledger.open_task().await;
    let lease = ledger.hold(active_at(&task, at(1))).await;
    ledger.condemn(Loss::Behind).await.unwrap();
    let version = new(&ledger, &risk("high", 2), at(2)).await;
    assert_eq!(since(&ledger, NO_FACTS).await.stated, [risk("high", 2)]);
    ledger.order_recheck(&cut(agent("a"), at(2))).await.unwrap();
    assert_eq!(drained(&ledger, at(3)).await, [agent("a"), agent("support-bot")]);
    let short = Curtailed {
        at: at(9),
        cause: Cause::Shortened,
    };
    let curtailed = ledger.curtail(lease.id, short, at(3)).await.unwrap();
    assert_eq!(curtailed.curtailed, Some(short));
    assert!(ledger.set_mark("m", b"a", None).await.unwrap());
    let more = ledger
        .reserve(&active_at(&task, at(3)), &UNLIMITED, None, version)
        .await;
    assert_eq!(lost(more), Loss::Behind);
    assert!(matches!(ledger.stored(lease.id).await.state, LeaseState::Active));
}
