//! The bodies of OAuth requests: `application/x-www-form-urlencoded` (RFC 6749 appendix B).
//!
//! Read strictly: a parameter that comes twice says two things at once, and what is no UTF-8 is no text.
//! Parameters that are not known are left alone, and one without a value is not there (RFC 6749 §3.2).

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};

use super::extract::{is_media_type, read};
use super::problem::{Kind, Problem};
use crate::keys::issuer::Issuer;
use crate::model::secret::Secret;

/// The token that a request is about. `token_type_hint` may come and is not needed: there is one kind.
pub(super) struct TokenForm(pub(super) Secret);

impl<S: Send + Sync> FromRequest<S> for TokenForm {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_media_type(request.headers(), "application/x-www-form-urlencoded") {
            return Err(Problem::new(
                Kind::MEDIA_TYPE,
                "send a form and say so: `Content-Type: application/x-www-form-urlencoded`",
            ));
        }
        let body: Bytes = read(request, state).await?;
        let token = parse(&body).map_err(malformed)?.remove("token");
        match token {
            None => Err(malformed("`token` is missing")),
            Some(token) if token.len() > Issuer::LONGEST_TOKEN => {
                Err(malformed("`token` is longer than any token of ours"))
            }
            Some(token) => Ok(Self(Secret::new(token))),
        }
    }
}

fn malformed(why: &str) -> Problem {
    Problem::new(Kind::MALFORMED, why)
}

/// The parameters that have a value.
fn parse(body: &[u8]) -> Result<BTreeMap<String, String>, &'static str> {
    let mut parameters = BTreeMap::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let mut part = || decode(parts.next().unwrap_or_default());
        let (name, value) = (part()?, part()?);
        if parameters.insert(name, value).is_some() {
            return Err("a parameter comes twice");
        }
    }
    parameters.retain(|_, value| !value.is_empty());
    Ok(parameters)
}

/// A name or a value: `+` is a space, and `%` comes before two hexadecimal digits.
fn decode(text: &[u8]) -> Result<String, &'static str> {
    const NO_FORM: &str = "the body is no form: it is not encoded as one";
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (bytes.next().and_then(digit), bytes.next().and_then(digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(NO_FORM),
            },
            other => *other,
        });
    }
    String::from_utf8(decoded).map_err(|_| NO_FORM)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header;

    use super::*;

    async fn token(media_type: &str, body: impl Into<Body>) -> Result<String, u16> {
        let request = Request::builder()
            .header(header::CONTENT_TYPE, media_type)
            .body(body.into())
            .unwrap();
        match TokenForm::from_request(request, &()).await {
            Ok(TokenForm(token)) => Ok(token.expose().to_owned()),
            Err(problem) => Err(problem.status().as_u16()),
        }
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[tokio::test]
    async fn reads_a_token_and_leaves_what_it_does_not_know_alone() {
        for body in [
            "token=a.b-c_d",
            "token=a%2Eb%2dc_d",
            "%74oken=a.b-c_d&token_type_hint=refresh_token",
            "colour=&&token=a.b-c_d&size",
        ] {
            assert_eq!(token(FORM, body).await, Ok("a.b-c_d".to_owned()), "{body}");
        }
        let charset = "Application/x-www-form-urlencoded; charset=UTF-8";
        assert_eq!(token(charset, "token=a+b%20").await, Ok("a b ".to_owned()));
    }

    #[tokio::test]
    async fn refuses_what_says_nothing_or_two_things() {
        for body in [
            "",
            "token",
            "token=",
            "Token=a",
            "token=a&token=a",
            "token=a&token=",
            "token=a&x=1&x=2",
            "token=%",
            "token=%4",
            "token=%+41",
            "token=%zz",
            "token=%ff",
            "{\"token\":\"a\"}",
        ] {
            assert_eq!(token(FORM, body).await, Err(400), "{body}");
        }
        assert_eq!(token("application/json", "token=a").await, Err(415));
        let long = |bytes| format!("token={}", "a".repeat(bytes));
        assert!(token(FORM, long(Issuer::LONGEST_TOKEN)).await.is_ok());
        assert_eq!(token(FORM, long(Issuer::LONGEST_TOKEN + 1)).await, Err(400));
    }
}
