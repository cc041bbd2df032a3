//! The SDK's clients, with every wait bounded.

use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::way_in::{Loader, WayIn};
use crate::clock::Clock;
use crate::keys::key_ring::KeyRing;
use crate::model::aws::AwsRegion;

/// The longest that a call may take with all its attempts.
const CALL: Duration = Duration::from_secs(8);
/// The longest that one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The longest that connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How often to try, the first time included. The SDK counts what retries cost over all calls.
const ATTEMPTS: u32 = 3;
/// How long loading Dayfly's own credentials may take.
const LOAD: Duration = Duration::from_secs(6);
/// Dayfly's own credentials are loaded anew so long before they expire.
const SPARE: Duration = Duration::from_secs(60);

/// STS and IAM, with the same credentials.
pub(super) struct Clients {
    pub(super) sts: aws_sdk_sts::Client,
    pub(super) iam: aws_sdk_iam::Client,
}

impl Clients {
    pub(super) fn new(
        region: &AwsRegion,
        endpoint: Option<&str>,
        way_in: WayIn,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let region = Region::new(region.as_str().to_owned());
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let retry = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(Duration::from_millis(200))
            .with_max_backoff(Duration::from_secs(1));
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(CALL)
            .build();
        let mut common = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(http.clone())
            .retry_config(retry.clone())
            .timeout_config(timeouts.clone());
        common.set_endpoint_url(endpoint.map(str::to_owned));
        let common = common.build();
        let anonymous = aws_sdk_sts::Client::new(&common);
        let chain = ProviderConfig::without_region()
            .with_region(Some(region))
            .with_http_client(http)
            .with_retry_config(retry)
            .with_timeout_config(timeouts);
        let loader = Loader::new(way_in, chain, anonymous, keys, clock);
        let cache = IdentityCache::lazy()
            .load_timeout(LOAD)
            .buffer_time(SPARE)
            .build();
        let config = common
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(loader))
            .identity_cache(cache)
            .build();
        Self {
            sts: aws_sdk_sts::Client::new(&config),
            iam: aws_sdk_iam::Client::new(&config),
        }
    }
}
