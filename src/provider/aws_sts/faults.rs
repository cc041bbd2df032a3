//! What AWS says when it does not do what it was asked, in the words of the seam.
//!
//! Of AWS's own texts only those are passed on that are known to hold no more than names: the text about
//! a wrong signature, for one, repeats the signed headers, a session token among them.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::super::ProviderError;

/// When to come again where AWS does not say.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest part of a text of AWS that is passed on, and the longest word in it.
const LONGEST: (usize, usize) = (320, 160);

/// A call that did not work.
pub(super) struct Call<'a> {
    /// The action, as policies name it.
    pub(super) action: &'static str,
    /// On what.
    pub(super) on: &'a str,
    /// What somebody has to grant for it.
    pub(super) grant: &'static str,
}

impl Call<'_> {
    /// What to tell about it.
    pub(super) fn failed<E>(&self, error: &SdkError<E, HttpResponse>) -> ProviderError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(service) = error.as_service_error() {
            let response = error.raw_response();
            let answer = Answer {
                code: service.code().unwrap_or("unknown"),
                message: service.message().unwrap_or_default(),
                status: response.map_or(0, |response| response.status().as_u16()),
                retry_after: response.and_then(|response| response.headers().get("retry-after")),
            };
            return self.refused(&answer);
        }
        match credentials_fault(error) {
            Some(fault) => fault,
            None => {
                let what = match error {
                    SdkError::TimeoutError(_) => "did not answer in time",
                    SdkError::DispatchFailure(failure) if failure.is_timeout() => "did not answer in time",
                    SdkError::DispatchFailure(_) => "cannot be reached",
                    SdkError::ResponseError(_) => "answered something that cannot be read",
                    _ => "could not be asked",
                };
                ProviderError::Unavailable(format!("{}: AWS {what}", self.action))
            }
        }
    }

    fn refused(&self, answer: &Answer<'_>) -> ProviderError {
        let (action, on, code) = (self.action, self.on, answer.code);
        if answer.is_throttled() {
            let after = answer.retry_after.and_then(|text| text.trim().parse().ok());
            return ProviderError::Throttled {
                after: after.map_or(PAUSE, |secs: u64| Duration::from_secs(secs.clamp(1, 300))),
                reason: format!("{action}: {code}"),
            };
        }
        let said = passed_on(answer.message);
        match code {
            "PackedPolicyTooLarge" | "PackedPolicyTooLargeException" => ProviderError::Unfit {
                pointer: "/resources",
                reason: "the session policy and the tags are too large for AWS once packed: ask for fewer \
                         resources at a time"
                    .into(),
            },
            "AccessDenied" | "AccessDeniedException" => ProviderError::Refused(format!(
                "{action} on {on} is not allowed: {} ({said})",
                self.grant
            )),
            "NoSuchEntity" | "NoSuchEntityException" => ProviderError::Refused(format!(
                "{action}: {on} does not exist: create it, or correct its name"
            )),
            "RegionDisabledException" => ProviderError::Refused(format!(
                "{action}: STS is not active in this region: activate it in the account's settings, or set \
                 another `region`"
            )),
            // It has the code of a bad token, and is what AWS says while `public_url` leads nowhere.
            "InvalidIdentityToken" | "InvalidIdentityTokenException"
                if answer.message.contains("retrieve verification key") =>
            {
                self.keys_out_of_reach()
            }
            "InvalidIdentityToken" | "InvalidIdentityTokenException" | "IDPRejectedClaim" => {
                ProviderError::Refused(format!(
                    "{action} on {on}: AWS does not take Dayfly's own token ({code}): make `public_url` an \
                     identity provider of the account, with the audience `sts.amazonaws.com`"
                ))
            }
            "MalformedPolicyDocument"
            | "MalformedPolicyDocumentException"
            | "ValidationError"
            | "LimitExceeded"
            | "LimitExceededException"
            | "InvalidParameterValue" => ProviderError::Refused(format!("{action} on {on}: {code}: {said}")),
            "SignatureDoesNotMatch"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "RequestExpired"
            | "AuthFailure"
            | "InvalidAccessKeyId"
            | "InvalidSignatureException" => ProviderError::Refused(format!(
                "{action}: AWS does not take our signature ({code}): check Dayfly's own credentials, and the \
                 clock of this machine"
            )),
            "ExpiredToken" | "ExpiredTokenException" => ProviderError::Unavailable(format!(
                "{action}: what Dayfly came in with has expired for AWS: check the clock of this machine if \
                     that stays so"
            )),
            "IDPCommunicationError" | "IDPCommunicationErrorException" => self.keys_out_of_reach(),
            "ConcurrentModification" | "ConcurrentModificationException" => {
                ProviderError::Unavailable(format!("{action} on {on}: somebody else changed it"))
            }
            _ if answer.status >= 500 => {
                ProviderError::Unavailable(format!("{action}: AWS failed ({})", answer.status))
            }
            // Not in the words of AWS: a proxy or an endpoint of somebody's own.
            _ if answer.status == 403 => ProviderError::Refused(format!(
                "{action} on {on} is not allowed ({}): {}, and check Dayfly's own credentials",
                passed_on(code),
                self.grant
            )),
            _ => ProviderError::Refused(format!("{action} on {on}: {}", passed_on(code))),
        }
    }

    fn keys_out_of_reach(&self) -> ProviderError {
        ProviderError::Unavailable(format!(
            "{}: AWS cannot fetch our keys from `public_url`: it has to lead here from the internet",
            self.action
        ))
    }
}

struct Answer<'a> {
    code: &'a str,
    message: &'a str,
    status: u16,
    retry_after: Option<&'a str>,
}

impl Answer<'_> {
    fn is_throttled(&self) -> bool {
        self.status == 429
            || self.code.starts_with("Throttl")
            || [
                "RequestLimitExceeded",
                "RequestThrottled",
                "TooManyRequestsException",
            ]
            .contains(&self.code)
    }
}

/// One line, short, and no word in it that is long enough for a token.
fn passed_on(text: &str) -> String {
    let (longest, longest_word) = LONGEST;
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words = words.filter(|word| !word.is_empty() && word.len() <= longest_word);
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(longest).collect()
}

/// A fault of the way in, on its way through the SDK.
#[derive(Debug)]
pub(super) struct WayInFault(pub(super) ProviderError);

impl fmt::Display for WayInFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for WayInFault {}

fn credentials_fault(error: &(dyn Error + 'static)) -> Option<ProviderError> {
    let mut next = Some(error);
    let mut missing = false;
    while let Some(error) = next {
        if let Some(WayInFault(fault)) = error.downcast_ref() {
            return Some(copy(fault));
        }
        missing |= matches!(
            error.downcast_ref(),
            Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
        );
        next = error.source();
    }
    missing.then(|| {
        ProviderError::Refused(
            "the SDK's chain has no AWS credentials for Dayfly: give its pod or machine a role, or set \
             `credentials` to `web_identity` or `static`"
                .into(),
        )
    })
}

/// The same once more, for each of those who wait for one call.
pub(super) fn copy(error: &ProviderError) -> ProviderError {
    match error {
        ProviderError::Unavailable(reason) => ProviderError::Unavailable(reason.clone()),
        ProviderError::Throttled { after, reason } => ProviderError::Throttled {
            after: *after,
            reason: reason.clone(),
        },
        ProviderError::Down { after, reason } => ProviderError::Down {
            after: *after,
            reason: reason.clone(),
        },
        ProviderError::Unfit { pointer, reason } => ProviderError::Unfit {
            pointer,
            reason: reason.clone(),
        },
        ProviderError::Refused(reason) => ProviderError::Refused(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: &str, message: &str, status: u16) -> ProviderError {
        let call = Call {
            action: "sts:AssumeRole",
            on: "the role",
            grant: "grant it",
        };
        call.refused(&Answer {
            code,
            message,
            status,
            retry_after: None,
        })
    }

    #[test]
    fn each_code_is_told_as_what_can_be_done_about_it() {
        for code in [
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestLimitExceeded",
        ] {
            assert!(
                matches!(told(code, "", 400), ProviderError::Throttled { .. }),
                "{code}"
            );
        }
        assert!(matches!(
            told("SlowDown", "", 429),
            ProviderError::Throttled { .. }
        ));
        assert!(matches!(
            told("PackedPolicyTooLarge", "", 400),
            ProviderError::Unfit {
                pointer: "/resources",
                ..
            }
        ));
        for code in ["ExpiredToken", "IDPCommunicationError"] {
            assert!(
                matches!(told(code, "", 400), ProviderError::Unavailable(_)),
                "{code}"
            );
        }
        assert!(matches!(told("Anything", "", 503), ProviderError::Unavailable(_)));
        let no_key = "Couldn't retrieve verification key from your identity provider,  please reference …";
        assert!(matches!(
            told("InvalidIdentityToken", no_key, 400),
            ProviderError::Unavailable(_)
        ));
        let unreadable = told("unknown", "", 403).to_string();
        assert!(
            unreadable.contains("grant it, and check Dayfly's own credentials"),
            "{unreadable}"
        );
        for (code, expected) in [
            ("AccessDenied", "grant it (because)"),
            ("MalformedPolicyDocument", "because"),
            ("NoSuchEntity", "the role does not exist"),
            ("RegionDisabledException", "set another `region`"),
            ("InvalidClientTokenId", "check Dayfly's own credentials"),
            ("InvalidIdentityToken", "identity provider of the account"),
            ("SomethingNew", "SomethingNew"),
        ] {
            let told = told(code, "because", 403);
            assert!(matches!(told, ProviderError::Refused(_)), "{code}: {told}");
            assert!(told.to_string().contains(expected), "{told}");
        }
    }

    #[test]
    fn no_signed_header_and_no_token_is_passed_on() {
        let canonical =
            "The request signature we calculated does not match\nx-amz-security-token:FwoGZXIvYXdzEJr";
        assert!(
            !told("SignatureDoesNotMatch", canonical, 403)
                .to_string()
                .contains("FwoG")
        );
        let token = "FwoG".repeat(60);
        let told = told("AccessDenied", &format!("denied\r\nto {token} there"), 403).to_string();
        assert!(told.contains("(denied to there)"), "{told}");
    }
}
