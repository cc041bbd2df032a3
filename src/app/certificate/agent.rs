//! The certificate of a listener from SPIFFE's Workload API: our own X.509-SVID, the next one before it expires.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Pair, ServerCertificate, fits, sha256};
use crate::clock::Clock;
use crate::identity::workload_api::{Svid, WorkloadApi};
use crate::telemetry;

/// How long a start waits for the first one: an agent that starts beside us gets that far, and an orchestrator has not
/// lost its patience yet.
const FIRST: Duration = Duration::from_secs(15);
/// How soon, and how late, the agent is asked again after a failure.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(30);
/// How often it is asked anew though its stream stands: one that hangs says nothing either.
const ANEW: Duration = Duration::from_secs(5 * 60);

/// The first one.
pub(super) async fn first(api: &WorkloadApi, clock: &dyn Clock) -> anyhow::Result<Pair> {
    let until = Instant::now() + FIRST;
    let mut why = anyhow::anyhow!("{api}: it did not answer in time");
    loop {
        match timeout_at(until, api.svid()).await {
            Err(_) => {}
            Ok(Err(error)) => why = error.into(),
            Ok(Ok((svid, _))) => match pair(svid) {
                Ok(pair) => match pair.check_time(clock.now()) {
                    Ok(()) => return Ok(pair),
                    Err(error) => why = error.context(api.to_string()),
                },
                Err(error) => why = error.context(api.to_string()),
            },
        }
        if Instant::now() + SOON >= until {
            let waited = FIRST.as_secs();
            return Err(why).with_context(|| {
                format!(
                    "no X.509-SVID for the listener in {waited} s: start the SPIFFE agent, let this process reach its \
                     socket, and register it there; or name `cert_file` and `key_file` in [server.tls]"
                )
            });
        }
        sleep(SOON).await;
    }
}

impl ServerCertificate {
    /// Takes what the agent gives until told to stop. While it gives nothing, what is held goes on.
    pub(super) async fn listen_to(&self, api: &WorkloadApi, stop: CancellationToken) {
        let mut failures = 0;
        telemetry::certificate_expires(self.used_for, self.held.0.load().expires_at);
        loop {
            let broken = tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(ANEW) => continue,
                () = self.wanted.notified() => continue,
                broken = self.take_from(api, &mut failures) => broken,
            };
            failures += 1;
            let until = self.held.0.load().expires_at;
            if until <= self.clock.now() {
                tracing::error!(used_for = self.used_for, %until, error = format!("{broken:#}"), failures, "the certificate has expired, and the agent gives no other");
            } else {
                tracing::warn!(used_for = self.used_for, %until, error = format!("{broken:#}"), failures, "the agent gives no certificate, the old one goes on");
            }
            let pause = LATE.min(SOON.saturating_mul(1 << (failures - 1).min(8)));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes one after the other. Says why there are no more.
    async fn take_from(&self, api: &WorkloadApi, failures: &mut u32) -> anyhow::Error {
        let (mut svid, mut later) = match api.svid().await {
            Ok(asked) => asked,
            Err(error) => return error.into(),
        };
        loop {
            if let Err(error) = pair(svid).and_then(|pair| self.take(pair)) {
                return error.context(api.to_string());
            }
            *failures = 0;
            telemetry::certificate_expires(self.used_for, self.held.0.load().expires_at);
            svid = match later.next().await {
                Ok(svid) => svid,
                Err(error) => return anyhow::Error::from(error).context(api.to_string()),
            };
        }
    }
}

fn pair(svid: Svid) -> anyhow::Result<Pair> {
    let digest = sha256(svid.chain.first().map(AsRef::as_ref).unwrap_or_default());
    let key = default_provider().key_provider.load_private_key(svid.key);
    let key = key.context("the key of its X.509-SVID cannot be used")?;
    let certified = CertifiedKey::new(svid.chain, key);
    if !fits(&certified) {
        bail!("the key of its X.509-SVID is not that of the certificate");
    }
    Pair::new(certified, digest).context("its X.509-SVID cannot be read")
}
