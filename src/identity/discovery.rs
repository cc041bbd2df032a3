//! OpenID Connect Discovery 1.0 §4: from an issuer to the address of its keys.

use serde::Deserialize;

use super::fetch::{Address, FetchError, Fetcher};
use crate::model::name::InvalidName;

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// The address of an issuer's discovery document.
pub fn document_of(issuer: &str) -> Result<Address, InvalidName> {
    let address: Address = issuer.parse()?;
    Ok(address.below("/.well-known/openid-configuration"))
}

/// Reads the discovery document and checks that it is the issuer's own, and that the keys are on the same host.
///
/// A document that sends us to another host could make us fetch anything; an operator who trusts such
/// a host configures the address of the keys instead.
pub(super) async fn discover(
    fetcher: &Fetcher,
    issuer: &str,
    document: &Address,
) -> Result<Address, FetchError> {
    let about = |reason: String| FetchError(format!("{document}: {reason}"));
    let answer = fetcher.get(document).await?;
    let metadata: Metadata = serde_json::from_slice(&answer)
        .map_err(|e| about(format!("not an OpenID provider configuration: {e}")))?;
    if metadata.issuer != issuer {
        return Err(about("it is the configuration of another issuer".into()));
    }
    let keys: Address = metadata
        .jwks_uri
        .parse()
        .map_err(|e| about(format!("jwks_uri: {e}")))?;
    if !keys.same_origin(document) {
        return Err(about(
            "its jwks_uri is on another host; configure the address of the keys if that is right".into(),
        ));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_below_the_issuers_path() {
        for (issuer, document) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example/",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example/t/1",
                "https://a.example/t/1/.well-known/openid-configuration",
            ),
            (
                "https://a.example/t?x=1",
                "https://a.example/t/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(document_of(issuer).unwrap().to_string(), document);
        }
        for bad in ["", "a.example", "http://a.example"] {
            assert!(document_of(bad).is_err(), "{bad}");
        }
    }
}
