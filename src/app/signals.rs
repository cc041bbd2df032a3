//! Streams of signals from their configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use crate::config::Config;
use crate::config::signals::{Delivery, StreamConfig};
use crate::identity::claims::{Audiences, Skew};
use crate::identity::key_source::{Freshness, KeySource};
use crate::keys::jwk::KeyUse;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::registry::files::read_text;
use crate::signal::mapping::Mapping;
use crate::signal::poll::{HttpPoll, Settings};
use crate::signal::{Stream, Streams, Terms, Transmitter};

use super::identity::{endpoint, freshness, origin};

/// The longest file with a bearer token, in bytes.
const LONGEST_TOKEN: u64 = 4096;
/// The shortest bearer token that nobody guesses, in bytes.
const SHORTEST_TOKEN: usize = 16;

/// What is fetched from: the stream, and where its tokens are.
pub type Polled = (Arc<Stream>, Arc<dyn Transmitter>);

/// Every configured stream, and those that are polled. Files are read here, so that a mistake in them
/// shows now.
pub fn build(config: &Config, now: Timestamp) -> anyhow::Result<(Streams, Vec<Polled>)> {
    let freshness = freshness(&config.identity);
    let (mut streams, mut polled) = (Vec::new(), Vec::new());
    for each in &config.signals.streams {
        let about = || format!("the stream of signals `{}`", each.name);
        let stream = stream(each, &config.server.public_url, freshness, now).with_context(about)?;
        let stream = Arc::new(stream);
        if let Some(transmitter) = transmitter(each).with_context(about)? {
            polled.push((Arc::clone(&stream), transmitter));
        }
        streams.push(stream);
    }
    Ok((Streams::new(streams), polled))
}

fn stream(
    config: &StreamConfig,
    public_url: &str,
    freshness: Freshness,
    now: Timestamp,
) -> anyhow::Result<Stream> {
    let keys = origin(&config.keys, &config.issuer, config.ca_file.as_ref(), None)?;
    let keys = KeySource::new(&config.issuer, KeyUse::Signature, keys, freshness)?;
    let terms = Terms {
        issuer: config.issuer.clone(),
        audiences: Audiences::new(&config.audiences)?,
        algorithms: config.algorithms.clone(),
        skew: Skew::new(config.skew)?,
        oldest: config.oldest,
        mapping: Mapping {
            users: config.user_ids.clone(),
            issuers: config.subject_issuers.clone(),
            our_issuer: public_url.to_owned(),
            tenants: config.tenants.clone(),
        },
        confinement: config.about.clone(),
        rules: config.rules.clone(),
        silence: config.silence,
    };
    let secret = match config.delivery {
        Delivery::Push => Some(token(config)?),
        Delivery::Poll(_) => None,
    };
    Ok(Stream::new(
        config.name.clone(),
        terms,
        Arc::new(keys),
        secret,
        now,
    )?)
}

fn token(config: &StreamConfig) -> anyhow::Result<Secret> {
    let text =
        Secret::new(read_text(&config.token_file, LONGEST_TOKEN).map_err(|problem| anyhow!("{problem}"))?);
    let token = text.expose().trim();
    if token.len() < SHORTEST_TOKEN {
        bail!(
            "{}: the bearer token is shorter than {SHORTEST_TOKEN} bytes: make a longer one",
            config.token_file.display()
        );
    }
    Ok(Secret::new(token))
}

fn transmitter(config: &StreamConfig) -> anyhow::Result<Option<Arc<dyn Transmitter>>> {
    let Delivery::Poll(poll) = &config.delivery else {
        return Ok(None);
    };
    let client = HttpPoll::new(Settings {
        endpoint: endpoint(&poll.url, config.ca_file.as_ref(), Some(&config.token_file))?,
        most: poll.max_events,
        wait: poll.wait.unwrap_or(Duration::ZERO),
        interval: poll.interval,
    })?;
    Ok(Some(Arc::new(client)))
}
