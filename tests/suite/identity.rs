//! From evidence to an agent: what a trust domain signed, appraised, and admitted by the registry that
//! is shipped in `config/`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dayfly::dev::trust_domain::DevTrustDomain;
use dayfly::entropy::OsEntropy;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::identity::{Evidence, IdentityError};
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;
use dayfly::registry::{NotAdmitted, Registry, files};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const US: &str = "https://dayfly.example.org";
const BOT: &str = "/agents/support-bot";

fn domain(name: &str) -> DevTrustDomain {
    DevTrustDomain::generate(name.parse().unwrap(), &OsEntropy::new()).unwrap()
}

fn verifiers(domains: &[&DevTrustDomain]) -> Verifiers {
    let trusted = domains.iter().map(|domain| Trusted {
        trust_domain: domain.name().clone(),
        bundle: Origin::Inline(domain.bundle()),
        freshness: Freshness::default(),
    });
    let terms = Terms {
        audiences: Audiences::new([US]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    let spiffe = JwtSvid::new(trusted, terms).unwrap();
    Verifiers::new(vec![Arc::new(spiffe)], CacheConfig::default())
}

fn registry() -> Registry {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    files::load(&shipped.join("agents"), &shipped.join("tools"))
        .unwrap()
        .registry
}

async fn svid(domain: &DevTrustDomain, path: &str) -> Evidence {
    let ttl = Ttl::from_secs(300).unwrap();
    let svid = domain.svid(path, US, NOW, ttl).await.unwrap();
    Evidence::bearer(&svid).unwrap()
}

#[tokio::test]
async fn a_workload_is_admitted_as_the_agent_that_its_trust_domain_says_it_is() {
    let ours = domain("example.org");
    let (verifiers, registry) = (verifiers(&[&ours]), registry());
    let workload = verifiers.appraise(&svid(&ours, BOT).await, NOW).await.unwrap();
    let caller = registry.admit(workload, NOW).unwrap();
    assert_eq!(caller.agent().name.as_str(), "support-bot");
    let stranger = verifiers
        .appraise(&svid(&ours, "/agents/stranger").await, NOW)
        .await
        .unwrap();
    assert!(matches!(
        registry.admit(stranger, NOW),
        Err(NotAdmitted::Unregistered)
    ));
}

#[tokio::test]
async fn the_same_path_in_a_federated_trust_domain_is_somebody_else() {
    let (ours, partner) = (domain("example.org"), domain("partner.example"));
    let verifiers = verifiers(&[&ours, &partner]);
    let workload = verifiers.appraise(&svid(&partner, BOT).await, NOW).await.unwrap();
    let outcome = registry().admit(workload, NOW);
    assert!(matches!(outcome, Err(NotAdmitted::Unregistered)));
}

#[tokio::test]
async fn a_trust_domain_of_our_name_with_another_key_is_refused() {
    let (ours, namesake) = (domain("example.org"), domain("example.org"));
    let verifiers = verifiers(&[&ours]);
    let outcome = verifiers.appraise(&svid(&namesake, BOT).await, NOW).await;
    assert!(matches!(outcome, Err(IdentityError::Refused(_))));
}

#[tokio::test]
async fn a_workload_is_proven_until_its_svid_ends_and_no_longer() {
    let ours = domain("example.org");
    let verifiers = verifiers(&[&ours]);
    let evidence = svid(&ours, BOT).await;
    let end = NOW.plus(Duration::from_secs(300));
    let last = end.minus(Duration::from_millis(1));
    assert!(verifiers.appraise(&evidence, NOW).await.is_ok());
    assert!(verifiers.appraise(&evidence, last).await.is_ok());
    let outcome = verifiers.appraise(&evidence, end).await;
    assert!(matches!(outcome, Err(IdentityError::Untimely(_))));
}
