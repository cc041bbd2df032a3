//! `[identity]`: whose word Dayfly takes, and on which terms.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::workload_api::WorkloadApi;
use crate::keys::Algorithm;
use crate::model::document::Section;
use crate::model::spiffe::TrustDomain;
use crate::model::ttl::Ttl;

use super::read::{Base, address, duration, duration_within, is_address, ordered, seconds, within};

/// Whose word Dayfly takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityConfig {
    /// The `aud` values that are us, at least one.
    pub audiences: Vec<String>,
    /// By how much clocks may differ, at most a minute.
    pub skew: Duration,
    /// The verified-evidence cache: how many entries; 0 remembers nothing.
    pub cache_entries: u64,
    /// The verified-evidence cache: how long an entry counts.
    pub cache_max_age: Duration,
    /// How fresh keys are kept.
    pub keys: FreshnessConfig,
    /// The longest life that evidence may have.
    pub max_evidence_lifetime: LifetimesConfig,
    /// SPIFFE trust domains, each name once.
    pub trust_domains: Vec<TrustDomainConfig>,
    /// Kubernetes clusters, each name once; several may share an issuer.
    pub clusters: Vec<ClusterConfig>,
    /// OpenID Connect issuers, each issuer once.
    pub issuers: Vec<OidcConfig>,
}

/// How fresh the keys of others are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreshnessConfig {
    /// How often to ask when the document does not say.
    pub refresh: Duration,
    /// The least time between two fetches that unknown keys cause.
    pub floor: Duration,
    /// How long keys are relied on when they cannot be fetched again.
    pub max_age: Duration,
}

/// The longest life that evidence may have, from its `iat` to its `exp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LifetimesConfig {
    /// SPIFFE JWT-SVIDs.
    pub jwt_svid: Duration,
    /// Kubernetes service-account tokens.
    pub kubernetes: Duration,
    /// OpenID Connect tokens.
    pub oidc: Duration,
}

/// Where keys come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeysAt {
    /// A file: pinned.
    File(PathBuf),
    /// A server.
    Url(String),
    /// The `jwks_uri` of the issuer's discovery document.
    Discovery,
    /// SPIFFE's Workload API; of trust domains only.
    WorkloadApi(WorkloadApi),
}

/// A SPIFFE trust domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustDomainConfig {
    /// Its name.
    pub name: TrustDomain,
    /// Its bundle (SPIFFE bundle format); never [`KeysAt::Discovery`].
    pub bundle: KeysAt,
    /// The only authorities that may vouch for the bundle's server; none means the system's.
    pub ca_file: Option<PathBuf>,
}

/// A Kubernetes cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    /// What match rules and records call it.
    pub name: String,
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// Its signing keys; never [`KeysAt::Discovery`].
    pub keys: KeysAt,
    /// The only authorities that may vouch for its API server.
    pub ca_file: Option<PathBuf>,
    /// The file with Dayfly's own token for its API server.
    pub token_file: Option<PathBuf>,
    /// Whether to ask the API server about every token too.
    pub token_review: Option<TokenReviewConfig>,
}

/// How to ask a cluster about a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenReviewConfig {
    /// Its API server, without a path.
    pub url: String,
    /// How long an answer is relied on.
    pub remember: Duration,
}

/// An OpenID Connect issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OidcConfig {
    /// Its `iss`, exactly.
    pub issuer: String,
    /// The `aud` values that are us in its tokens; none means those of `[identity]`.
    pub audiences: Option<Vec<String>>,
    /// What its tokens may be signed with, at least one.
    pub algorithms: Vec<Algorithm>,
    /// Its keys.
    pub keys: KeysAt,
    /// The only authorities that may vouch for the server of its keys.
    pub ca_file: Option<PathBuf>,
    /// Claims that have to have exactly this value.
    pub required_claims: BTreeMap<String, String>,
}

const DAY: u32 = 24 * 3600;

pub(super) fn read(section: &mut Section<'_>, public_url: &str, base: Base<'_>) -> IdentityConfig {
    let audiences = audiences(section, "audiences").unwrap_or_else(|| vec![public_url.into()]);
    let skew = duration_within(section, "skew", 30, 60);
    let mut cache = section.section("cache");
    let (cache_entries, cache_max_age) = (
        within(&mut cache, "entries", 10_000, 0, 10_000_000),
        duration_within(&mut cache, "max_age", 300, 3600),
    );
    let keys = freshness(&mut section.section("keys"));
    let mut lives = section.section("max_evidence_lifetime");
    let max_evidence_lifetime = LifetimesConfig {
        jwt_svid: duration(&mut lives, "jwt_svid", 3600),
        kubernetes: duration(&mut lives, "kubernetes", DAY),
        oidc: duration(&mut lives, "oidc", DAY),
    };
    if !["trust_domain", "kubernetes", "oidc"]
        .map(|key| section.has(key))
        .contains(&true)
    {
        section.blame(
            "trust_domain",
            "nobody could prove anything: there is no trust domain, no cluster and no issuer",
            "add an `[[identity.trust_domain]]`, `[[identity.kubernetes]]` or `[[identity.oidc]]` section",
        );
    }
    let mut names = BTreeSet::new();
    let mut once = |section: &Section<'_>, key: &'static str, name: &str| {
        if !names.insert((key, name.to_owned())) {
            section.blame(
                key,
                format!("`{name}` stands there twice"),
                "keep one of the two sections",
            );
        }
    };
    IdentityConfig {
        audiences,
        skew,
        cache_entries,
        cache_max_age,
        keys,
        max_evidence_lifetime,
        trust_domains: section
            .sections("trust_domain")
            .iter_mut()
            .filter_map(|section| {
                let read = trust_domain(section, base)?;
                once(section, "name", &format!("spiffe://{}", read.name));
                Some(read)
            })
            .collect(),
        clusters: section
            .sections("kubernetes")
            .iter_mut()
            .filter_map(|section| {
                let read = cluster(section, base)?;
                once(section, "name", &read.name);
                Some(read)
            })
            .collect(),
        issuers: section
            .sections("oidc")
            .iter_mut()
            .filter_map(|section| {
                let read = issuer(section, base)?;
                once(section, "issuer", &read.issuer);
                Some(read)
            })
            .collect(),
    }
}

fn freshness(section: &mut Section<'_>) -> FreshnessConfig {
    let refresh: Ttl = section.or("refresh", seconds(300));
    let max_age: Ttl = section.or("max_age", seconds(DAY));
    ordered(section, ("refresh", refresh), ("max_age", max_age));
    FreshnessConfig {
        refresh: refresh.as_duration(),
        floor: duration_within(section, "floor", 30, 3600),
        max_age: max_age.as_duration(),
    }
}

pub(super) fn audiences(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let audiences: Vec<String> = section.list(key)?;
    if audiences.is_empty() || audiences.iter().any(|audience| audience.trim().is_empty()) {
        section.blame(
            key,
            "evidence for nobody would be evidence for us",
            "name at least one audience, or leave the key out",
        );
    }
    Some(audiences)
}

fn trust_domain(section: &mut Section<'_>, base: Base<'_>) -> Option<TrustDomainConfig> {
    let name = section.required("name", "write the trust domain: `name = \"example.org\"`");
    let bundle = bundle(section, base);
    let ca_file = base.optional_path(section, "ca_file");
    Some(TrustDomainConfig {
        name: name?,
        bundle: bundle?,
        ca_file,
    })
}

fn bundle(section: &mut Section<'_>, base: Base<'_>) -> Option<KeysAt> {
    if !section.has("workload_api") {
        return keys(section, "bundle_file", "bundle_url", None, base);
    }
    let file = base.optional_path(section, "bundle_file").is_some();
    let url = address(section, "bundle_url").is_some();
    for (key, there) in [("bundle_file", file), ("bundle_url", url)] {
        if there {
            section.blame(
                key,
                "`workload_api` says where the bundle is too",
                "keep one of the two",
            );
        }
    }
    section.parsed("workload_api").map(KeysAt::WorkloadApi)
}

fn cluster(section: &mut Section<'_>, base: Base<'_>) -> Option<ClusterConfig> {
    let name: Option<String> = section.required("name", "write what match rules call it: `name = \"prod\"`");
    let issuer = section.required("issuer", "write the `iss` of its tokens, exactly");
    let keys = keys(section, "jwks_file", "jwks_url", None, base);
    let ca_file = base.optional_path(section, "ca_file");
    let token_file = base.optional_path(section, "token_file");
    let token_review = section.has("token_review").then(|| {
        let mut review = section.section("token_review");
        let url = address(&mut review, "url");
        if !review.has("url") {
            review.blame(
                "url",
                "it is missing",
                "write its API server: `url = \"https://kubernetes.default.svc\"`",
            );
        }
        TokenReviewConfig {
            url: url.unwrap_or_default(),
            remember: duration_within(&mut review, "remember", 60, 3600),
        }
    });
    if name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        section.blame("name", "it is empty", "write what match rules call it");
    }
    Some(ClusterConfig {
        name: name?,
        issuer: issuer?,
        keys: keys?,
        ca_file,
        token_file,
        token_review,
    })
}

fn issuer(section: &mut Section<'_>, base: Base<'_>) -> Option<OidcConfig> {
    let help = "write the `iss` of its tokens, exactly: `issuer = \"https://id.example.org\"`";
    let issuer: Option<String> = section.required("issuer", help);
    if issuer.as_ref().is_some_and(|issuer| !is_address(issuer)) {
        section.blame("issuer", "it is not an https address", help);
    }
    let audiences = audiences(section, "audiences");
    let algorithms = algorithms(section);
    let keys = keys(section, "jwks_file", "jwks_url", Some(KeysAt::Discovery), base);
    let ca_file = base.optional_path(section, "ca_file");
    let required_claims = section.map("required_claims");
    Some(OidcConfig {
        issuer: issuer?,
        audiences,
        algorithms,
        keys: keys?,
        ca_file,
        required_claims,
    })
}

/// What tokens of an issuer may be signed with.
pub(super) fn algorithms(section: &mut Section<'_>) -> Vec<Algorithm> {
    let algorithms = section.list("algorithms").unwrap_or_else(|| {
        let usual = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        usual
            .iter()
            .map(|algorithm| algorithm.as_str().to_owned())
            .collect::<Vec<String>>()
    });
    if algorithms.is_empty() {
        section.blame("algorithms", "it is empty", "name at least one, such as `RS256`");
    }
    let algorithms = algorithms.iter().filter_map(|name| {
        name.parse()
            .map_err(|error| section.blame("algorithms", error, ""))
            .ok()
    });
    algorithms.collect()
}

/// A file or an address, not both, and one of them unless there is another way.
pub(super) fn keys(
    section: &mut Section<'_>,
    file: &'static str,
    url: &'static str,
    otherwise: Option<KeysAt>,
    base: Base<'_>,
) -> Option<KeysAt> {
    let at_file = base.optional_path(section, file);
    let at_url = address(section, url);
    match (at_file, at_url) {
        (Some(path), None) => Some(KeysAt::File(path)),
        (None, Some(address)) => Some(KeysAt::Url(address)),
        (None, None) if otherwise.is_some() || section.has(file) || section.has(url) => otherwise,
        (Some(_), Some(_)) => {
            section.blame(
                url,
                format!("`{file}` says where the keys are too"),
                "keep one of the two",
            );
            None
        }
        (None, None) => {
            section.blame(
                file,
                "nothing says where the keys are",
                &format!("write `{file}` or `{url}`"),
            );
            None
        }
    }
}
