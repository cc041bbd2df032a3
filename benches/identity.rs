//! What it costs to appraise an ES256 JWT-SVID: the first time, and when the proof is remembered.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;

use dayfly::entropy::OsEntropy;
use dayfly::identity::claims::{Audiences, Skew, Terms};
use dayfly::identity::jwt_svid::{JwtSvid, Trusted};
use dayfly::identity::key_source::{Freshness, Origin};
use dayfly::identity::verifiers::{CacheConfig, Verifiers};
use dayfly::identity::{Evidence, Verifier};
use dayfly::keys::ring_keys::RingSigner;
use dayfly::keys::{Algorithm, Signer, jose};
use dayfly::model::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const US: &str = "https://dayfly.example.org";

fn verifiers(signer: &RingSigner, capacity: u64) -> Verifiers {
    let mut jwk = signer.public_key().to_jwk();
    jwk.use_ = Some("jwt-svid".into());
    let trusted = Trusted {
        trust_domain: "example.org".parse().unwrap(),
        bundle: Origin::Inline(json!({ "keys": [jwk] }).to_string()),
        freshness: Freshness::default(),
    };
    let terms = Terms {
        audiences: Audiences::new([US]).unwrap(),
        skew: Skew::default(),
        longest_life: JwtSvid::LONGEST_LIFE,
    };
    let verifier: Arc<dyn Verifier> = Arc::new(JwtSvid::new([trusted], terms).unwrap());
    let cache = CacheConfig {
        capacity,
        max_age: Duration::from_secs(300),
    };
    Verifiers::new(vec![verifier], cache)
}

fn appraise(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let signer = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
    let claims = json!({
        "sub": "spiffe://example.org/ns/agents/sa/support-bot",
        "aud": US,
        "exp": NOW.as_secs() + 300,
        "iat": NOW.as_secs(),
    });
    let token = runtime.block_on(jose::sign(&signer, "JWT", &claims)).unwrap();
    let evidence = Evidence::bearer(&token).unwrap();
    let mut group = c.benchmark_group("appraise_es256_svid");
    for (name, capacity) in [("first_time", 0), ("remembered", 10_000)] {
        let verifiers = verifiers(&signer, capacity);
        group.bench_function(name, |b| {
            b.to_async(&runtime)
                .iter(async || verifiers.appraise(black_box(&evidence), NOW).await.unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, appraise);
criterion_main!(benches);
