//! What stands in a deny slot: an inline policy of a role that denies everything to the sessions of
//! leases that ended early.
//!
//! The slot is the only memory there is, and several Dayflies write to it. So everything is in the
//! policy itself: the leases, in statements whose ids say until when they matter. A document that does
//! not look exactly as it was written is refused: what it denies would be a guess.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::ids::LeaseId;
use crate::model::time::Timestamp;

/// The key that sessions carry the id of their lease under.
pub(super) const LEASE_TAG: &str = "dayfly:lease";
/// The most characters of all inline policies of a role together; IAM does not count white space.
pub(super) const MOST_CHARACTERS: usize = 10_240;

/// Ends are rounded up to this, so that many leases share a statement.
const BUCKET: u64 = 120;
const EMPTY: &str = "DayflyDenySlot";
const LISTED: &str = "DayflyUntil";
const WIDE: &str = "DayflyRoleWideUntil";

/// Who is denied, and until when that matters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Denials {
    leases: BTreeMap<LeaseId, Timestamp>,
    wide: Option<Wide>,
}

/// Everybody whose session is older than an instant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Wide {
    issued_before: Timestamp,
    until: Timestamp,
}

impl Denials {
    /// Reads the document of a slot.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_str(text).map_err(|_| "it is no JSON".to_owned())?;
        let mut denials = Self::default();
        let statements = document.get("Statement").and_then(Value::as_array);
        for statement in statements.ok_or("it has no list of statements")? {
            denials.read(statement)?;
        }
        if denials.value() == document {
            return Ok(denials);
        }
        Err("it does not look as Dayfly wrote it".into())
    }

    fn read(&mut self, statement: &Value) -> Result<(), String> {
        let sid = statement.get("Sid").and_then(Value::as_str).unwrap_or_default();
        let until = |prefix| {
            let digits: Option<u64> = sid.strip_prefix(prefix).and_then(|digits| digits.parse().ok());
            digits.map(Timestamp::from_secs)
        };
        if let Some(until) = until(LISTED) {
            let pointer = format!("/Condition/StringEquals/aws:PrincipalTag~1{LEASE_TAG}");
            let leases = statement.pointer(&pointer).and_then(Value::as_array);
            for lease in leases.into_iter().flatten() {
                let lease = lease.as_str().and_then(|lease| lease.parse().ok());
                self.leases
                    .insert(lease.ok_or("it names something that is no lease")?, until);
            }
        } else if let Some(until) = until(WIDE) {
            let instant = statement.pointer("/Condition/DateLessThan/aws:TokenIssueTime");
            let instant = instant.and_then(Value::as_str).and_then(|text| text.parse().ok());
            self.wide = Some(Wide {
                issued_before: instant.ok_or("it names something that is no instant")?,
                until,
            });
        } else if sid != EMPTY {
            return Err(format!(
                "it has a statement that is not Dayfly's: `{}`",
                sid.escape_default()
            ));
        }
        Ok(())
    }

    /// The document as IAM gets it.
    pub(super) fn text(&self) -> String {
        self.value().to_string()
    }

    fn value(&self) -> Value {
        // IAM takes no policy without statements. Sessions cannot call this anyway.
        let mut statements = vec![
            json!({"Sid": EMPTY, "Effect": "Deny", "Action": "sts:GetFederationToken", "Resource": "*"}),
        ];
        if let Some(wide) = self.wide {
            let before = super::session_policy::iso(wide.issued_before);
            let condition = json!({"DateLessThan": {"aws:TokenIssueTime": before}});
            statements.push(deny(format!("{WIDE}{}", wide.until.as_secs()), condition));
        }
        let mut buckets: BTreeMap<u64, BTreeSet<LeaseId>> = BTreeMap::new();
        for (lease, until) in &self.leases {
            buckets.entry(bucket(*until)).or_default().insert(*lease);
        }
        for (until, leases) in buckets {
            let condition = json!({"StringEquals": {format!("aws:PrincipalTag/{LEASE_TAG}"): leases}});
            statements.push(deny(format!("{LISTED}{until}"), condition));
        }
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    /// Whether every session of a lease is denied, and at least until then.
    pub(super) fn holds(&self, lease: LeaseId, until: Timestamp) -> bool {
        self.leases.get(&lease).is_some_and(|listed| *listed >= until)
    }

    /// Whether a lease is listed at all.
    pub(super) fn lists(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Denies a lease until then, and never for less long than before.
    pub(super) fn add(&mut self, lease: LeaseId, until: Timestamp) {
        let until = Timestamp::from_secs(bucket(until));
        let listed = self.leases.entry(lease).or_insert(until);
        *listed = until.max(*listed);
    }

    /// Denies every session that is older than this, and forgets the leases: whatever they had is older.
    pub(super) fn widen(&mut self, issued_before: Timestamp, until: Timestamp) {
        let issued_before = Timestamp::from_secs(issued_before.as_secs());
        let until = Timestamp::from_secs(until.as_secs());
        self.leases.clear();
        self.wide = Some(Wide { issued_before, until });
    }

    /// Forgets what no session can be alive of any more.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.leases.retain(|_, until| *until > now);
        self.wide = self.wide.filter(|wide| wide.until > now);
    }

    /// Adds what another one denies.
    pub(super) fn merge(&mut self, other: &Self) {
        for (lease, until) in &other.leases {
            self.add(*lease, *until);
        }
        self.wide = self.wide.max(other.wide);
    }

    /// Whether everything that another one denies is denied here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other
            .leases
            .iter()
            .all(|(lease, until)| self.holds(*lease, *until))
            && self.wide >= other.wide
    }

    /// How many characters it takes of what IAM gives a role.
    pub(super) fn size(&self) -> usize {
        self.text().len()
    }

    /// Whether nobody is denied.
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.wide.is_none()
    }

    /// How many leases are listed.
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }
}

fn deny(sid: String, condition: Value) -> Value {
    json!({"Sid": sid, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
}

fn bucket(until: Timestamp) -> u64 {
    let up = until.plus(Duration::from_millis(999)).as_secs();
    up.div_ceil(BUCKET).saturating_mul(BUCKET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TaskId;

    const NOW: Timestamp = Timestamp::from_millis(1_795_329_000_250);

    fn lease(n: u8) -> LeaseId {
        LeaseId::new(TaskId::new(NOW, [1; 10]), NOW, [n; 10])
    }

    fn later(secs: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(secs))
    }

    #[test]
    fn says_exactly_this_and_reads_it_back() {
        let mut denials = Denials::default();
        denials.add(lease(1), later(10));
        denials.add(lease(2), later(20));
        denials.add(lease(3), later(3600));
        assert_eq!(
            denials.value(),
            json!({"Version": "2012-10-17", "Statement": [
                {"Sid": "DayflyDenySlot", "Effect": "Deny", "Action": "sts:GetFederationToken", "Resource": "*"},
                {"Sid": "DayflyUntil1795329120", "Effect": "Deny", "Action": "*", "Resource": "*", "Condition":
                    {"StringEquals": {"aws:PrincipalTag/dayfly:lease": [lease(1), lease(2)]}}},
                {"Sid": "DayflyUntil1795332720", "Effect": "Deny", "Action": "*", "Resource": "*", "Condition":
                    {"StringEquals": {"aws:PrincipalTag/dayfly:lease": [lease(3)]}}},
            ]})
        );
        assert_eq!(Denials::parse(&denials.text()), Ok(denials));
        assert_eq!(Denials::parse(&Denials::default().text()), Ok(Denials::default()));
    }

    #[test]
    fn an_entry_is_forgotten_after_its_end_and_never_before() {
        let mut denials = Denials::default();
        denials.add(lease(1), later(10));
        for now in [NOW, later(10)] {
            denials.forget(now);
            assert!(denials.holds(lease(1), later(10)));
        }
        denials.forget(later(10 + BUCKET));
        assert!(!denials.lists(lease(1)));
    }

    #[test]
    fn what_two_writers_deny_is_denied_together() {
        let (mut one, mut other) = (Denials::default(), Denials::default());
        one.add(lease(1), later(10));
        other.add(lease(1), later(900));
        other.widen(later(1), later(3600));
        other.add(lease(2), later(20));
        assert!(!one.covers(&other));
        one.merge(&other);
        assert!(one.covers(&other) && one.lists(lease(1)) && one.lists(lease(2)));
        assert!(!other.covers(&one));
    }

    #[test]
    fn an_entry_only_grows_longer() {
        let mut denials = Denials::default();
        denials.add(lease(1), later(900));
        denials.add(lease(1), later(10));
        assert!(denials.holds(lease(1), later(900)));
        assert!(!denials.holds(lease(1), later(9000)));
    }

    #[test]
    fn role_wide_takes_the_place_of_the_list() {
        let mut denials = Denials::default();
        denials.add(lease(1), later(10));
        denials.widen(later(1), later(3600));
        denials.add(lease(2), later(20));
        let text = denials.text();
        assert!(
            text.contains(r#""DateLessThan":{"aws:TokenIssueTime":"2026-11-22T06:30:01Z"}"#),
            "{text}"
        );
        assert_eq!((denials.lists(lease(1)), denials.lists(lease(2))), (false, true));
        assert_eq!(Denials::parse(&text), Ok(denials.clone()));
        denials.forget(later(3600));
        assert_eq!(denials, Denials::default());
    }

    #[test]
    fn what_somebody_changed_is_not_taken_for_a_denial() {
        let mut denials = Denials::default();
        denials.add(lease(1), later(10));
        let good = denials.text();
        for (from, to) in [
            ("\"Deny\"", "\"Allow\""),
            ("\"Action\":\"*\"", "\"Action\":\"s3:*\""),
            ("StringEquals", "StringNotEquals"),
            ("lse_", "tsk_"),
            ("DayflyUntil", "Until"),
            ("2012-10-17", "2008-10-17"),
            (
                "\"Statement\":[",
                "\"Statement\":[{\"Sid\":\"Mine\",\"Effect\":\"Deny\",\"Action\":\"*\",\"Resource\":\"*\"},",
            ),
        ] {
            let changed = good.replacen(from, to, 1);
            assert_ne!(changed, good, "{from}");
            assert!(Denials::parse(&changed).is_err(), "{changed}");
        }
        for bad in ["", "{}", "[]", "{\"Statement\":{}}"] {
            assert!(Denials::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slot_holds_hundreds_of_leases() {
        let mut denials = Denials::default();
        for n in 0..=255 {
            denials.add(lease(n), later(u64::from(n) * 3));
        }
        assert!(
            denials.text().len() <= MOST_CHARACTERS,
            "{}",
            denials.text().len()
        );
    }
}
