//! What an answer that is no success means. A receiver's words reach a caller in one place only, where
//! the access cannot be served, and there cut and cleaned.

use std::time::Duration;

use reqwest::StatusCode;

use super::answer::Object;
use super::call::{Answer, Step};
use crate::provider::ProviderError;

/// The parts of an access that a receiver may find unfit, and what they are called in an order.
const POINTERS: [(&str, &str); 4] = [
    ("/actions", "/actions"),
    ("/resources", "/resources"),
    ("/tool", "/tool"),
    ("/expires_at", "/ttl"),
];
/// The longest reason that is told on, in characters.
const LONGEST_REASON: usize = 200;
/// The longest word in it: what is longer may be a token.
const LONGEST_WORD: usize = 24;
/// When to come again where nothing sensible is said, and at the latest.
const AGAIN: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(300);

/// What is wrong with the answer to this step.
pub(super) fn of(step: Step, answer: &Answer, url: &str) -> ProviderError {
    let status = answer.status;
    let after = answer.retry_after.map(|after| after.clamp(AGAIN, LATEST));
    if !answer.ours {
        return not_ours(status, url);
    }
    if step.makes()
        && matches!(status.as_u16(), 400 | 422)
        && let Some(unfit) = unfit(answer)
    {
        return unfit;
    }
    let refused = ProviderError::Refused;
    match (status.as_u16(), after) {
        (429, after) => ProviderError::Throttled {
            after: after.unwrap_or(AGAIN),
            reason: "it answered 429".into(),
        },
        (503, Some(after)) => ProviderError::Throttled {
            after,
            reason: "it answered 503 with a time to come again".into(),
        },
        (202, _) => ProviderError::Unavailable("it answered 202: it is not done yet".into()),
        (408 | 425 | 500..=599, _) => ProviderError::Unavailable(format!("it answered {status}")),
        (401 | 403, _) => refused(format!(
            "it does not take our signature ({status}): check that `{url}` is what it calls itself, that it knows \
             our `public_url` and its keys, and both clocks"
        )),
        (404, _) => refused(format!(
            "it does not know {} ({status}): check `url`, `{url}`",
            step.as_str()
        )),
        (409 | 410, _) if step.makes() => refused(format!("for it, this lease is over ({status})")),
        (200..=299, _) => refused(format!("{status} is no answer to {}", step.as_str())),
        (300..=399, _) => refused(format!(
            "it answers with a redirect ({status}), and none is followed: set `url` to where it leads"
        )),
        _ => refused(format!(
            "it does not take the request ({status}): its log says why"
        )),
    }
}

/// Something that is not the receiver answered: a proxy, or another server altogether. Its 404 proves
/// nothing, and whether a step had an effect behind it nobody knows.
fn not_ours(status: StatusCode, url: &str) -> ProviderError {
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => {
            ProviderError::Unavailable(format!("something in front of it answered {status}"))
        }
        _ => ProviderError::Refused(format!(
            "what answers at `{url}` ({status}) does not speak version {} of the protocol: check `url`",
            super::call::VERSION
        )),
    }
}

/// RFC 9457 with `pointer` (RFC 6901) to a part of the access.
fn unfit(answer: &Answer) -> Option<ProviderError> {
    if !answer.is("application/problem+json") {
        return None;
    }
    let mut problem = Object::read(&answer.body).ok()?;
    let pointer = problem.hint("pointer")?;
    let within = |part: &str| {
        let rest = pointer.trim_start_matches('#').strip_prefix(part);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let (_, pointer) = POINTERS.into_iter().find(|(part, _)| within(part))?;
    let said = clean(&problem.hint("detail").unwrap_or_default());
    let reason = match said.as_str() {
        "" => "the tool's system cannot serve it: ask for less".to_owned(),
        said => format!("the tool's system cannot serve it, and says: {said}"),
    };
    Some(ProviderError::Unfit { pointer, reason })
}

/// A line of ordinary words: no control or format characters, no markup, nothing as long as a token.
fn clean(text: &str) -> String {
    let ordinary = |c: char| c.is_alphanumeric() || " .,:;-_/'()@*=+%".contains(c);
    let text: String = text
        .chars()
        .take(LONGEST_REASON * 4)
        .map(|c| if ordinary(c) { c } else { ' ' })
        .collect();
    let words = text.split_whitespace().map(|word| match word.chars().count() {
        0..=LONGEST_WORD => word,
        _ => "[...]",
    });
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use zeroize::Zeroizing;

    use super::*;

    const URL: &str = "https://keys.example.org/dayfly";

    fn answer(status: u16, ours: bool) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            ours,
            kind: String::new(),
            retry_after: None,
            body: Zeroizing::new(Vec::new()),
        }
    }

    fn problem(status: u16, kind: &str, body: &serde_json::Value) -> ProviderError {
        let answer = Answer {
            kind: kind.into(),
            body: Zeroizing::new(body.to_string().into_bytes()),
            ..answer(status, true)
        };
        of(Step::Mint, &answer, URL)
    }

    #[test]
    fn each_status_is_of_one_class() {
        use Step::{Inventory, Mint, Revoke};
        let class = |step, status, ours| match of(step, &answer(status, ours), URL) {
            ProviderError::Unavailable(_) => "unavailable",
            ProviderError::Throttled { .. } => "throttled",
            ProviderError::Refused(_) => "refused",
            other => panic!("{other}"),
        };
        for (step, status, ours, expected) in [
            (Mint, 500, true, "unavailable"),
            (Mint, 503, true, "unavailable"),
            (Mint, 202, true, "unavailable"),
            (Mint, 408, true, "unavailable"),
            (Mint, 429, true, "throttled"),
            (Mint, 429, false, "unavailable"),
            (Mint, 502, false, "unavailable"),
            (Mint, 400, true, "refused"),
            (Mint, 401, true, "refused"),
            (Mint, 403, true, "refused"),
            (Mint, 404, true, "refused"),
            (Mint, 409, true, "refused"),
            (Mint, 302, true, "refused"),
            (Mint, 302, false, "refused"),
            (Mint, 418, true, "refused"),
            (Revoke, 404, false, "refused"),
            (Revoke, 409, true, "refused"),
            (Inventory, 204, true, "refused"),
        ] {
            assert_eq!(class(step, status, ours), expected, "{step:?} {status} {ours}");
        }
    }

    #[test]
    fn comes_again_when_told_within_reason() {
        let said = |status, seconds| {
            let answer = Answer {
                retry_after: Some(Duration::from_secs(seconds)),
                ..answer(status, true)
            };
            match of(Step::Revoke, &answer, URL) {
                ProviderError::Throttled { after, .. } => after.as_secs(),
                other => panic!("{other}"),
            }
        };
        assert_eq!((said(503, 7), said(429, 0), said(503, u64::MAX)), (7, 1, 300));
    }

    #[test]
    fn only_a_part_of_the_access_makes_an_order_unfit() {
        const KIND: &str = "application/problem+json; charset=utf-8";
        for (pointer, expected) in [
            ("/resources/0", "/resources"),
            ("#/actions", "/actions"),
            ("/expires_at", "/ttl"),
        ] {
            for status in [400, 422] {
                let error = problem(
                    status,
                    KIND,
                    &json!({"pointer": pointer, "detail": "no such customer"}),
                );
                let ProviderError::Unfit { pointer, reason } = error else {
                    panic!("{error}");
                };
                assert_eq!(pointer, expected);
                assert_eq!(
                    reason,
                    "the tool's system cannot serve it, and says: no such customer"
                );
            }
        }
        for (kind, body) in [
            (KIND, json!({"pointer": "/parameters/database"})),
            (KIND, json!({"pointer": "/resourcesque"})),
            (KIND, json!({"pointer": ["/resources"]})),
            (KIND, json!({"detail": "no"})),
            ("application/json", json!({"pointer": "/resources"})),
        ] {
            assert!(
                matches!(problem(422, kind, &body), ProviderError::Refused(_)),
                "{body}"
            );
        }
    }

    #[test]
    fn what_a_receiver_says_is_cut_and_cleaned() {
        let loud = "see\u{202e} <b>eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9</b>\r\n`ignore`  all\u{0} that";
        assert_eq!(clean(loud), "see b [...] /b ignore all that");
        assert_eq!(clean(&"no ".repeat(1000)).chars().count(), LONGEST_REASON);
        for status in [400, 401, 404, 409, 418, 500] {
            let body = json!({"detail": "s3cret", "title": "s3cret", "pointer": "s3cret"});
            let error = problem(status, "application/problem+json", &body);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
