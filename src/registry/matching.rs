//! Match rules: from what was attested to a registered agent.
//!
//! A rule names who must have vouched and whom they must have vouched for. Text matches whole, or
//! below a segment boundary; never by substring or expression, because what a reviewer cannot
//! predict is a hole. A rule that would fit everybody of an authority is refused when it is made.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::model::attestation::{Attestation, EvidenceKind};
use crate::model::name::InvalidName;
use crate::model::parsed::parsed;
use crate::model::spiffe::{SpiffeId, TrustDomain};

/// A text to be matched whole, or with `/*` or `:*` at its end everything below that segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pattern {
    literal: String,
    below: bool,
}

const RULE: &str = "write the whole text, or end it in `/*` or `:*` to match what is below that segment";

impl Pattern {
    /// Whether the text fits. `a/*` fits `a/b` and `a/b/c`, not `a`, not `a/`, not `ab`.
    pub fn matches(&self, text: &str) -> bool {
        match text.strip_prefix(self.literal.as_str()) {
            Some(rest) => rest.is_empty() != self.below,
            None => false,
        }
    }

    /// Whether every text that fits `other` fits this pattern too.
    pub fn covers(&self, other: &Self) -> bool {
        if other.below {
            self.below && other.literal.starts_with(&self.literal)
        } else {
            self.matches(&other.literal)
        }
    }

    /// The text, when it is to be matched whole.
    pub fn exact(&self) -> Option<&str> {
        (!self.below).then_some(self.literal.as_str())
    }
}

impl FromStr for Pattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let below = text.ends_with("/*") || text.ends_with(":*");
        let literal = if below {
            text.strip_suffix('*').unwrap_or(text)
        } else {
            text
        };
        let shortest = if below { 2 } else { 1 };
        if literal.len() < shortest
            || literal.len() > 2048
            || literal.contains('*')
            || literal.chars().any(char::is_control)
        {
            return Err(InvalidName::new("pattern", text, RULE));
        }
        Ok(Self {
            literal: literal.into(),
            below,
        })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// One rule: which kind of evidence, vouched for by whom, about whom. Everything named has to fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MatchRule {
    kind: EvidenceKind,
    authority: String,
    subject: Option<Pattern>,
    claims: BTreeMap<String, Pattern>,
}

/// Why a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// Nobody was named who has to vouch.
    #[error("the rule does not say who has to vouch: name the `{0}`")]
    NoAuthority(&'static str),
    /// The rule fits whomever the authority vouches for.
    #[error("the rule fits everybody: give a `subject`, or a claim that says who the workload is")]
    FitsEverybody,
    /// The subject is not one that this kind of evidence can have.
    #[error("the subject can never fit: {0}")]
    Subject(&'static str),
    /// The named trust domain is not the one in the subject.
    #[error("the subject is not in trust domain `{0}`")]
    OtherTrustDomain(TrustDomain),
    /// The name of the trust domain is not one.
    #[error(transparent)]
    TrustDomain(#[from] InvalidName),
    /// More claims than a rule may name.
    #[error("a rule names at most {} claims", MatchRule::MOST_CLAIMS)]
    TooManyClaims,
}

/// Claims that every token of an issuer has, whoever it is for: they tell nobody apart.
const GENERIC: [&str; 11] = [
    "iss",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "nonce",
    "auth_time",
    "acr",
    "amr",
    "typ",
];

impl MatchRule {
    /// The most claims that one rule may name.
    pub const MOST_CLAIMS: usize = 16;

    /// A rule that says who has to vouch and tells workloads apart.
    ///
    /// `authority` is a trust domain, a configured cluster's name or an issuer, by `kind`; a SPIFFE
    /// subject implies its trust domain.
    pub fn new(
        kind: EvidenceKind,
        authority: Option<String>,
        subject: Option<Pattern>,
        claims: BTreeMap<String, Pattern>,
    ) -> Result<Self, InvalidRule> {
        if claims.len() > Self::MOST_CLAIMS {
            return Err(InvalidRule::TooManyClaims);
        }
        if subject.is_none() && claims.keys().all(|claim| GENERIC.contains(&claim.as_str())) {
            return Err(InvalidRule::FitsEverybody);
        }
        let authority = match kind {
            EvidenceKind::JwtSvid | EvidenceKind::X509Svid => trust_domain(authority, subject.as_ref())?,
            EvidenceKind::Kubernetes => {
                subject.as_ref().map_or(Ok(()), service_account)?;
                authority.ok_or(InvalidRule::NoAuthority("cluster"))?
            }
            EvidenceKind::Oidc => authority.ok_or(InvalidRule::NoAuthority("issuer"))?,
        };
        Ok(Self {
            kind,
            authority,
            subject,
            claims,
        })
    }

    /// The rule for exactly one SPIFFE ID, vouched for by its own trust domain.
    pub fn spiffe(id: &SpiffeId) -> Self {
        Self {
            kind: EvidenceKind::JwtSvid,
            authority: id.trust_domain().to_string(),
            subject: Some(Pattern {
                literal: id.to_string(),
                below: false,
            }),
            claims: BTreeMap::new(),
        }
    }

    /// The one subject that the rule fits, when it names one whole.
    pub fn exact_subject(&self) -> Option<&str> {
        self.subject.as_ref().and_then(Pattern::exact)
    }

    /// Which kind of evidence it takes.
    pub fn kind(&self) -> EvidenceKind {
        self.kind
    }

    /// Who has to vouch.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether the rule fits.
    pub fn matches(&self, attestation: &Attestation) -> bool {
        self.kind == attestation.kind
            && *self.authority == *attestation.authority
            && self
                .subject
                .as_ref()
                .is_none_or(|subject| subject.matches(&attestation.subject))
            && self.claims.iter().all(|(claim, pattern)| {
                attestation
                    .claims
                    .get(claim)
                    .is_some_and(|value| pattern.matches(value))
            })
    }

    /// Whether a workload with this SPIFFE ID fits, whatever else its evidence would have to say.
    pub fn may_be(&self, id: &SpiffeId) -> bool {
        self.kind.is_spiffe()
            && self.authority == id.trust_domain().as_str()
            && self
                .subject
                .as_ref()
                .is_none_or(|subject| subject.matches(id.as_str()))
    }

    /// Whether whoever fits `other` fits this rule too, so that `other` could tell nobody apart from it.
    pub fn covers(&self, other: &Self) -> bool {
        let pattern = |mine: &Pattern, theirs: Option<&Pattern>| theirs.is_some_and(|it| mine.covers(it));
        self.kind == other.kind
            && self.authority == other.authority
            && self
                .subject
                .as_ref()
                .is_none_or(|mine| pattern(mine, other.subject.as_ref()))
            && self
                .claims
                .iter()
                .all(|(claim, mine)| pattern(mine, other.claims.get(claim)))
    }
}

/// The trust domain that has to vouch: the one named, the one in the subject, and never two.
fn trust_domain(named: Option<String>, subject: Option<&Pattern>) -> Result<String, InvalidRule> {
    const NEVER: InvalidRule =
        InvalidRule::Subject("it is not a SPIFFE ID such as `spiffe://example.org/agents/a`");
    let named: Option<TrustDomain> = named.map(|name| name.parse()).transpose()?;
    let Some(subject) = subject else {
        return Ok(named.ok_or(InvalidRule::NoAuthority("trust_domain"))?.to_string());
    };
    // What is below a prefix is a SPIFFE ID when the prefix with one more letter is.
    let tail = if subject.below { "a" } else { "" };
    let id: SpiffeId = format!("{}{tail}", subject.literal).parse().map_err(|_| NEVER)?;
    match named {
        Some(named) if named != *id.trust_domain() => Err(InvalidRule::OtherTrustDomain(named)),
        _ => Ok(id.trust_domain().to_string()),
    }
}

/// `system:serviceaccount:namespace:name`, or all service accounts of one namespace.
fn service_account(subject: &Pattern) -> Result<(), InvalidRule> {
    let mut parts = subject.literal.split(':');
    let mut named = || {
        parts
            .next()
            .is_some_and(|part| !part.is_empty() && !part.contains('/'))
    };
    let fits = subject.literal.starts_with("system:serviceaccount:")
        && named()
        && named()
        && named()
        && named() != subject.below
        && parts.next().is_none();
    fits.then_some(()).ok_or(InvalidRule::Subject(
        "it is `system:serviceaccount:namespace:name`, or `…:namespace:*` for a whole namespace",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn rule(kind: EvidenceKind, authority: &str, subject: &str) -> Result<MatchRule, InvalidRule> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        MatchRule::new(
            kind,
            some(authority),
            some(subject).map(|s| pattern(&s)),
            BTreeMap::new(),
        )
    }

    fn attested(kind: EvidenceKind, authority: &str, subject: &str) -> Attestation {
        Attestation {
            kind,
            authority: authority.into(),
            subject: subject.into(),
            trust_domain: None,
            claims: BTreeMap::from([("repository".into(), "example/bot".into())]),
            verified_at: Timestamp::EPOCH,
            expires_at: Timestamp::MAX,
            key: None,
            digest: "".into(),
        }
    }

    #[test]
    fn a_prefix_matches_below_a_segment_boundary_only() {
        let below = pattern("spiffe://example.org/agents/*");
        assert!(below.matches("spiffe://example.org/agents/a"));
        assert!(below.matches("spiffe://example.org/agents/a/b"));
        for text in [
            "spiffe://example.org/agents/",
            "spiffe://example.org/agents",
            "spiffe://example.org/agents-evil/a",
            "xspiffe://example.org/agents/a",
        ] {
            assert!(!below.matches(text), "{text}");
        }
        let namespace = pattern("system:serviceaccount:agents:*");
        assert!(namespace.matches("system:serviceaccount:agents:bot"));
        assert!(!namespace.matches("system:serviceaccount:agents-evil:bot"));
        assert!(!pattern("main").matches("maintenance"));
    }

    #[test]
    fn refuses_patterns_that_mean_more_than_they_show() {
        for text in ["", "*", "/*", ":*", "a*", "a/*/b", "*/a", "a/**", "a\n", "a-*"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_spiffe_subject_implies_its_trust_domain_and_no_other() {
        use EvidenceKind::JwtSvid;
        for subject in ["spiffe://example.org/a", "spiffe://example.org/*"] {
            let rule = rule(JwtSvid, "", subject).unwrap();
            assert!(rule.matches(&attested(JwtSvid, "example.org", "spiffe://example.org/a")));
            assert!(!rule.matches(&attested(JwtSvid, "evil.org", "spiffe://example.org/a")));
        }
        assert!(matches!(
            rule(JwtSvid, "other.org", "spiffe://example.org/a"),
            Err(InvalidRule::OtherTrustDomain(_))
        ));
        for subject in [
            "bot",
            "spiffe://example.org",
            "spiffe://*",
            "https://example.org/a",
        ] {
            assert!(
                matches!(rule(JwtSvid, "", subject), Err(InvalidRule::Subject(_))),
                "{subject}"
            );
        }
    }

    #[test]
    fn a_service_account_names_its_namespace() {
        use EvidenceKind::Kubernetes;
        assert!(rule(Kubernetes, "prod", "system:serviceaccount:agents:bot").is_ok());
        assert!(rule(Kubernetes, "prod", "system:serviceaccount:agents:*").is_ok());
        for subject in [
            "system:serviceaccount:*",
            "system:*",
            "system:serviceaccount:agents",
            "system:serviceaccount:agents:bot:x",
            "system:serviceaccount:agents:bot:*",
            "system:serviceaccount:agents/*",
            "system:serviceaccount::bot",
            "bot",
        ] {
            assert!(
                matches!(rule(Kubernetes, "prod", subject), Err(InvalidRule::Subject(_))),
                "{subject}"
            );
        }
    }

    #[test]
    fn a_rule_says_who_vouches_and_tells_workloads_apart() {
        use EvidenceKind::{Kubernetes, Oidc};
        assert_eq!(
            rule(Kubernetes, "", "system:serviceaccount:agents:bot"),
            Err(InvalidRule::NoAuthority("cluster"))
        );
        assert_eq!(rule(Oidc, "", "bot"), Err(InvalidRule::NoAuthority("issuer")));
        assert_eq!(
            rule(Oidc, "https://id.example.org", ""),
            Err(InvalidRule::FitsEverybody)
        );
        let claims = |name: &str| BTreeMap::from([(name.to_owned(), pattern("example/bot"))]);
        let with = |name| MatchRule::new(Oidc, Some("https://id.example.org".into()), None, claims(name));
        assert_eq!(with("aud"), Err(InvalidRule::FitsEverybody));
        let rule = with("repository").unwrap();
        let fits = attested(Oidc, "https://id.example.org", "anybody");
        assert!(rule.matches(&fits));
        assert!(!rule.matches(&Attestation {
            claims: BTreeMap::new(),
            ..fits.clone()
        }));
        assert!(!rule.matches(&Attestation {
            kind: Kubernetes,
            ..fits.clone()
        }));
        assert!(!rule.matches(&Attestation {
            authority: "https://evil.org".into(),
            ..fits
        }));
    }

    #[test]
    fn sees_when_one_rule_swallows_another() {
        use EvidenceKind::JwtSvid;
        let rule = |subject| rule(JwtSvid, "", subject).unwrap();
        let wide = rule("spiffe://example.org/agents/*");
        let narrow = rule("spiffe://example.org/agents/bot");
        assert!(wide.covers(&narrow) && wide.covers(&wide) && narrow.covers(&narrow));
        assert!(wide.covers(&rule("spiffe://example.org/agents/eu/*")));
        assert!(!narrow.covers(&wide));
        assert!(!wide.covers(&rule("spiffe://example.org/tools/bot")));
        assert!(!wide.covers(&rule("spiffe://other.org/agents/bot")));
    }
}
