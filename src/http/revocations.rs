//! Kill orders, and the feed of cutoffs that resource servers follow: by long poll or as a stream.
//!
//! Whoever follows proves itself again: when its evidence expires, the stream ends and a poll waits
//! no longer. Policy is asked before each part of the feed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use crate::broker::complete::LONGEST_WAIT;
use crate::broker::error::{BrokerError, chain};
use crate::ledger::{Changes, Cursor};

use super::answer::Answer;
use super::extract::{Authenticated, Json, Query};
use super::problem::{Kind, Problem};
use super::wire::leases::{Feed, Following, RevocationAnswer, Revoke};

/// How often a quiet stream says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a poll lasts at most once Dayfly is about to stop: whoever asks again and again, and is still led here,
/// does not do so without a pause.
const LEAVE: Duration = Duration::from_secs(1);
/// Where a stream goes on after it broke off (HTML, server-sent events).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const EVENT_STREAM: &str = "text/event-stream";

/// Order the end of everything that a selector fits
///
/// Takes a permit for `dayfly:revoke`. One record denies at once; then each live lease is ended. With `preview`
/// nothing ends: the answer says what would.
#[utoipa::path(post, path = "/v1/revocations", tag = "revocations", request_body = Revoke,
    responses((status = 200, body = RevocationAnswer)))]
pub(super) async fn revoke(
    call: Authenticated,
    Json(body): Json<Revoke>,
) -> Result<Answer<RevocationAnswer>, Problem> {
    let Some(selector) = body.selector() else {
        return Err(Problem::field(
            "",
            "name one of `agent`, `tool`, `user`, `environment` and `trust_domain`, or say `all`",
        ));
    };
    let reason = body.reason;
    let answer = call
        .run(move |broker, caller, request| async move {
            match body.preview {
                true => {
                    let blast = broker.preview_revocation(&caller, selector, request).await?;
                    Ok(RevocationAnswer::Preview(blast.into()))
                }
                false => {
                    let revoked = broker
                        .revoke_all(&caller, selector, reason.as_str(), request)
                        .await?;
                    Ok(RevocationAnswer::Done(revoked.into()))
                }
            }
        })
        .await?;
    Ok(Answer(answer))
}

/// Follow revocations
///
/// Takes a permit for `dayfly:follow`. With `Accept: text/event-stream` the answer is a stream: each
/// event is one `Feed`, its id is the cursor, and `Last-Event-ID` resumes. The stream ends when the
/// evidence expires: come again with new evidence.
#[utoipa::path(get, path = "/v1/revocations", tag = "revocations", params(Following),
    responses((status = 200, content((Feed = "application/json"), (Feed = "text/event-stream")))))]
pub(super) async fn follow(
    call: Authenticated,
    Query(following): Query<Following>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = call.shared.followers.clone().try_acquire_owned();
    let Ok(place) = place else {
        return Err(Problem::new(Kind::BUSY, "as many follow the feed as may: try again").after(5));
    };
    let streams = accepts_stream(&headers);
    let resumed = headers.get(LAST_EVENT_ID).filter(|_| streams);
    let text = match resumed {
        Some(id) => id.to_str().unwrap_or("?"),
        None => following.cursor.as_deref().unwrap_or_default(),
    };
    let since: Cursor = text
        .parse()
        .map_err(|invalid| Problem::new(Kind::BAD_PARAMETER, format!("{invalid}")))?;
    // A follower's place is one of its own; a stream would keep the other for as long as it lives.
    let call = Authenticated { place: None, ..call };
    let follower = Follower {
        call: Arc::new(call),
        since,
        _place: place,
    };
    if streams {
        let events = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
        return Ok(([(HeaderName::from_static("x-accel-buffering"), "no")], events).into_response());
    }
    let changes = follower.poll(following.wait.duration()).await?;
    Ok(Answer(Feed::from(changes)).into_response())
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().unwrap_or_default().trim() == EVENT_STREAM)
}

/// Somebody who follows, and from where.
struct Follower {
    call: Arc<Authenticated>,
    since: Cursor,
    /// Held for as long as the stream lives, so that streams are bounded like requests.
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// How long the evidence is still good for.
    fn proven_for(&self) -> Duration {
        let expires_at = self.call.caller.workload().attestation().expires_at;
        expires_at.since(self.call.broker().now())
    }

    /// What is new; waits for it, but neither past the evidence nor far into the shutdown.
    async fn poll(&self, wait: Duration) -> Result<Changes, BrokerError> {
        let call = &self.call;
        let wait = wait.min(LONGEST_WAIT).min(self.proven_for());
        let leaving = async {
            call.shared.state.stop.cancelled().await;
            sleep(LEAVE).await;
        };
        tokio::select! {
            changes = call.broker().follow(&call.caller, &self.since, wait, call.request) => changes,
            () = leaving => Ok(Changes {
                cutoffs: Vec::new(),
                next: self.since.clone(),
                more: false,
            }),
        }
    }

    /// The feed as events, until the evidence expires, policy changes its mind, or Dayfly stops. The
    /// client comes again from its last id, and is told why if it may not.
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
        stream::unfold(self, |mut follower| async move {
            loop {
                if follower.proven_for().is_zero() {
                    return None;
                }
                let changes = match follower.poll(LONGEST_WAIT).await {
                    Ok(changes) => changes,
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "a revocation stream ends");
                        return None;
                    }
                };
                follower.since = changes.next.clone();
                if !changes.cutoffs.is_empty() {
                    let feed = Feed::from(changes);
                    let id = feed.cursor.clone();
                    let event = Event::default().event("cutoffs").id(id).json_data(&feed).ok()?;
                    return Some((Ok(event), follower));
                }
                if follower.call.shared.state.stop.is_cancelled() {
                    return None;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_for_those_who_ask_for_one() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            accepts_stream(&headers)
        };
        assert!(accepts("text/event-stream"));
        assert!(accepts("application/json;q=0.5, text/event-stream;q=0.9"));
        assert!(!accepts("*/*"));
        assert!(!accepts_stream(&HeaderMap::new()));
    }
}
