//! The annotations that mean something here: `@id`, `@max_ttl`, `@approval` and `@terms_only` on permits,
//! `@reason` on forbids.
//!
//! Cedar takes any annotation and gives it no meaning, so a misspelt obligation would be silently void. What
//! looks like one of ours and is not, or stands where it has no effect, is refused at load.

use cedar_policy::{Effect, Policy};
use serde::Serialize;

use crate::model::decision::Obligations;

/// The longest `@reason`, in characters.
const LONGEST_REASON: usize = 200;
/// The longest `@id`, in bytes.
const LONGEST_ID: usize = 128;

const OURS: [&str; 5] = ["id", "max_ttl", "approval", "reason", "terms_only"];

/// What the annotations of one policy say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    /// `@id`.
    pub id: Option<String>,
    /// `@max_ttl` and `@approval`.
    pub obligations: Obligations,
    /// `@terms_only`: it permits nothing by itself and holds whatever others permit to its terms.
    pub only: bool,
    /// `@reason`.
    pub reason: Option<String>,
}

/// An annotation that is wrong, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Misused {
    /// Its name, without the `@`.
    pub name: String,
    /// Why.
    pub message: String,
}

/// Reads the annotations of a policy: what they say, and everything that is wrong with them.
pub(super) fn read(policy: &Policy) -> (Terms, Vec<Misused>) {
    let mut terms = Terms::default();
    let mut wrong = Vec::new();
    for (name, value) in policy.annotations() {
        if let Err(message) = take(&mut terms, policy.effect(), name, value) {
            wrong.push(Misused {
                name: name.to_owned(),
                message,
            });
        }
    }
    if terms.only && terms.obligations == Obligations::default() {
        wrong.push(Misused {
            name: "terms_only".to_owned(),
            message: "`@terms_only` without `@max_ttl` or `@approval` has no effect".to_owned(),
        });
    }
    (terms, wrong)
}

fn take(terms: &mut Terms, effect: Effect, name: &str, value: &str) -> Result<(), String> {
    match (name, effect) {
        ("id", _) => terms.id = Some(id(value)?.to_owned()),
        ("max_ttl", Effect::Permit) => {
            terms.obligations.max_ttl = Some(value.parse().map_err(|error| format!("`@max_ttl`: {error}"))?);
        }
        ("approval", Effect::Permit) => {
            terms.obligations.approval =
                Some(value.parse().map_err(|error| format!("`@approval`: {error}"))?);
        }
        ("terms_only", Effect::Permit) if value.is_empty() => terms.only = true,
        ("terms_only", Effect::Permit) => return Err("`@terms_only` takes no value".to_owned()),
        ("reason", Effect::Forbid) => terms.reason = Some(reason(value)?.to_owned()),
        ("max_ttl" | "approval" | "terms_only", Effect::Forbid) => {
            return Err(format!(
                "`@{name}` belongs on a permit: on a forbid it has no effect"
            ));
        }
        ("reason", Effect::Permit) => {
            return Err("`@reason` belongs on a forbid: it is what the refused agent is told".to_owned());
        }
        (other, _) => {
            if let Some(ours) = resembles(other) {
                return Err(format!(
                    "`@{other}` has no meaning; write `@{ours}` or another name"
                ));
            }
        }
    }
    Ok(())
}

fn id(value: &str) -> Result<&str, String> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
    if value.is_empty() || value.len() > LONGEST_ID || !value.bytes().all(letter) {
        return Err(format!(
            "`@id` takes 1 to {LONGEST_ID} letters, digits and `-_./:`"
        ));
    }
    Ok(value)
}

fn reason(value: &str) -> Result<&str, String> {
    let fits = (1..=LONGEST_REASON).contains(&value.chars().count());
    if !fits || value.trim().is_empty() || value.chars().any(char::is_control) {
        return Err(format!(
            "`@reason` takes 1 to {LONGEST_REASON} characters on one line"
        ));
    }
    Ok(value)
}

/// Which of our annotations a name was probably meant to be.
fn resembles(name: &str) -> Option<&'static str> {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase();
    OURS.into_iter().find(|ours| {
        let ours_plain = ours.replace('_', "");
        let stem = ours_plain.get(..4).unwrap_or(&ours_plain);
        plain == ours_plain
            || plain == "ttl" && *ours == "max_ttl"
            || ours.len() > 2
                && (plain.starts_with(stem) || super::problem::distance(&plain, &ours_plain) <= 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Result<Terms, Vec<Misused>> {
        let (terms, wrong) = read(&Policy::parse(None, text).unwrap());
        if wrong.is_empty() { Ok(terms) } else { Err(wrong) }
    }

    #[test]
    fn reads_obligations_of_permits_and_reasons_of_forbids() {
        let permit = terms(
            r#"@id("a.b") @max_ttl("5m") @approval("oncall") @owner("x") permit(principal, action, resource);"#,
        );
        let permit = permit.unwrap();
        assert_eq!(permit.id.as_deref(), Some("a.b"));
        assert_eq!(permit.obligations.max_ttl, Some("5m".parse().unwrap()));
        assert_eq!(permit.obligations.approval, Some("oncall".parse().unwrap()));
        let forbid = terms(r#"@reason("not today") forbid(principal, action, resource);"#).unwrap();
        assert_eq!(forbid.reason.as_deref(), Some("not today"));
    }

    #[test]
    fn refuses_annotations_that_are_misplaced_or_out_of_bounds() {
        let long = format!(r#"@reason("{}") forbid"#, "x".repeat(201));
        for head in [
            r#"@max_ttl("5m") forbid"#,
            r#"@terms_only forbid"#,
            r#"@terms_only permit"#,
            r#"@terms_only("yes") @max_ttl("5m") permit"#,
            r#"@approval("oncall") forbid"#,
            r#"@reason("because") permit"#,
            r#"@max_ttl("5 minutes") permit"#,
            r#"@max_ttl permit"#,
            r#"@approval("On Call") permit"#,
            r#"@id("") permit"#,
            r#"@id("a b") permit"#,
            r#"@reason("") forbid"#,
            r#"@reason("a\nb") forbid"#,
            &long,
        ] {
            assert_eq!(
                terms(&format!("{head}(principal, action, resource);"))
                    .unwrap_err()
                    .len(),
                1,
                "{head}"
            );
        }
    }

    #[test]
    fn refuses_what_resembles_ours_and_leaves_the_rest_alone() {
        for name in [
            "max_tll", "maxttl", "maxTTL", "ttl", "aproval", "approver", "reasons", "ID",
        ] {
            let text = format!(r#"@{name}("5m") permit(principal, action, resource);"#);
            assert!(terms(&text).is_err(), "{name}");
        }
        for name in ["owner", "ticket", "description", "since", "region"] {
            let text = format!(r#"@{name}("5m") permit(principal, action, resource);"#);
            assert!(terms(&text).is_ok(), "{name}");
        }
    }
}
