//! Finding leases by what they are and how they stand.

use std::num::NonZeroUsize;
use std::sync::Arc;

use dayfly::ledger::{Filter, Ledger, Page, Settlement, StateName};
use dayfly::model::cutoff::Selector;
use dayfly::model::ids::{LeaseId, Slot};
use dayfly::model::lease::{Cause, Lease};

use super::{START, Shorthand as _, active_at, at, ended, lease_at, most, task_in};

type Subject = Arc<dyn Ledger>;

async fn found(ledger: &Subject, filter: &Filter) -> Vec<LeaseId> {
    let page = Page {
        after: None,
        limit: most(),
    };
    let leases = ledger.find(filter, &page).await.unwrap();
    leases.iter().map(|lease| lease.id).collect()
}

/// Twelve leases of three tasks in different slots: agents, tools and users change at different paces.
async fn a_dozen(ledger: &Subject) -> Vec<Lease> {
    let mut leases = Vec::new();
    let mut tasks = Vec::new();
    for slot in [1, 2, 900] {
        tasks.push(ledger.opened(task_in(Slot::new(slot), START)).await);
    }
    for number in 0..12u64 {
        let task = &tasks[usize::try_from(number % 3).unwrap()];
        let lease = Lease {
            agent: format!("agent-{}", number % 2).parse().unwrap(),
            tool: format!("tool-{}", number / 6).parse().unwrap(),
            on_behalf_of: (number % 4 != 0).then(|| format!("user {}", number % 4).parse().unwrap()),
            ..active_at(task, at(number + 1))
        };
        leases.push(ledger.hold(lease).await);
    }
    leases
}

fn ids<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> Vec<LeaseId> {
    leases.into_iter().map(|lease| lease.id).collect()
}

pub(super) async fn leases_are_found_by_what_they_are(ledger: Subject) {
    let leases = a_dozen(&ledger).await;
    assert_eq!(
        found(&ledger, &Filter::default()).await,
        ids(&leases),
        "all, oldest first"
    );
    for wanted in &leases {
        let task = Filter {
            task: Some(wanted.task),
            ..Filter::default()
        };
        assert_eq!(
            found(&ledger, &task).await,
            ids(leases.iter().filter(|l| l.task == wanted.task))
        );
        let agent = Filter {
            agent: Some(wanted.agent.clone()),
            ..Filter::default()
        };
        assert_eq!(
            found(&ledger, &agent).await,
            ids(leases.iter().filter(|l| l.agent == wanted.agent))
        );
        let tool = Filter {
            tool: Some(wanted.tool.clone()),
            ..Filter::default()
        };
        assert_eq!(
            found(&ledger, &tool).await,
            ids(leases.iter().filter(|l| l.tool == wanted.tool))
        );
        let Some(user) = wanted.on_behalf_of.clone() else {
            continue;
        };
        let filter = Filter {
            user: Some(user.clone()),
            ..Filter::default()
        };
        let same = leases.iter().filter(|l| l.on_behalf_of.as_ref() == Some(&user));
        assert_eq!(found(&ledger, &filter).await, ids(same));
    }
    let nobody = Filter {
        agent: Some("agent".parse().unwrap()),
        ..Filter::default()
    };
    assert_eq!(found(&ledger, &nobody).await, [], "a name is not a prefix");
}

pub(super) async fn leases_are_found_by_their_state(ledger: Subject) {
    let task = ledger.open_task().await;
    let reserved = ledger.hold(lease_at(&task, at(1))).await;
    let active = ledger.hold(active_at(&task, at(2))).await;
    let over = ledger.hold(active_at(&task, at(3))).await;
    ledger.end(over.id, at(4)).await;
    let stuck = ledger.hold(active_at(&task, at(4))).await;
    ledger.revoke(stuck.id, Cause::Revoked, at(5)).await.unwrap();
    let claim = ledger.due_leases(at(5)).await.pop().unwrap();
    ledger
        .settle(&claim, Settlement::Stuck(at(50), "no".to_owned()), at(5))
        .await
        .unwrap();
    let revoking = ledger.hold(active_at(&task, at(6))).await;
    ledger.revoke(revoking.id, Cause::Revoked, at(7)).await.unwrap();

    let in_state = async |state| {
        let filter = Filter {
            task: Some(task.charter.id),
            state: Some(state),
            ..Filter::default()
        };
        let bare = Filter {
            state: Some(state),
            ..Filter::default()
        };
        let both = found(&ledger, &filter).await;
        assert_eq!(found(&ledger, &bare).await, both);
        both
    };
    assert_eq!(in_state(StateName::Reserved).await, [reserved.id]);
    assert_eq!(in_state(StateName::Active).await, [active.id]);
    assert_eq!(in_state(StateName::Revoking).await, [revoking.id]);
    assert_eq!(in_state(StateName::Stuck).await, [stuck.id]);
    assert_eq!(in_state(StateName::Ended).await, [over.id]);
    for filter in [
        Filter::of(&Selector::Task(task.charter.id)),
        Filter::of(&Selector::All),
    ] {
        assert_eq!(found(&ledger, &filter).await, [reserved.id, active.id]);
    }

    let claim = ledger
        .due_leases(at(50))
        .await
        .into_iter()
        .find(|claim| claim.lease.id == stuck.id)
        .unwrap();
    ledger.settle(&claim, ended(at(50)), at(50)).await.unwrap();
    assert_eq!(in_state(StateName::Stuck).await, []);
    assert_eq!(in_state(StateName::Ended).await, [over.id, stuck.id]);
}

pub(super) async fn filters_combine(ledger: Subject) {
    let leases = a_dozen(&ledger).await;
    ledger.revoke(leases[3].id, Cause::Revoked, at(20)).await.unwrap();
    // Every subset of the six conditions of one lease against a plain scan.
    for wanted in &leases {
        for chosen in 0..64u8 {
            let on = |bit: u8| chosen & (1 << bit) != 0;
            let state = if wanted.id == leases[3].id {
                StateName::Revoking
            } else {
                StateName::Active
            };
            let filter = Filter {
                task: on(0).then_some(wanted.task),
                agent: on(1).then(|| wanted.agent.clone()),
                tool: on(2).then(|| wanted.tool.clone()),
                user: if on(3) { wanted.on_behalf_of.clone() } else { None },
                state: on(4).then_some(state),
                live: on(5),
            };
            let fits = |lease: &&Lease| {
                filter.task.is_none_or(|task| task == lease.task)
                    && filter.agent.as_ref().is_none_or(|agent| *agent == lease.agent)
                    && filter.tool.as_ref().is_none_or(|tool| *tool == lease.tool)
                    && filter
                        .user
                        .as_ref()
                        .is_none_or(|user| Some(user) == lease.on_behalf_of.as_ref())
                    && filter
                        .state
                        .is_none_or(|s| (s == StateName::Revoking) == (lease.id == leases[3].id))
                    && (!filter.live || lease.id != leases[3].id)
            };
            let mut found = found(&ledger, &filter).await;
            if filter.live {
                found.sort();
            }
            assert_eq!(found, ids(leases.iter().filter(fits)), "{filter:?}");
        }
    }
}

pub(super) async fn what_lives_is_seen_once_however_small_the_pages(ledger: Subject) {
    let leases = a_dozen(&ledger).await;
    ledger.revoke(leases[3].id, Cause::Revoked, at(20)).await.unwrap();
    let agent = Selector::Agent(leases[0].agent.clone());
    for whom in [Selector::All, agent] {
        let fits = |lease: &&Lease| lease.id != leases[3].id && lease.fits(&whom);
        for limit in 1..=leases.len() {
            let limit = NonZeroUsize::new(limit).unwrap();
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = Page { after, limit };
                let some = ledger.find(&Filter::of(&whom), &page).await.unwrap();
                seen.extend(some.iter().map(|lease| lease.id));
                if some.len() < limit.get() {
                    break;
                }
                after = some.last().map(|lease| lease.id);
            }
            seen.sort();
            assert_eq!(seen, ids(leases.iter().filter(fits)), "{whom:?} by {limit}");
        }
    }
}

pub(super) async fn pages_follow_each_other(ledger: Subject) {
    let leases = a_dozen(&ledger).await;
    let filters = [
        Filter::default(),
        Filter {
            agent: Some("agent-1".parse().unwrap()),
            ..Filter::default()
        },
        Filter {
            agent: Some("agent-1".parse().unwrap()),
            tool: Some("tool-1".parse().unwrap()),
            ..Filter::default()
        },
    ];
    for filter in &filters {
        let all = found(&ledger, filter).await;
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let limit = NonZeroUsize::new(2).unwrap();
            let page = ledger.find(filter, &Page { after, limit }).await.unwrap();
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            pages.extend(ids(&page));
        }
        assert_eq!(pages, all);
        assert!(!all.is_empty() && all.len() <= leases.len());
    }
    let beyond = Page {
        after: None,
        limit: NonZeroUsize::MAX,
    };
    assert_eq!(
        ledger.find(&Filter::default(), &beyond).await.unwrap().len(),
        12,
        "too much is cut down"
    );
}
