//! The head index: from a request to the policies that can matter to it.
//!
//! The head of a policy says for whom, for what and where it holds. A policy whose head does not match can
//! neither decide nor fail, so it is not evaluated: a decision costs as much as the policies it touches,
//! not as many as there are. At load each policy goes into the bucket of its head. For an (agent, action) the
//! few buckets that match become a **slice**: a policy set, made once and kept for the next request.
//!
//! Policies about a path inside a tool are in slices of their own, one for each path that some policy names, so
//! that the policies of one customer cost nothing to the requests about another.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use cedar_policy::{ActionConstraint, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint};

use crate::model::attestation::EvidenceKind;
use crate::model::spiffe::TrustDomain;

use super::Question;
use super::cedar::Verdict;
use super::load::Loaded;
use super::reads::{Mentions, View};

/// For whom a policy holds, as far as its head says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Who {
    Anyone,
    Agent(String),
    Role(String),
}

/// For which action: one by name, or a group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum What {
    Anything,
    Action(String),
}

/// On which resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Where {
    Anywhere,
    Tool(String),
    /// The whole tool or a path in it, and what lies below.
    Path(String),
}

fn named<T>(uid: &EntityUid, kind: &str, key: fn(String) -> T, otherwise: T) -> T {
    let name: &str = uid.id().as_ref();
    if uid.type_name().basename() == kind {
        key(name.to_owned())
    } else {
        otherwise
    }
}

/// What a head says that is not understood here counts as "any": evaluating too much is never wrong.
pub(super) fn who(policy: &Policy) -> Who {
    match policy.principal_constraint() {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => Who::Anyone,
        PrincipalConstraint::Eq(uid) => named(&uid, "Agent", Who::Agent, Who::Anyone),
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
            let role = named(&uid, "Role", Who::Role, Who::Anyone);
            named(&uid, "Agent", Who::Agent, role)
        }
    }
}

pub(super) fn what(policy: &Policy) -> Vec<What> {
    let key = |uid: &EntityUid| named(uid, "Action", What::Action, What::Anything);
    match policy.action_constraint() {
        ActionConstraint::Any => vec![What::Anything],
        ActionConstraint::Eq(uid) => vec![key(&uid)],
        ActionConstraint::In(uids) => uids.iter().map(key).collect(),
    }
}

pub(super) fn place(policy: &Policy) -> Where {
    match policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => Where::Anywhere,
        ResourceConstraint::Eq(uid) => named(&uid, "Resource", Where::Path, Where::Anywhere),
        ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            let tool = named(&uid, "Tool", Where::Tool, Where::Anywhere);
            named(&uid, "Resource", Where::Path, tool)
        }
    }
}

/// Whose request for which action on which resource, as far as heads can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heading<'a> {
    /// The name of the agent.
    pub(super) agent: &'a str,
    /// The name of the action, such as `crm:read`.
    pub(super) action: &'a str,
    /// The group of the action: its effect.
    pub(super) group: &'a str,
    /// The name of the tool.
    pub(super) tool: &'a str,
    /// `None` for the policies about the tool or about anything; else one of [`HeadIndex::paths`].
    pub(super) path: Option<&'a str>,
}

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct HeadIndex {
    buckets: HashMap<(Who, What, Where), Vec<usize>>,
    paths: HashSet<Arc<str>>,
}

impl HeadIndex {
    pub(super) fn of(policies: &[Loaded]) -> Self {
        let mut index = Self::default();
        for (number, loaded) in policies.iter().enumerate() {
            let (who, place) = (who(&loaded.policy), place(&loaded.policy));
            if let Where::Path(path) = &place {
                index.paths.insert(path.as_str().into());
            }
            for what in what(&loaded.policy) {
                index
                    .buckets
                    .entry((who.clone(), what, place.clone()))
                    .or_default()
                    .push(number);
            }
        }
        index
    }

    /// Of a resource named `crm/customers/42`: itself and everything above it that some policy's head names.
    pub(super) fn paths(&self, resource: &str) -> impl Iterator<Item = &Arc<str>> {
        let mut rest = (!self.paths.is_empty()).then_some(resource);
        std::iter::from_fn(move || {
            let path = rest?;
            rest = path.rsplit_once('/').map(|(above, _)| above);
            Some(path)
        })
        .filter_map(|path| self.paths.get(path))
    }

    /// The numbers of the policies whose heads match, in the order of the text.
    pub(super) fn matching<'a>(
        &self,
        heading: Heading<'_>,
        roles: impl Iterator<Item = &'a str>,
    ) -> BTreeSet<usize> {
        let principals = [Who::Anyone, Who::Agent(heading.agent.to_owned())]
            .into_iter()
            .chain(roles.map(|role| Who::Role(role.to_owned())));
        let actions = [heading.action, heading.group].map(|name| What::Action(name.to_owned()));
        let places = match heading.path {
            None => vec![Where::Anywhere, Where::Tool(heading.tool.to_owned())],
            Some(path) => vec![Where::Path(path.to_owned())],
        };
        let mut numbers = BTreeSet::new();
        for who in principals {
            for what in actions.iter().chain([&What::Anything]) {
                for place in &places {
                    let key = (who.clone(), what.clone(), place.clone());
                    numbers.extend(self.buckets.get(&key).into_iter().flatten());
                }
            }
        }
        numbers
    }
}

/// A registered agent, attested in one way.
pub(super) type AgentKey = (Arc<str>, EvidenceKind, Option<TrustDomain>);

/// Whether a question is about a task, and about one that runs on somebody's behalf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Presence {
    task: bool,
    user: bool,
}

impl Presence {
    pub(super) fn of(question: &Question<'_>) -> Self {
        Self {
            task: question.task.is_some(),
            user: question.task.is_some_and(|task| task.on_behalf_of.is_some()),
        }
    }
}

/// The key of a slice: agent, action, path, and whether there are a task and a user.
pub(super) type SliceKey = (AgentKey, Arc<str>, Option<Arc<str>>, Presence);

/// The policies whose heads match.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// What those said that look neither at the request nor at facts: it is the same each time.
    pub(super) fixed: Verdict,
    /// What those said that look at facts too: for as long as no fact is in force that they mention.
    pub(super) untold: Verdict,
    /// The same policies, to be asked when one is; none when there are none.
    pub(super) tagged: Option<PolicySet>,
    /// The others, to be asked each time; none when there are none.
    pub(super) open: Option<PolicySet>,
    /// What the others look at of the context.
    pub(super) view: View,
    /// The facts that policies of this slice mention.
    pub(super) mentions: Mentions,
    /// How many policies went into it.
    pub(super) policies: usize,
}

/// What was made so far. It belongs to one engine, thus to one revision: a new revision starts empty.
#[derive(Debug)]
pub(super) struct Kept<K, V>(Mutex<Generations<K, Arc<V>>>);

/// A bounded memory that forgets what was not used lately: what is found in the old generation moves to the
/// young one; when the young one is full it becomes the old one, and the old one goes.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    weight: usize,
    heaviest: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Generations<K, V> {
    pub(super) fn new(heaviest: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            weight: 0,
            heaviest,
        }
    }

    pub(super) fn get(&mut self, key: &K, weigh: impl Fn(&V) -> usize) -> Option<V> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let found = self.old.remove(key)?;
        self.insert(key.clone(), found.clone(), weigh(&found));
        Some(found)
    }

    pub(super) fn insert(&mut self, key: K, value: V, weight: usize) {
        if self.weight + weight > self.heaviest {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += weight;
        self.young.insert(key, value);
    }
}

impl<K: Eq + Hash + Clone, V> Kept<K, V> {
    /// Room for this much weight in one generation.
    pub(super) fn new(heaviest: usize) -> Self {
        Self(Mutex::new(Generations::new(heaviest)))
    }

    /// What is kept under this key, or made now.
    pub(super) fn get<E>(
        &self,
        key: K,
        weigh: impl Fn(&V) -> usize,
        make: impl FnOnce() -> Result<Arc<V>, E>,
    ) -> Result<Arc<V>, E> {
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept().get(&key, |found| weigh(found)) {
            return Ok(found);
        }
        let made = make()?;
        kept().insert(key, made.clone(), weigh(&made));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reads::Reads;
    use super::*;

    #[test]
    fn generations_keep_what_is_used_and_forget_the_rest() {
        let mut kept: Generations<u32, u32> = Generations::new(4);
        for number in 0..4 {
            kept.insert(number, number, 1);
        }
        kept.insert(4, 4, 1);
        assert_eq!(
            kept.get(&0, |_| 1),
            Some(0),
            "old, and used: it moves to the young"
        );
        for number in 5..8 {
            kept.insert(number, number, 1);
        }
        assert_eq!(kept.get(&0, |_| 1), Some(0));
        assert_eq!(kept.get(&1, |_| 1), None, "old, and not used");
        assert!(kept.young.len() + kept.old.len() <= 8);
    }

    #[test]
    fn a_bucket_is_found_by_each_way_to_name_it_and_by_no_other() {
        let heads = [
            r#"principal == Agent::"a", action, resource"#,
            r#"principal in Role::"r", action in [Action::"t:x", Action::"read"], resource in Tool::"t""#,
            r#"principal, action == Action::"t:x", resource in Resource::"t/one""#,
            r#"principal is Agent, action in Action::"write", resource"#,
        ];
        let policies: Vec<Loaded> = heads
            .iter()
            .enumerate()
            .map(|(n, head)| loaded(n, head))
            .collect();
        let index = HeadIndex::of(&policies);
        let heading = Heading {
            agent: "a",
            action: "t:x",
            group: "read",
            tool: "t",
            path: None,
        };
        let find = |heading, roles: &[&'static str]| {
            let found = index.matching(heading, roles.iter().copied());
            found.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(find(heading, &["r"]), [0, 1]);
        assert_eq!(
            find(
                Heading {
                    agent: "b",
                    ..heading
                },
                &[]
            ),
            [0; 0]
        );
        assert_eq!(
            find(
                Heading {
                    tool: "u",
                    agent: "b",
                    ..heading
                },
                &["r"]
            ),
            [0; 0]
        );
        assert_eq!(
            find(
                Heading {
                    action: "t:y",
                    group: "write",
                    agent: "b",
                    ..heading
                },
                &["r"]
            ),
            [3]
        );
        assert_eq!(
            find(
                Heading {
                    path: Some("t/one"),
                    ..heading
                },
                &["r"]
            ),
            [2]
        );
        let paths = |name| index.paths(name).map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(paths("t/one/two"), ["t/one"]);
        assert_eq!(paths("t/ones"), [""; 0]);
    }

    fn loaded(number: usize, head: &str) -> Loaded {
        let id = cedar_policy::PolicyId::new(number.to_string());
        let policy = Policy::parse(Some(id), format!("permit({head});")).unwrap();
        Loaded {
            id: crate::model::decision::PolicyId(number.to_string().into()),
            at: super::super::problem::Position::of(&"a".into(), "", 0),
            effect: policy.effect(),
            terms: Default::default(),
            reads: Reads::of(&policy),
            policy,
        }
    }
}
