//! Verifiers from their configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::identity::{ClusterConfig, IdentityConfig, KeysAt, OidcConfig, TrustDomainConfig};
use crate::identity::Verifier;
use crate::identity::claims::{Audiences, Skew, Terms};
use crate::identity::fetch::{Endpoint, Roots};
use crate::identity::jwt_svid::{JwtSvid, Trusted};
use crate::identity::key_source::{Freshness, Origin};
use crate::identity::kubernetes::review::TokenReview;
use crate::identity::kubernetes::{Cluster, Kubernetes};
use crate::identity::oidc::{Issuer, Oidc};
use crate::identity::verifiers::{CacheConfig, Verifiers};
use crate::identity::x509_svid::X509Svid;

/// The verifier of X.509-SVIDs of the configured trust domains.
pub fn svids(config: &IdentityConfig) -> anyhow::Result<Arc<X509Svid>> {
    let trusted = config
        .trust_domains
        .iter()
        .map(|domain| trusted(domain, freshness(config)));
    let trusted = trusted.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Arc::new(X509Svid::new(trusted, Skew::new(config.skew)?)?))
}

/// Every configured verifier, with that of X.509-SVIDs where certificates of clients are taken. Pinned keys and files
/// are read here, so that a mistake in them shows now.
pub fn build(config: &IdentityConfig, svids: Option<Arc<X509Svid>>) -> anyhow::Result<Verifiers> {
    let freshness = freshness(config);
    let lives = &config.max_evidence_lifetime;
    let mut verifiers: Vec<Arc<dyn Verifier>> = Vec::new();
    if !config.trust_domains.is_empty() {
        let trusted = config
            .trust_domains
            .iter()
            .map(|domain| trusted(domain, freshness));
        let trusted = trusted.collect::<anyhow::Result<Vec<_>>>()?;
        verifiers.push(Arc::new(JwtSvid::new(
            trusted,
            terms(config, &config.audiences, lives.jwt_svid)?,
        )?));
    }
    if !config.clusters.is_empty() {
        let clusters = config.clusters.iter().map(|each| cluster(each, freshness));
        let clusters = clusters.collect::<anyhow::Result<Vec<_>>>()?;
        verifiers.push(Arc::new(Kubernetes::new(
            clusters,
            terms(config, &config.audiences, lives.kubernetes)?,
        )?));
    }
    for each in &config.issuers {
        let audiences = each.audiences.as_ref().unwrap_or(&config.audiences);
        let terms = terms(config, audiences, lives.oidc)?;
        verifiers.push(Arc::new(Oidc::new(issuer(each, freshness, terms)?)?));
    }
    verifiers.extend(svids.map(|svids| svids as Arc<dyn Verifier>));
    let cache = CacheConfig {
        capacity: config.cache_entries,
        max_age: config.cache_max_age,
    };
    Ok(Verifiers::new(verifiers, cache))
}

fn terms(config: &IdentityConfig, audiences: &[String], longest_life: Duration) -> anyhow::Result<Terms> {
    Ok(Terms {
        audiences: Audiences::new(audiences)?,
        skew: Skew::new(config.skew)?,
        longest_life,
    })
}

/// How fresh the keys of others are kept.
pub(super) fn freshness(config: &IdentityConfig) -> Freshness {
    Freshness {
        refresh: config.keys.refresh,
        floor: config.keys.floor,
        max_age: config.keys.max_age,
    }
}

fn trusted(config: &TrustDomainConfig, freshness: Freshness) -> anyhow::Result<Trusted> {
    let bundle = origin(&config.bundle, "", config.ca_file.as_ref(), None)
        .with_context(|| format!("the bundle of `{}`", config.name))?;
    Ok(Trusted {
        trust_domain: config.name.clone(),
        bundle,
        freshness,
    })
}

fn cluster(config: &ClusterConfig, freshness: Freshness) -> anyhow::Result<Cluster> {
    let about = || format!("the cluster `{}`", config.name);
    let (ca, token) = (config.ca_file.as_ref(), config.token_file.as_ref());
    let keys = origin(&config.keys, &config.issuer, ca, token).with_context(about)?;
    let review = config.token_review.as_ref().map(|review| {
        anyhow::Ok(TokenReview {
            api_server: endpoint(&review.url, ca, token)?,
            remember: review.remember,
        })
    });
    Ok(Cluster {
        name: config.name.clone(),
        issuer: config.issuer.clone(),
        keys,
        freshness,
        review: review.transpose().with_context(about)?,
    })
}

fn issuer(config: &OidcConfig, freshness: Freshness, terms: Terms) -> anyhow::Result<Issuer> {
    let keys = origin(&config.keys, &config.issuer, config.ca_file.as_ref(), None)
        .with_context(|| format!("the keys of `{}`", config.issuer))?;
    Ok(Issuer {
        freshness,
        algorithms: config.algorithms.clone(),
        required: config.required_claims.clone(),
        ..Issuer::new(config.issuer.clone(), keys, terms)
    })
}

pub(super) fn origin(
    keys: &KeysAt,
    issuer: &str,
    ca_file: Option<&PathBuf>,
    token_file: Option<&PathBuf>,
) -> anyhow::Result<Origin> {
    Ok(match keys {
        KeysAt::File(path) => Origin::File(path.clone()),
        KeysAt::Url(url) => Origin::Endpoint(endpoint(url, ca_file, token_file)?),
        KeysAt::WorkloadApi(api) => Origin::WorkloadApi(api.clone()),
        KeysAt::Discovery => match Origin::discovered(issuer)? {
            Origin::Discovery { issuer, endpoint } => Origin::Discovery {
                issuer,
                endpoint: Endpoint {
                    roots: roots(ca_file),
                    ..endpoint
                },
            },
            other => other,
        },
    })
}

pub(super) fn endpoint(
    url: &str,
    ca_file: Option<&PathBuf>,
    token_file: Option<&PathBuf>,
) -> anyhow::Result<Endpoint> {
    Ok(Endpoint {
        address: url.parse()?,
        roots: roots(ca_file),
        token_file: token_file.cloned(),
    })
}

fn roots(ca_file: Option<&PathBuf>) -> Roots {
    ca_file.map_or(Roots::System, |path| Roots::File(path.clone()))
}
