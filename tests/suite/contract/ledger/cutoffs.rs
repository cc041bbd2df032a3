//! Cutoffs: what they refuse, which holds, and how long.

use std::sync::Arc;

use dayfly::ledger::{Ledger, Refusal};
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::{Handle, Lease};
use dayfly::model::task::Task;
use dayfly::model::time::Timestamp;

use super::{RETENTION, START, Shorthand as _, active_at, at, cutoff, lease_at, refusal, secs, until};

type Subject = Arc<dyn Ledger>;

/// Selectors of every kind: those that match the lease, and those that just miss it.
fn selectors(lease: &Lease, other: &Task) -> (Vec<Selector>, Vec<Selector>) {
    let matching = vec![
        Selector::Lease(lease.id),
        Selector::Task(lease.task),
        Selector::Agent(lease.agent.clone()),
        Selector::Tool(lease.tool.clone()),
        Selector::User(lease.on_behalf_of.clone().unwrap()),
        Selector::Environment(lease.environment.clone()),
        Selector::TrustDomain(lease.trust_domain.clone().unwrap()),
        Selector::All,
    ];
    let missing = vec![
        Selector::Lease(lease_at(other, START).id),
        Selector::Task(other.charter.id),
        Selector::Agent(lease.tool.as_str().parse().unwrap()),
        Selector::Tool(lease.agent.as_str().parse().unwrap()),
        Selector::User("user-11".parse().unwrap()),
        Selector::Environment("staging".parse().unwrap()),
        Selector::TrustDomain("example.or".parse().unwrap()),
    ];
    (matching, missing)
}

pub(super) async fn a_cutoff_refuses_what_it_matches(ledger: Subject) {
    // Each case takes names of its own, because a cutoff stays.
    for case in 0..8 {
        let task = ledger.open_task().await;
        let other = ledger.open_task().await;
        let name = format!("case-{case}");
        let lease = Lease {
            agent: name.parse().unwrap(),
            tool: name.parse().unwrap(),
            on_behalf_of: Some(name.parse().unwrap()),
            environment: name.parse().unwrap(),
            trust_domain: Some(name.parse().unwrap()),
            ..active_at(&task, at(5))
        };
        let (mut matching, _) = selectors(&lease, &other);
        let selector = matching.remove(case);
        ledger.cut(&cutoff(selector.clone(), at(5), at(4))).await.unwrap();
        assert_eq!(
            refusal(ledger.try_hold(&lease).await),
            Refusal::Cut(selector.clone())
        );
        assert_eq!(ledger.lease(lease.id).await.unwrap(), None, "{selector:?}");
    }
}

pub(super) async fn a_cutoff_spares_what_it_does_not_match(ledger: Subject) {
    let (task, other) = (ledger.open_task().await, ledger.open_task().await);
    let lease = active_at(&task, at(5));
    let (matching, missing) = selectors(&lease, &other);
    for selector in matching {
        ledger.cut(&cutoff(selector, at(4), at(5))).await.unwrap(); // one second before the lease was made
    }
    for selector in missing {
        ledger
            .cut(&cutoff(selector, Timestamp::MAX, at(5)))
            .await
            .unwrap();
    }
    let nobodys = Lease {
        on_behalf_of: None,
        trust_domain: None,
        ..active_at(&task, at(5))
    };
    ledger.hold(lease).await;
    ledger.hold(nobodys).await;
}

pub(super) async fn a_cutoff_stops_activation_and_renewal(ledger: Subject) {
    let task = ledger.open_task().await;
    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    let active = ledger.hold(active_at(&task, at(1))).await;
    let selector = Selector::Tool("crm".parse().unwrap());
    ledger.cut(&cutoff(selector.clone(), at(2), at(2))).await.unwrap();

    let activated = ledger
        .activate(reserved.id, &Handle("h".to_owned()), at(100))
        .await;
    assert_eq!(refusal(activated), Refusal::Cut(selector.clone()));
    assert_eq!(
        ledger.stored(reserved.id).await,
        reserved,
        "left for the one who reserved it"
    );
    let renewed = ledger.renew(active.id, until(500), at(3)).await;
    assert_eq!(refusal(renewed), Refusal::Cut(selector));
    ledger.hold(active_at(&task, at(3))).await;
}

pub(super) async fn nothing_is_live_that_a_cutoff_ends_though_nobody_came_to_it_yet(ledger: Subject) {
    // Each case takes names of its own, because a cutoff stays.
    for case in 0..8 {
        let task = ledger.open_task().await;
        let other = ledger.open_task().await;
        let name = format!("case-{case}");
        let lease = Lease {
            agent: name.parse().unwrap(),
            tool: format!("tool-of-{name}").parse().unwrap(),
            on_behalf_of: Some(name.parse().unwrap()),
            environment: name.parse().unwrap(),
            trust_domain: Some(name.parse().unwrap()),
            ..active_at(&task, at(5))
        };
        let lease = ledger.hold(lease).await;
        let (mut matching, missing) = selectors(&lease, &other);
        for selector in missing {
            ledger.cut(&cutoff(selector, at(5), at(6))).await.unwrap();
        }
        let selector = matching.remove(case);
        ledger.cut(&cutoff(selector.clone(), at(4), at(6))).await.unwrap();
        assert_eq!(ledger.live(lease.id, at(6)).await.unwrap(), lease, "{selector:?}");
        ledger.cut(&cutoff(selector.clone(), at(5), at(6))).await.unwrap();
        assert_eq!(
            refusal(ledger.live(lease.id, at(6)).await),
            Refusal::Cut(selector)
        );
        assert_eq!(ledger.stored(lease.id).await, lease);
    }
}

pub(super) async fn the_further_cutoff_holds(ledger: Subject) {
    let task = ledger.open_task().await;
    let near = cutoff(Selector::All, at(3), at(3));
    let far = cutoff(Selector::All, at(10), at(4));
    for cutoff in [&near, &far, &near, &far] {
        ledger.cut(cutoff).await.unwrap();
    }
    assert_eq!(ledger.cutoffs().await.unwrap(), [far]);
    assert_eq!(
        refusal(ledger.try_hold(&lease_at(&task, at(9))).await),
        Refusal::Cut(Selector::All)
    );
    ledger.hold(lease_at(&task, at(11))).await;
}

pub(super) async fn cutoffs_in_force_are_listed(ledger: Subject) {
    let task = ledger.open_task().await;
    let (wide, _) = selectors(&lease_at(&task, at(1)), &task);
    for selector in &wide {
        ledger.cut(&cutoff(selector.clone(), at(1), at(1))).await.unwrap();
    }
    let mut listed: Vec<_> = ledger.cutoffs().await.unwrap();
    assert_eq!(
        listed.len(),
        wide.len() - 2,
        "those on a lease and on a task are only in the feed"
    );
    listed.retain(|cutoff| !matches!(cutoff.selector, Selector::Lease(_) | Selector::Task(_)));
    assert_eq!(listed.len(), wide.len() - 2);
    let told = ledger.told().await;
    for selector in &wide {
        assert!(told.contains(selector), "{selector:?}");
    }
}

pub(super) async fn a_cutoff_is_dropped_when_nothing_can_match(ledger: Subject) {
    let passing = cutoff(Selector::Agent("support-bot".parse().unwrap()), at(2), at(2));
    // Whatever it ended might have been renewed until it came.
    let of_old = cutoff(
        Selector::Agent("report-bot".parse().unwrap()),
        Timestamp::from_secs(7),
        at(1),
    );
    let lasting = cutoff(
        Selector::Agent("billing-bot".parse().unwrap()),
        Timestamp::MAX,
        at(1),
    );
    ledger.cut(&passing).await.unwrap();
    ledger.cut(&lasting).await.unwrap();
    ledger.cut(&of_old).await.unwrap();
    let end = at(1).plus(RETENTION);
    ledger.due(end.minus(secs(1))).await;
    assert_eq!(ledger.cutoffs().await.unwrap().len(), 3);
    ledger.due(end).await;
    assert_eq!(ledger.cutoffs().await.unwrap().len(), 2);
    ledger.due(end.plus(secs(1))).await;
    assert_eq!(ledger.cutoffs().await.unwrap(), [lasting]);
}
