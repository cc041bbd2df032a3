//! Fetching tokens from a transmitter that keeps them until they are fetched (RFC 8936).
//!
//! The address comes from configuration. An answer is bounded, read strictly, and true only as far as the
//! tokens in it are.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::set::is_name;
use super::{Batch, Outcomes, PollError, Transmitter};
use crate::identity::fetch::{Endpoint, Fetcher};
use crate::model::strict;

/// How long a transmitter may take to find something to say.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How much longer the answer to a long poll may take than what is waited for.
const MARGIN: Duration = Duration::from_secs(5);

/// How to fetch.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub endpoint: Endpoint,
    /// How many tokens at a time, at most.
    pub most: u16,
    /// How long the transmitter may wait for something to say; zero has it answer at once.
    pub wait: Duration,
    /// How long to wait between two polls that brought nothing.
    pub interval: Duration,
}

/// Fetches over HTTP.
#[derive(Debug)]
pub struct HttpPoll {
    settings: Settings,
    fetcher: Fetcher,
}

impl HttpPoll {
    /// A client of this transmitter. Reads the file of certificate authorities.
    pub fn new(settings: Settings) -> Result<Self, PollError> {
        let fetcher = Fetcher::new(&settings.endpoint).map_err(|error| PollError(error.to_string()))?;
        Ok(Self { settings, fetcher })
    }
}

#[async_trait]
impl Transmitter for HttpPoll {
    async fn poll(&self, earlier: &Outcomes) -> Result<Batch, PollError> {
        let Settings {
            endpoint, most, wait, ..
        } = &self.settings;
        // What was taken is said at once: a transmitter that waits sends the same again to others.
        let wait = if earlier.is_empty() { *wait } else { Duration::ZERO };
        let mut body = json!({"maxEvents": most, "returnImmediately": wait.is_zero()});
        if let Some(members) = body.as_object_mut() {
            if !earlier.taken.is_empty() {
                members.insert("ack".into(), json!(earlier.taken));
            }
            if !earlier.refused.is_empty() {
                members.insert("setErrs".into(), json!(earlier.refused));
            }
        }
        let answer = self
            .fetcher
            .post_within(&endpoint.address, &body, wait + MARGIN)
            .await
            .map_err(|error| PollError(error.to_string()))?;
        read(&answer)
    }

    fn interval(&self) -> Duration {
        self.settings.interval
    }
}

/// What the answer to a poll says (RFC 8936 §2.3).
fn read(json: &[u8]) -> Result<Batch, PollError> {
    let wrong = |reason: &str| PollError(format!("the answer to the poll is malformed: {reason}"));
    let Value::Object(answer) = strict::read(json).map_err(|reason| wrong(&reason))? else {
        return Err(wrong("it is no object"));
    };
    let sets = match answer.get("sets") {
        None => Vec::new(),
        Some(Value::Object(sets)) => {
            let sets = sets.iter().map(|(jti, set)| match set.as_str() {
                Some(set) if is_name(jti) => Ok((jti.clone(), set.to_owned())),
                _ => Err(wrong(
                    "a member of `sets` is no text, or its name is longer than 256 bytes",
                )),
            });
            sets.collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong("`sets` is no object")),
    };
    match answer.get("moreAvailable") {
        None => Ok(Batch { sets, more: false }),
        Some(Value::Bool(more)) => Ok(Batch { sets, more: *more }),
        Some(_) => Err(wrong("`moreAvailable` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_strictly() {
        let batch = read(br#"{"sets":{"a":"x.y.z","b":"u.v.w"},"moreAvailable":true,"other":1}"#).unwrap();
        assert!(batch.more);
        assert_eq!(
            batch.sets,
            [
                ("a".to_owned(), "x.y.z".to_owned()),
                ("b".to_owned(), "u.v.w".to_owned())
            ]
        );
        assert_eq!(read(b"{}").unwrap(), Batch::default());
        for bad in [
            "",
            "[]",
            r#"{"sets":[]}"#,
            r#"{"sets":{"a":1}}"#,
            r#"{"sets":{"":"x"}}"#,
            r#"{"sets":{"a":"x","a":"y"}}"#,
            r#"{"moreAvailable":"yes"}"#,
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
