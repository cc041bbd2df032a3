//! What an access token says (RFC 9068), and what it permits. A token that cannot be read in full is no token.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::Refusal;
use super::cutoff::{Cutoff, Selector};

/// The `typ` of an access token (RFC 9068 §2.1).
pub(super) const TYP: &str = "at+jwt";

/// The claims of a token that was accepted. Instants are whole seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Claims {
    /// Who issued it: the URL of the broker.
    pub iss: String,
    /// For whom the agent acts: the user of the task, or the agent itself.
    pub sub: String,
    /// What kind of thing `sub` is.
    pub sub_profile: Profile,
    /// The one tool that it is for.
    pub aud: String,
    /// The agent that got it.
    pub client_id: String,
    /// When it was issued.
    pub iat: u64,
    /// From when it is valid.
    pub nbf: u64,
    /// When it ends.
    pub exp: u64,
    /// Its lease.
    pub jti: LeaseId,
    /// The task: the same in every token, record and event of it.
    pub txn: String,
    /// A summary for logs. Nothing is decided by it.
    #[serde(default)]
    pub scope: String,
    /// What it permits. This counts.
    pub authorization_details: Vec<Detail>,
    /// Who acts, when that is not `sub`, and in it who handed the work on.
    pub act: Option<Actor>,
    /// What the presenter has to prove. A token with it is not accepted here.
    pub cnf: Option<Value>,
    /// Where to look whether it was revoked (Token Status List §6.1).
    pub status: Option<Status>,
    /// What Dayfly knows it by.
    #[serde(rename = "https://dayfly.dev/claims")]
    pub marks: Marks,
}

/// What kind of thing a subject is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// An agent.
    AiAgent,
    /// A person or a service on whose behalf an agent acts.
    User,
}

/// Who acts for the subject.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Actor {
    /// The agent.
    pub sub: String,
    /// Who handed the work on to it.
    pub act: Option<Box<Actor>>,
}

impl Actor {
    /// It, and each actor of before, nearest first.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |actor| actor.act.as_deref())
    }
}

/// What a token permits at one tool. A member that is not known here could narrow it, so there is none.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Detail {
    #[serde(rename = "type")]
    kind: DetailKind,
    /// Where: the audience of the tool.
    pub locations: Vec<String>,
    /// The permitted actions.
    pub actions: BTreeSet<String>,
    /// The permitted resources; none means the tool as a whole.
    #[serde(default, deserialize_with = "paths")]
    pub resources: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DetailKind {
    DayflyAccess,
}

/// What Dayfly knows a token by, for records, and for cutoffs.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Marks {
    /// Its task.
    pub task: String,
    /// The tasks that its task is part of, nearest first.
    #[serde(default)]
    pub parents: Vec<String>,
    /// Its lease.
    pub lease: LeaseId,
    /// The agent.
    pub agent: String,
    /// The tool.
    pub tool: String,
    /// The environment of the agent.
    pub environment: String,
    /// The trust domain that vouched for the workload.
    pub trust_domain: Option<String>,
    /// The other trust domains that vouched for whoever handed the work on, nearest first.
    #[serde(default)]
    pub parent_trust_domains: Vec<String>,
    /// The decision that permitted it.
    pub decision: String,
}

/// The `status` of a token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// On which list, and where in it.
    pub status_list: Reference,
}

/// One entry of one status list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// Which entry, from 0 on.
    pub idx: u64,
    /// Where the list is, and its name.
    pub uri: String,
}

impl Claims {
    /// Whether it permits this action on this resource, or, without one, on the tool as a whole. A resource covers what
    /// lies below it: `customers` covers `customers/42`, and not `customers-2`. What is no path of a resource, such as
    /// one with `..` in it, is never permitted.
    pub fn permits(&self, action: &str, resource: Option<&str>) -> bool {
        if !resource.is_none_or(is_path) {
            return false;
        }
        self.authorization_details.iter().any(|detail| {
            let covered = |asked| detail.resources.iter().any(|mine| covers(mine, asked));
            detail.locations.contains(&self.aud)
                && detail.actions.contains(action)
                && (detail.resources.is_empty() || resource.is_some_and(covered))
        })
    }

    /// Refuses unless the token [permits](Self::permits) it.
    pub fn demand(&self, action: &str, resource: Option<&str>) -> Result<(), Refusal> {
        match self.permits(action, resource) {
            true => Ok(()),
            false => Err(Refusal::NotPermitted(action.to_owned())),
        }
    }

    /// On whose behalf the agent acts, where it is somebody else's.
    pub fn user(&self) -> Option<&str> {
        (self.sub_profile == Profile::User).then_some(self.sub.as_str())
    }

    /// Whether it says the same in two places, and everything that it has to.
    pub(super) fn is_whole(&self) -> bool {
        let user =
            |sub: &str| !sub.trim().is_empty() && sub.len() <= 256 && !sub.chars().any(char::is_control);
        self.jti == self.marks.lease && self.txn == self.marks.task && self.user().is_none_or(user)
    }

    /// Every selector that matches this token. A cutoff ends it when its selector is one of these and the lease was made
    /// at or before the cutoff's instant.
    pub fn selectors(&self) -> impl Iterator<Item = Selector> {
        let marks = &self.marks;
        let actors = self.act.iter().flat_map(Actor::chain).map(|actor| &actor.sub);
        let above = actors.filter(|agent| **agent != marks.agent);
        [
            Some(Selector::Lease(marks.lease.0.clone())),
            Some(Selector::Task(marks.task.clone())),
            Some(Selector::Agent(marks.agent.clone())),
            Some(Selector::Tool(marks.tool.clone())),
            self.user().map(|user| Selector::User(user.to_owned())),
            Some(Selector::Environment(marks.environment.clone())),
            marks.trust_domain.clone().map(Selector::TrustDomain),
            Some(Selector::All),
        ]
        .into_iter()
        .flatten()
        .chain(marks.parents.iter().cloned().map(Selector::Task))
        .chain(above.cloned().map(Selector::Agent))
        .chain(
            marks
                .parent_trust_domains
                .iter()
                .cloned()
                .map(Selector::TrustDomain),
        )
    }

    /// Whether a cutoff ends it.
    pub fn is_cut_by(&self, cutoff: &Cutoff) -> bool {
        self.marks.lease.made_at() <= cutoff.up_to
            && self.selectors().any(|selector| selector == cutoff.selector)
    }
}

/// The id of a lease: `lse_` and a UUIDv7 in 26 characters of lower-case Crockford base 32. It says when it was made.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LeaseId(String, u64);

impl LeaseId {
    fn read(text: String) -> Option<Self> {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let digits = text.strip_prefix("lse_").filter(|digits| digits.len() == 26)?;
        let mut number: u128 = 0;
        for byte in digits.bytes() {
            let five = ALPHABET.iter().position(|&letter| letter == byte)?;
            // 26 digits hold 130 bits; the first two must be zero.
            number = number.checked_mul(32)? | u128::try_from(five).ok()?;
        }
        let (version, variant) = (number >> 76 & 0xf, number >> 62 & 0x3);
        let millis = u64::try_from(number >> 80).ok()?;
        (version == 7 && variant == 2).then_some(Self(text, millis))
    }

    /// As it is printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it was made, to the millisecond, by the clock of the broker that made it.
    pub fn made_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.1)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(text).ok_or_else(|| de::Error::custom("no id of a lease"))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is the path of a resource, in the one way that there is to write it.
fn is_path(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@:+=,".contains(&byte);
    let segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(letter);
    text.len() <= 256 && text.split('/').count() <= 16 && text.split('/').all(segment)
}

fn covers(mine: &str, asked: &str) -> bool {
    let rest = asked.strip_prefix(mine);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let paths = BTreeSet::<String>::deserialize(deserializer)?;
    match paths.iter().all(|path| is_path(path)) {
        true => Ok(paths),
        false => Err(de::Error::custom("no path of a resource")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{claims_of, start, token_of};
    use super::*;

    #[test]
    fn permits_what_it_says_and_nothing_else() {
        let token = token_of("support-bot", start(), 1);
        for (action, resource, permitted) in [
            ("read", Some("customers/42"), true),
            ("read", Some("customers/42/notes"), true),
            ("read", Some("customers/421"), false),
            ("read", Some("customers"), false),
            ("read", None, false),
            ("write", Some("customers/42"), false),
            ("read", Some("customers/42/../43"), false),
            ("read", Some("customers/42/"), false),
            ("read", Some("customers/42//x"), false),
            ("read", Some("customers/42/%2e%2e/43"), false),
        ] {
            assert_eq!(
                token.permits(action, resource),
                permitted,
                "{action} {resource:?}"
            );
        }
    }

    #[test]
    fn an_id_says_when_it_was_made_and_is_written_in_one_way() {
        let lease = &token_of("support-bot", start(), 1).marks.lease;
        assert_eq!(lease.made_at(), start());
        let known = LeaseId::read("lse_01m814kw8afef9cqw9066zsb7b".to_owned()).unwrap();
        let at = known.made_at().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(at.as_secs(), 1_795_334_729);
        for bad in [
            "",
            "lse_1",
            "tsk_01m814kw8afef9cqw9066zsb7b",
            "lse_01M814KW8AFEF9CQW9066ZSB7B",
            "lse_01m814kw8afef9cqw9066zsb7u",
            "lse_01m814kw8a8ef9cqw9066zsb7b",
            "lse_z1m814kw8afef9cqw9066zsb7b",
        ] {
            assert!(LeaseId::read(bad.to_owned()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_that_contradicts_itself_is_not_whole() {
        let claims = claims_of("support-bot", start(), 1);
        let other = claims_of("support-bot", start(), 2);
        for name in ["jti", "txn"] {
            let mut claims = claims.clone();
            claims[name] = other[name].clone();
            assert!(
                !serde_json::from_value::<Claims>(claims).unwrap().is_whole(),
                "{name}"
            );
        }
        assert!(serde_json::from_value::<Claims>(claims).unwrap().is_whole());
    }
}
