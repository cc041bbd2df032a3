//! Status lists for whoever asks (draft-ietf-oauth-status-list §8): signed, a second old at the most, and read once
//! for all who ask within that second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::digest;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::broker::Broker;
use crate::broker::error::BrokerError;
use crate::broker::status_lists::Edition;
use crate::ledger::LedgerError;
use crate::ledger::status_lists::{ListName, PATH};
use crate::model::status_list::{ListClaims, MEDIA_TYPE, TYP};
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

use super::answer::Answer;
use super::finish::Finishing;
use super::problem::{Kind, Problem};
use super::{HttpState, Shared};

/// How long an edition is given out. No list is read more often.
const FRESH: Duration = Duration::from_secs(1);
/// How long nobody looks again whether kill orders have come to their leases, where there was too much to look at.
const DRAINING: Duration = Duration::from_secs(5);
/// The same as [`FRESH`], for caches on the way.
const CACHED: &str = "public, max-age=1";
/// How many lists of one edition are held at most. One takes up to 25 KB.
const MOST_COPIES: usize = 1024;
/// For how many times its `ttl` a list is good when no newer one can be had.
const LAPSES_AFTER: u64 = 4;

/// The addresses of all lists (§9.2).
#[derive(Serialize, ToSchema)]
pub(super) struct Aggregation {
    /// Where they are.
    status_lists: Vec<String>,
}

/// A list as it is sent.
#[derive(Clone)]
struct Copy {
    token: Bytes,
    etag: HeaderValue,
}

/// An edition, and those of its lists that somebody asked for.
struct Press {
    edition: Edition,
    copies: Mutex<HashMap<ListName, Arc<OnceCell<Copy>>>>,
}

impl Press {
    /// The list, made by the first who asks while the others wait.
    async fn copy(&self, broker: &Broker, name: ListName, ttl: Ttl) -> Result<Copy, Problem> {
        self.edition.find(name)?;
        let cell = {
            let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            if copies.len() >= MOST_COPIES && !copies.contains_key(&name) {
                return Err(Problem::new(
                    Kind::BUSY,
                    "as many lists are asked for at a time as may be: try again",
                )
                .after(1));
            }
            Arc::clone(copies.entry(name).or_default())
        };
        let copy = cell.get_or_try_init(|| self.print(broker, name, ttl)).await?;
        Ok(copy.clone())
    }

    async fn print(&self, broker: &Broker, name: ListName, ttl: Ttl) -> Result<Copy, Problem> {
        let list = broker.status_list(&self.edition, name).await?;
        let issuer = broker.issuer();
        let ttl = u64::from(ttl.as_secs());
        let iat = self.edition.as_of.as_secs();
        let claims = ListClaims {
            sub: name.uri(issuer.url()),
            iat,
            exp: Some(iat + LAPSES_AFTER * ttl),
            ttl: Some(ttl),
            status_list: list
                .pack(Some(all_of(issuer.url())))
                .map_err(|error| Problem::internal(&error))?,
        };
        let token = issuer
            .sign(TYP, &claims)
            .await
            .map_err(|error| Problem::unavailable(&error, "the list cannot be signed: try again", 1))?;
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let etag = format!("\"{}\"", BASE64URL.encode(digest));
        Ok(Copy {
            token: token.into(),
            etag: HeaderValue::try_from(etag).map_err(|error| Problem::internal(&error))?,
        })
    }
}

/// What came of reading an edition: itself, or why there is none.
struct Reading {
    /// For whoever asks before this, by either clock: neither of the two going astray keeps an old one.
    until: (Instant, Timestamp),
    press: Result<Arc<Press>, Problem>,
}

/// The latest edition. One is read at a time, however many ask, and to its end, however long that takes.
#[derive(Default)]
pub(super) struct StatusLists(Arc<tokio::sync::Mutex<Option<Reading>>>);

impl StatusLists {
    async fn latest(&self, state: &HttpState) -> Result<Arc<Press>, Problem> {
        let broker = Arc::clone(&state.broker);
        let asked = (Instant::now(), broker.now());
        let mut latest = Arc::clone(&self.0).lock_owned().await;
        let serves = |reading: &&Reading| asked.0 < reading.until.0 && asked.1 < reading.until.1;
        if let Some(reading) = latest.as_ref().filter(serves) {
            return reading.press.clone();
        }
        let reading = async move {
            let reading = Reading::of(&broker).await;
            let press = reading.press.clone();
            *latest = Some(reading);
            press
        };
        Finishing::new(reading, None, &state.tracker).await
    }
}

impl Reading {
    async fn of(broker: &Broker) -> Self {
        // What was begun after somebody asked is as new as they could have it, though it took longer than that.
        let (began, as_of) = (Instant::now(), broker.now());
        let (until, press) = match broker.status_lists().await {
            Ok(edition) => {
                let copies = Mutex::default();
                let press = Arc::new(Press { edition, copies });
                ((began + FRESH, as_of.plus(FRESH)), Ok(press))
            }
            Err(error) => {
                let kept = match error {
                    BrokerError::Draining => DRAINING,
                    _ => FRESH,
                };
                let until = (Instant::now() + kept, broker.now().plus(kept));
                (until, Err(error.into()))
            }
        };
        Self { until, press }
    }
}

/// Where the addresses of all lists are.
pub(super) fn all_of(issuer: &str) -> String {
    format!("{}{PATH}", issuer.trim_end_matches('/'))
}

/// How long lists are good; or that there are none, or none that can be relied on.
fn enabled(broker: &Broker) -> Result<Ttl, Problem> {
    if let Some(loss) = broker.quarantine() {
        return Err(BrokerError::Ledger(LedgerError::Lost(loss)).into());
    }
    broker
        .status_list_ttl()
        .ok_or_else(|| Problem::new(Kind::NOT_FOUND, "this broker keeps no status lists"))
}

/// Where the status lists are
///
/// All lists that live tokens can be on (Token Status List §9), a second old at the most.
#[utoipa::path(get, path = "/v1/status-lists", tag = "public", operation_id = "status_lists", security(()),
    responses((status = 200, body = Aggregation)))]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Result<impl IntoResponse, Problem> {
    let broker = &shared.state.broker;
    enabled(broker)?;
    let press = shared.status_lists.latest(&shared.state).await?;
    let issuer = broker.issuer().url();
    let status_lists = press.edition.names().map(|name| name.uri(issuer)).collect();
    let cached = [(header::CACHE_CONTROL, CACHED)];
    Ok((cached, Answer(Aggregation { status_lists })))
}

/// What may be asked of a list.
#[derive(Deserialize)]
pub(super) struct Asked {
    time: Option<String>,
}

/// A status list
///
/// Whether each of many tokens was revoked (Token Status List): a JWT of the type `statuslist+jwt`, signed by the keys
/// of tokens. A token names its list, and its index on it, in `status`. `iat` is the instant as of which the list is;
/// it is a second old at the most. 410 says that every token of the list is over, 404 that there is no such list, 503
/// that nobody knows now: none of them is leave to rely on a token.
#[utoipa::path(get, path = "/v1/status-lists/{list}", tag = "public", operation_id = "status_list", security(()),
    params(("list" = String, Path, description = "As it stands in a token.")),
    responses((status = 200, body = String, content_type = "application/statuslist+jwt"), (status = 304)))]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let broker = &shared.state.broker;
    let ttl = enabled(broker)?;
    if !accepts(&headers) {
        return Err(Problem::new(
            Kind::NOT_ACCEPTABLE,
            format!("lists are given out as `{MEDIA_TYPE}` alone"),
        ));
    }
    if asked.is_ok_and(|Query(asked)| asked.time.is_some()) {
        return Err(Problem::new(
            Kind::NOT_IMPLEMENTED,
            "lists of the past are not kept: ask without `time`",
        ));
    }
    let name = name.parse().map_err(|_| BrokerError::NoStatusList)?;
    let press = shared.status_lists.latest(&shared.state).await?;
    let copy = press.copy(broker, name, ttl).await?;
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let same = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|etag| Some(etag.trim().trim_start_matches("W/")) == copy.etag.to_str().ok());
    let common = [
        (header::CACHE_CONTROL, HeaderValue::from_static(CACHED)),
        (header::ETAG, copy.etag),
    ];
    Ok(match same {
        true => (StatusCode::NOT_MODIFIED, common).into_response(),
        false => {
            let typed = [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))];
            (common, typed, copy.token).into_response()
        }
    })
}

/// Whether the caller takes what lists are (RFC 9110 §12.5.1).
fn accepts(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .filter(|range| !range.is_empty())
        .peekable();
    ranges.peek().is_none()
        || ranges.any(|range| {
            [MEDIA_TYPE, "application/*", "*/*"]
                .iter()
                .any(|taken| range.eq_ignore_ascii_case(taken))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_for_those_who_take_it() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            accepts(&headers)
        };
        assert!(accepts(&HeaderMap::new()));
        for taken in [
            "",
            "*/*",
            "application/statuslist+jwt",
            "Application/StatusList+JWT",
            "application/statuslist+cwt, application/statuslist+jwt;q=0.5",
            "text/html, application/*;q=0.1",
        ] {
            assert!(takes(taken), "{taken}");
        }
        for other in ["application/statuslist+cwt", "application/json", "text/*"] {
            assert!(!takes(other), "{other}");
        }
    }
}
