//! Sub-tasks: a tree of tasks opens from above, ends from above in one step, and nothing below it is given out
//! that would not be above.

use std::collections::BTreeSet;
use std::sync::Arc;

use dayfly::ledger::rules::MOST_SUB_TASKS;
use dayfly::ledger::{Budget, Claim, Filter, Ledger, Opened, Page, Refusal};
use dayfly::model::attestation::EvidenceKind;
use dayfly::model::cutoff::Selector;
use dayfly::model::lease::{Cause, Lease, LeaseState, VouchingKey};
use dayfly::model::spiffe::TrustDomain;
use dayfly::model::task::{Delegator, Outcome, Task, TaskChange, TaskState};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;

use super::{
    RETENTION, START, Shorthand as _, active_at, at, cause_of, cutoff, ended, key, lease_at, most, refusal,
    secs, task_at, task_in, until,
};

type Subject = Arc<dyn Ledger>;

const PARENT_ENDED: Cause = Cause::TaskEnded(Outcome::ParentEnded);

/// A sub-task that nobody has written down yet.
pub(super) fn below(parent: &Task, agent: &str, opened_at: Timestamp) -> Task {
    let mut task = task_in(parent.charter.id.slot(), opened_at);
    task.charter.agent = agent.parse().unwrap();
    task.charter.deadline = parent.charter.deadline;
    let above = Delegator {
        task: parent.charter.id,
        agent: parent.charter.agent.clone(),
        kind: EvidenceKind::JwtSvid,
        trust_domain: parent.charter.trust_domain.clone(),
        key: Some(VouchingKey([7; 8])),
        until: parent.charter.deadline,
    };
    task.charter.delegators = std::iter::once(above)
        .chain(parent.charter.delegators.iter().cloned())
        .collect();
    task
}

/// A root, a task below it, and one below that.
async fn tree(ledger: &Subject) -> [Task; 3] {
    let root = ledger.open_task().await;
    let middle = ledger.opened(below(&root, "report-bot", at(1))).await;
    let leaf = ledger.opened(below(&middle, "fetch-bot", at(2))).await;
    [root, middle, leaf]
}

async fn state(ledger: &Subject, task: &Task) -> TaskState {
    ledger.task(task.charter.id).await.unwrap().unwrap().state
}

async fn ids_below(ledger: &Subject, task: &Task) -> Vec<String> {
    let tasks = ledger.below(task.charter.id).await.unwrap();
    tasks.iter().map(|task| task.charter.id.to_string()).collect()
}

pub(super) async fn a_sub_task_is_kept_with_its_chain(ledger: Subject) {
    let [root, middle, leaf] = tree(&ledger).await;
    for task in [&root, &middle, &leaf] {
        assert_eq!(ledger.task(task.charter.id).await.unwrap().as_ref(), Some(task));
    }
    let id = |task: &Task| task.charter.id.to_string();
    assert_eq!(ids_below(&ledger, &root).await, [id(&middle), id(&leaf)]);
    assert_eq!(ids_below(&ledger, &middle).await, [id(&leaf)]);
    assert!(ids_below(&ledger, &leaf).await.is_empty());
    let lease = ledger.hold(lease_at(&leaf, at(3))).await;
    assert_eq!(ledger.stored(lease.id).await.delegators, leaf.charter.delegators);
}

pub(super) async fn a_sub_task_opens_only_while_everything_above_is_open(ledger: Subject) {
    let nowhere = below(&task_at(START), "report-bot", at(1));
    assert_eq!(refusal(ledger.open(&nowhere, None, None).await), Refusal::NoTask);

    let [root, middle, _] = tree(&ledger).await;
    ledger.advanced(&root, TaskChange::Suspend, at(3)).await;
    let refused = below(&middle, "fetch-bot", at(4));
    assert_eq!(
        refusal(ledger.open(&refused, None, None).await),
        Refusal::TaskNotOpen(TaskState::Suspended),
        "though the task right above is open"
    );
    ledger.advanced(&root, TaskChange::Resume, at(5)).await;
    ledger.opened(below(&middle, "fetch-bot", at(6))).await;

    let late = below(&middle, "fetch-bot", root.charter.deadline);
    assert!(matches!(
        refusal(ledger.open(&late, None, None).await),
        Refusal::TaskNotOpen(TaskState::Ended {
            outcome: Outcome::Expired,
            ..
        })
    ));
    ledger
        .advanced(&root, TaskChange::End(Outcome::Completed), at(7))
        .await;
    let orphan = below(&middle, "fetch-bot", at(8));
    let refused = refusal(ledger.open(&orphan, None, None).await);
    assert!(matches!(refused, Refusal::TaskNotOpen(_)), "{refused:?}");
    assert_eq!(ledger.task(orphan.charter.id).await.unwrap(), None);
}

pub(super) async fn a_tree_has_so_many_sub_tasks_and_no_more(ledger: Subject) {
    let root = ledger.open_task().await;
    let first = below(&root, "report-bot", at(1));
    assert_eq!(
        ledger.open(&first, None, Some(&key(1, 1))).await.unwrap(),
        Opened::New
    );
    for _ in 1..MOST_SUB_TASKS {
        ledger.opened(below(&first, "fetch-bot", at(2))).await;
    }
    let full = Refusal::Budget {
        budget: Budget::SubTasks,
        limit: MOST_SUB_TASKS,
    };
    for parent in [&root, &first] {
        let one_more = below(parent, "fetch-bot", at(3));
        assert_eq!(refusal(ledger.open(&one_more, None, None).await), full);
    }
    let again = below(&root, "report-bot", at(3));
    assert_eq!(
        ledger.open(&again, None, Some(&key(1, 1))).await.unwrap(),
        Opened::Repeated(Box::new(first.clone())),
        "although there is no room"
    );
    ledger
        .opened(below(&ledger.open_task().await, "report-bot", at(3)))
        .await;

    let last = ledger.below(first.charter.id).await.unwrap().pop().unwrap();
    ledger
        .advanced(&last, TaskChange::End(Outcome::Failed), at(4))
        .await;
    ledger.opened(below(&root, "fetch-bot", at(5))).await;
    let one_more = below(&root, "fetch-bot", at(6));
    assert_eq!(refusal(ledger.open(&one_more, None, None).await), full);

    ledger
        .advanced(&root, TaskChange::End(Outcome::Completed), at(7))
        .await;
    assert!(ids_below(&ledger, &root).await.is_empty());
    assert!(ids_below(&ledger, &first).await.is_empty());
}

/// The heart of it: who ends a task has ended, by the answer, whatever is below it.
pub(super) async fn a_task_ends_with_everything_below_it_in_one_step(ledger: Subject) {
    let [root, middle, leaf] = tree(&ledger).await;
    let beside = ledger.opened(below(&root, "report-bot", at(2))).await;
    let stranger = ledger.open_task().await;
    let mut leases = Vec::new();
    for task in [&root, &middle, &leaf, &beside, &stranger] {
        leases.push(ledger.hold(active_at(task, at(3))).await);
        leases.push(ledger.hold(lease_at(task, at(3))).await);
    }
    let causes = async |ledger: &Subject| {
        let mut causes = Vec::new();
        for lease in &leases {
            causes.push(cause_of(&ledger.stored(lease.id).await));
        }
        causes
    };

    let ended = TaskChange::End(Outcome::Completed);
    ledger.advanced(&middle, ended, at(4)).await;
    let parent_ended = TaskState::Ended {
        outcome: Outcome::ParentEnded,
        at: at(4),
    };
    assert_eq!(state(&ledger, &leaf).await, parent_ended);
    assert_eq!(state(&ledger, &beside).await, TaskState::Open);
    assert_eq!(state(&ledger, &root).await, TaskState::Open);
    let completed = Some(Cause::TaskEnded(Outcome::Completed));
    let below_it = Some(PARENT_ENDED);
    assert_eq!(
        causes(&ledger).await,
        [
            None, None, completed, completed, below_it, below_it, None, None, None, None
        ]
    );
    let told: BTreeSet<String> = ledger.told().await.iter().map(|s| format!("{s:?}")).collect();
    let of = |task: &Task| format!("{:?}", Selector::Task(task.charter.id));
    assert_eq!(told, [of(&middle), of(&leaf)].into());
    for over in [&leases[2], &leases[4]] {
        assert_eq!(
            refusal(ledger.live(over.id, at(4)).await),
            Refusal::LeaseNotOpen("revoking")
        );
    }
    let late = lease_at(&leaf, at(4));
    assert_eq!(
        refusal(ledger.try_hold(&late).await),
        Refusal::TaskNotOpen(parent_ended)
    );

    // What is over already keeps its own end, and the rest of the tree goes with the root.
    let revoked = TaskChange::End(Outcome::Revoked);
    ledger.advanced(&root, revoked, at(5)).await;
    assert_eq!(state(&ledger, &leaf).await, parent_ended);
    assert_eq!(state(&ledger, &stranger).await, TaskState::Open);
    let revoked = Some(Cause::TaskEnded(Outcome::Revoked));
    assert_eq!(
        causes(&ledger).await,
        [
            revoked, revoked, completed, completed, below_it, below_it, below_it, below_it, None, None
        ]
    );
    let claimed = ledger.due_leases(at(5)).await.into_iter();
    let claimed: BTreeSet<_> = claimed.map(|claim| claim.lease.id).collect();
    assert_eq!(claimed, leases[..8].iter().map(|lease| lease.id).collect());
    for (cutoff, over) in [(root, "revoked"), (beside, "parent_ended")] {
        let task = ledger.task(cutoff.charter.id).await.unwrap().unwrap();
        assert!(matches!(task.state, TaskState::Ended { outcome, .. } if outcome.as_str() == over));
    }
}

/// A sub-task frees the budget of its agent when it goes with its parent, and once.
pub(super) async fn what_ended_with_its_parent_counts_no_more(ledger: Subject) {
    let root = ledger.open_task().await;
    let open = async |agent: &str| {
        let task = below(&ledger.opened(task_at(at(1))).await, agent, at(2));
        ledger.open(&task, Some(1), None).await
    };
    let mine = ledger.opened(below(&root, "report-bot", at(1))).await;
    let full = Refusal::Budget {
        budget: Budget::OpenTasks,
        limit: 1,
    };
    assert_eq!(refusal(open("report-bot").await), full);
    ledger
        .advanced(&root, TaskChange::End(Outcome::Lost), at(3))
        .await;
    ledger
        .advanced(&mine, TaskChange::End(Outcome::Completed), at(4))
        .await; // no error, and it frees nothing more
    assert!(ledger.due(root.charter.deadline.plus(secs(1))).await.iter().all(
        |claim| matches!(claim, Claim::Task(task, _) if task.charter.id != mine.charter.id && task.charter.id != root.charter.id)
    ));
    assert_eq!(open("report-bot").await.unwrap(), Opened::New);
    assert_eq!(refusal(open("report-bot").await), full);
}

pub(super) async fn a_suspended_task_holds_up_what_is_below(ledger: Subject) {
    let [root, middle, leaf] = tree(&ledger).await;
    let above = ledger.hold(active_at(&root, at(3))).await;
    let held = ledger.hold(active_at(&leaf, at(3))).await;
    ledger.advanced(&middle, TaskChange::Suspend, at(4)).await;
    assert_eq!(cause_of(&ledger.stored(above.id).await), None);
    assert_eq!(
        cause_of(&ledger.stored(held.id).await),
        Some(Cause::TaskSuspended)
    );
    assert_eq!(ledger.told().await, [Selector::Lease(held.id)]);
    assert_eq!(state(&ledger, &leaf).await, TaskState::Open);
    let refused = refusal(ledger.try_hold(&active_at(&leaf, at(5))).await);
    assert_eq!(refused, Refusal::TaskNotOpen(TaskState::Suspended));
    ledger.hold(active_at(&root, at(5))).await;

    ledger.advanced(&middle, TaskChange::Resume, at(6)).await;
    let fresh = ledger.hold(active_at(&leaf, at(7))).await;
    assert_eq!(ledger.live(fresh.id, at(8)).await.unwrap(), fresh);
    assert_eq!(
        refusal(ledger.live(held.id, at(8)).await),
        Refusal::LeaseNotOpen("revoking")
    );
}

/// The reaper may be late: nothing is issued, renewed or seen as active for it all the same.
pub(super) async fn nothing_is_given_out_below_a_task_past_its_due_instant(ledger: Subject) {
    let mut root = task_at(START);
    root.charter.heartbeat = Ttl::from_secs(60);
    let root = ledger.opened(root).await;
    let middle = ledger.opened(below(&root, "report-bot", at(1))).await;
    let leaf = ledger.opened(below(&middle, "fetch-bot", at(2))).await;
    let held = ledger.hold(active_at(&leaf, at(3))).await;
    assert!(ledger.live(held.id, at(59)).await.is_ok());
    ledger.renew(held.id, until(400), at(59)).await.unwrap();
    let over = Refusal::TaskNotOpen(TaskState::Ended {
        outcome: Outcome::ParentEnded,
        at: at(60),
    });
    assert_eq!(refusal(ledger.live(held.id, at(60)).await), over);
    assert_eq!(refusal(ledger.renew(held.id, until(500), at(60)).await), over);
    assert_eq!(refusal(ledger.try_hold(&active_at(&leaf, at(60))).await), over);
    assert_eq!(refusal(ledger.try_hold(&lease_at(&middle, at(60))).await), over);
    ledger
        .advanced(&root, TaskChange::End(Outcome::Lost), at(61))
        .await;
    assert_eq!(cause_of(&ledger.stored(held.id).await), Some(PARENT_ENDED));
}

pub(super) async fn a_lease_is_found_under_each_task_and_agent_above(ledger: Subject) {
    let [root, middle, leaf] = tree(&ledger).await;
    let held = [
        ledger.hold(active_at(&root, at(3))).await,
        ledger.hold(active_at(&middle, at(4))).await,
        ledger.hold(lease_at(&leaf, at(5))).await,
    ];
    let found = async |filter: Filter| {
        let page = Page {
            after: None,
            limit: most(),
        };
        ledger.find(&filter, &page).await.unwrap()
    };
    for (place, task) in [root, middle, leaf].into_iter().enumerate() {
        for live in [false, true] {
            let of_task = Filter {
                task: Some(task.charter.id),
                live,
                ..Filter::default()
            };
            let of_agent = Filter {
                agent: Some(task.charter.agent.clone()),
                live,
                ..Filter::default()
            };
            for filter in [of_task, of_agent] {
                assert_eq!(found(filter.clone()).await, held[place..], "{filter:?}");
            }
        }
    }
}

pub(super) async fn a_cutoff_reaches_what_was_handed_on(ledger: Subject) {
    let [root, middle, leaf] = tree(&ledger).await;
    let held = ledger.hold(active_at(&leaf, at(3))).await;
    let reserved = ledger.hold(lease_at(&leaf, at(3))).await;
    for (second, selector) in [
        (4, Selector::Agent(middle.charter.agent.clone())),
        (6, Selector::Task(root.charter.id)),
        (8, Selector::Agent(root.charter.agent.clone())),
    ] {
        ledger
            .cut(&cutoff(selector.clone(), at(second), at(second)))
            .await
            .unwrap();
        let cut = refusal(ledger.try_hold(&active_at(&leaf, at(second))).await);
        assert_eq!(cut, Refusal::Cut(selector));
        assert!(matches!(
            refusal(ledger.live(held.id, at(second)).await),
            Refusal::Cut(_)
        ));
        ledger.hold(active_at(&leaf, at(second + 1))).await; // made after it
    }
    let handle = dayfly::model::lease::Handle("x".to_owned());
    let activated = ledger.activate(reserved.id, &handle, at(100)).await;
    assert!(matches!(refusal(activated), Refusal::Cut(_)));
    ledger.hold(active_at(&root, at(9))).await;
}

pub(super) async fn a_cutoff_of_a_trust_domain_reaches_what_was_handed_on_from_it(ledger: Subject) {
    let domain = |name: &str| -> TrustDomain { name.parse().unwrap() };
    let mut root = task_at(START);
    root.charter.trust_domain = Some(domain("partner.example"));
    let root = ledger.opened(root).await;
    let middle = ledger.opened(below(&root, "report-bot", at(1))).await;
    let leaf = ledger.opened(below(&middle, "fetch-bot", at(2))).await;
    let beside = ledger.open_task().await;
    let [held, reserved] = [active_at(&leaf, at(3)), lease_at(&leaf, at(3))];
    for lease in [&held, &reserved] {
        assert_eq!(lease.trust_domain, Some(domain("example.org")));
        ledger.hold(lease.clone()).await;
    }
    let spared = ledger.hold(active_at(&beside, at(3))).await;
    let partner = Selector::TrustDomain(domain("partner.example"));
    let order = cutoff(partner.clone(), at(4), at(4));
    ledger.cut(&order).await.unwrap();
    let refused = refusal(ledger.try_hold(&active_at(&leaf, at(4))).await);
    assert_eq!(refused, Refusal::Cut(partner.clone()));
    for refused in [
        ledger.live(held.id, at(4)).await,
        ledger.renew(held.id, until(400), at(4)).await,
    ] {
        assert_eq!(refusal(refused), Refusal::Cut(partner.clone()));
    }
    let handle = dayfly::model::lease::Handle("x".to_owned());
    let activated = ledger.activate(reserved.id, &handle, at(100)).await;
    assert_eq!(refusal(activated), Refusal::Cut(partner));
    assert!(ledger.stored(held.id).await.is_cut_by(&order));
    assert!(!ledger.live(spared.id, at(4)).await.unwrap().is_cut_by(&order));
    ledger.hold(active_at(&leaf, at(5))).await; // made after it
}

pub(super) async fn a_tree_is_forgotten_with_all_its_leases(ledger: Subject) {
    let tree = tree(&ledger).await;
    let mut leases: Vec<Lease> = Vec::new();
    for task in &tree {
        leases.push(ledger.hold(lease_at(task, at(3))).await);
    }
    ledger
        .advanced(&tree[0], TaskChange::End(Outcome::Completed), at(4))
        .await;
    for claim in ledger.due_leases(at(4)).await {
        ledger.settle(&claim, ended(at(5)), at(5)).await.unwrap();
    }
    for lease in &leases {
        let lease = ledger.stored(lease.id).await;
        assert!(matches!(lease.state, LeaseState::Ended { .. }));
    }
    let later = at(6).plus(RETENTION);
    for second in 0..3 {
        ledger.due(later.plus(secs(second))).await;
    }
    for (task, lease) in tree.iter().zip(&leases) {
        assert_eq!(ledger.task(task.charter.id).await.unwrap(), None);
        assert_eq!(ledger.lease(lease.id).await.unwrap(), None);
        let page = Page {
            after: None,
            limit: most(),
        };
        for filter in [
            Filter {
                task: Some(task.charter.id),
                ..Filter::default()
            },
            Filter {
                agent: Some(task.charter.agent.clone()),
                ..Filter::default()
            },
        ] {
            assert!(ledger.find(&filter, &page).await.unwrap().is_empty());
        }
    }
}
