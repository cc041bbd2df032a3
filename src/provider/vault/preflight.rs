//! Whether the server lets Dayfly mint and end, tried out.

use std::collections::BTreeMap;

use super::VaultProvider;
use super::endpoints::Capabilities;
use super::held::is_word;
use super::lease_token::Wanted;
use crate::provider::ProviderError;

/// How long the token lives that is made to see whether one can be made.
const SECONDS: u64 = 30;

/// What has to be allowed besides making tokens: a path, and what on it.
const NEEDED: [(&str, &[&str]); 7] = [
    ("auth/token/lookup-accessor", &["update"]),
    ("auth/token/revoke-accessor", &["update"]),
    ("auth/token/renew-accessor", &["update"]),
    ("auth/token/accessors", &["list", "sudo"]),
    ("sys/leases/lookup", &["update"]),
    ("sys/leases/revoke", &["update"]),
    ("sys/leases/renew", &["update"]),
];

impl VaultProvider {
    pub(super) async fn check_permits(&self) -> Result<(), ProviderError> {
        self.session.check(&self.minting).await?;
        self.check_capabilities().await
    }

    pub(super) async fn check(&self) -> Result<(), ProviderError> {
        self.check_permits().await?;
        let auth = self
            .create(Wanted {
                policies: &["default".to_owned()],
                seconds: SECONDS,
                longest: None,
                display_name: "dayfly-preflight".into(),
                meta: BTreeMap::new(),
            })
            .await?;
        if !is_word(&auth.accessor, 128) {
            return Err(ProviderError::Refused(
                "the token role makes tokens that cannot be revoked: set its `token_type` to `service`"
                    .into(),
            ));
        }
        self.revoke_token(&auth.accessor).await?;
        if self.look_up(&auth.accessor).await?.is_some() {
            return Err(ProviderError::Unavailable(
                "a token is still there after it was revoked".into(),
            ));
        }
        match auth.orphan {
            true => Ok(()),
            false => Err(ProviderError::Refused(
                "what is minted would end with Dayfly's own token: set `orphan = true` on the token role"
                    .into(),
            )),
        }
    }

    async fn check_capabilities(&self) -> Result<(), ProviderError> {
        let creation = self.creation_path();
        let create: &[&str] = &["update"];
        let needed: Vec<(&str, &[&str])> = NEEDED.into_iter().chain([(creation.as_str(), create)]).collect();
        let endpoint = Capabilities {
            paths: needed.iter().map(|(path, _)| (*path).to_owned()).collect(),
        };
        let answer = self
            .session
            .send(&self.minting, &endpoint)
            .await
            .map_err(|fault| {
                fault.into_error(
                    "asking what Dayfly may do",
                    "let Dayfly's policy update sys/capabilities-self",
                )
            })?;
        let data = answer.data.unwrap_or_default();
        for (path, wanted) in needed {
            let words = data.get(path).and_then(|words| words.as_array());
            let has =
                |word: &str| words.is_some_and(|words| words.iter().any(|has| has.as_str() == Some(word)));
            if has("root") {
                continue;
            }
            if let Some(missing) = wanted.iter().find(|word| !has(word)) {
                return Err(ProviderError::Refused(format!(
                    "Dayfly's policy lacks `{missing}` on {path}: see docs/guides/vault.md"
                )));
            }
        }
        Ok(())
    }
}
