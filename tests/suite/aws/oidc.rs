//! What an account does with the token of an OpenID Connect provider that it trusts: fetches the
//! provider's metadata and keys, and believes nothing that they do not prove ("Create an OpenID Connect
//! identity provider in IAM", AssumeRoleWithWebIdentity). Reads the token by itself, not with Dayfly's code.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use dayfly::model::time::Timestamp;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::Value;

use super::account::{Fault, invalid, only};

/// The role that Dayfly comes in as.
pub(crate) const OWN_ROLE: &str = "arn:aws:iam::123456789012:role/dayfly";

/// A provider of the account, and what the trust policy of [`OWN_ROLE`] asks of its tokens.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// Its address.
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) subject: String,
}

impl Trust {
    /// The trust policy of the guide, for this issuer.
    pub(crate) fn of_the_guide(issuer: &str) -> Self {
        let policy = super::moto::policies_of_the_guide().remove(2);
        let statement = &policy["Statement"][0];
        assert_eq!(statement["Action"], "sts:AssumeRoleWithWebIdentity");
        let asked = &statement["Condition"]["StringEquals"];
        let text = |name: &str| {
            asked[format!("dayfly.example.org:{name}")]
                .as_str()
                .unwrap()
                .to_owned()
        };
        Self {
            issuer: issuer.to_owned(),
            audience: text("aud"),
            subject: text("sub"),
        }
    }
}

/// Whether whoever brings this token may come in.
pub(super) async fn visitor(
    trust: Option<&Trust>,
    parameters: &BTreeMap<String, String>,
    now: Timestamp,
) -> Result<(), Fault> {
    let get = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    if !only(get("RoleSessionName"), 2, 64, "_=,.@-") {
        return Err(invalid("RoleSessionName"));
    }
    let token = get("WebIdentityToken");
    let (claims, verified) = read(token, trust, now).await?;
    let trust = verified;
    let allowed = get("RoleArn") == OWN_ROLE && claims["sub"] == *trust.subject;
    if !allowed {
        let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
        return Err((403, "AccessDenied", message.into()));
    }
    Ok(())
}

fn refused(message: &str) -> Fault {
    (400, "InvalidIdentityToken", message.to_owned())
}

/// The claims of a token that the provider signed, for AWS and for now.
async fn read<'a>(
    token: &str,
    trust: Option<&'a Trust>,
    now: Timestamp,
) -> Result<(Value, &'a Trust), Fault> {
    let malformed = || refused("The ID Token provided is not a valid JWT");
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return Err(malformed());
    };
    let bytes = |part: &str| BASE64URL.decode(part).map_err(|_| malformed());
    let json = |part: &str| serde_json::from_slice::<Value>(&bytes(part)?).map_err(|_| malformed());
    let (head, claims) = (json(header)?, json(payload)?);
    let issuer = claims["iss"].as_str().unwrap_or_default();
    let trust = trust.filter(|trust| trust.issuer == issuer).ok_or_else(|| {
        refused(&format!(
            "No OpenIDConnect provider found in your account for {issuer}"
        ))
    })?;
    if claims["aud"] != *trust.audience {
        return Err(refused("Incorrect token audience"));
    }
    let time = |name: &str| claims[name].as_u64().ok_or_else(malformed);
    if time("exp")? <= now.as_secs() {
        return Err((400, "ExpiredTokenException", "Token expired".into()));
    }
    // Clocks differ by a little.
    if time("iat")? > now.as_secs() + 60 || time("exp")? > time("iat")? + 86_400 {
        return Err(malformed());
    }
    let unknown = || {
        refused(
            "Couldn't retrieve verification key from your identity provider,  please reference \
             AssumeRoleWithWebIdentity documentation for requirements",
        )
    };
    let key = key(issuer, &head).await.ok_or_else(unknown)?;
    let signed = format!("{header}.{payload}");
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
        .verify(signed.as_bytes(), &bytes(signature)?)
        .map_err(|_| refused("The signature is not that of the key"))?;
    Ok((claims, trust))
}

/// The key that a header names, as an uncompressed point.
async fn key(issuer: &str, header: &Value) -> Option<Vec<u8>> {
    // Another test may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::ClientBuilder::new()
        .no_proxy()
        .timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let fetch = async |url: &str| -> Option<Value> {
        let answer = client.get(url).send().await.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    };
    let metadata = fetch(&format!("{issuer}/.well-known/openid-configuration")).await?;
    let lists = |name: &str, value: &Value| metadata[name].as_array().is_some_and(|all| all.contains(value));
    let complete = metadata["issuer"] == issuer
        && lists("response_types_supported", &"id_token".into())
        && lists("subject_types_supported", &"public".into())
        && lists("id_token_signing_alg_values_supported", &header["alg"]);
    if !complete || header["alg"] != "ES256" {
        return None;
    }
    let keys = fetch(metadata["jwks_uri"].as_str()?).await?;
    let key = keys["keys"]
        .as_array()?
        .iter()
        .find(|key| key["kid"] == header["kid"] && key["kid"].is_string())?;
    if key["kty"] != "EC" || key["crv"] != "P-256" {
        return None;
    }
    let coordinate = |name: &str| BASE64URL.decode(key[name].as_str()?).ok();
    Some([vec![4], coordinate("x")?, coordinate("y")?].concat())
}
