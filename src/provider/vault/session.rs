//! Dayfly's own token: how it is had, kept alive, and had again when it is no longer good.
//!
//! One at a time logs in, and the others wait for it. Neither a lease nor anything that was minted
//! hangs on this token: a new one changes nothing for them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustify::endpoint::Endpoint;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use super::endpoints::{LogInByAppRole, LogInByJwt, LookUpSelf, RenewSelf};
use super::fault::Fault;
use super::wire::{Answer, Lane};
use crate::clock::Clock;
use crate::keys::jose;
use crate::keys::key_ring::KeyRing;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::provider::ProviderError;

/// The longest file of a token that is read, in bytes.
const LONGEST: u64 = 64 * 1024;
/// How long a token of our own is good for logging in.
const OWN_TOKEN: Duration = Duration::from_secs(60);
/// A denial so soon after a login is meant, and no further login would change it.
const FRESH: Duration = Duration::from_secs(10);

/// How Dayfly shows the server who it is.
pub enum Login {
    /// With a token that it signs itself, by the keys that the server finds at its key set.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// The role there.
        role: String,
        /// The `aud`, which belongs to this server and to no tool.
        audience: String,
        /// The `iss`, and the `sub` too: no agent and no user has this name.
        issuer: String,
        /// The keys.
        keys: Arc<KeyRing>,
    },
    /// With the token of its Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// The role there.
        role: String,
        /// The file with the token. It rotates, so it is read each time.
        token_file: PathBuf,
    },
    /// With the two halves of an AppRole.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// The file with the role's id.
        role_id_file: PathBuf,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
    /// With a token that somebody made.
    Token {
        /// The file with it.
        file: PathBuf,
    },
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt { .. } => "Jwt",
            Self::Kubernetes { .. } => "Kubernetes",
            Self::AppRole { .. } => "AppRole",
            Self::Token { .. } => "Token",
        })
    }
}

/// The claims of Dayfly's own token (RFC 7519).
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
}

/// A token that was had.
struct Current {
    token: Secret,
    since: Timestamp,
    /// When to see to it that it lives on; `None` if it lives for ever.
    tend_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    renewable: bool,
}

impl Current {
    fn new(token: Secret, seconds: u64, renewable: bool, now: Timestamp) -> Self {
        let life = (seconds > 0).then(|| Duration::from_secs(seconds));
        Self {
            token,
            since: now,
            tend_at: life.map(|life| now.plus(life / 3 * 2)),
            expires_at: life.map(|life| now.plus(life)),
            renewable,
        }
    }
}

/// Keeps the token.
pub(super) struct Session {
    login: Login,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<Current>,
    one: Mutex<()>,
}

impl Session {
    pub(super) fn new(login: Login, clock: Arc<dyn Clock>) -> Self {
        Self {
            login,
            clock,
            current: ArcSwapOption::empty(),
            one: Mutex::new(()),
        }
    }

    /// Sends a request with Dayfly's token. A token that is no longer good is replaced, once.
    pub(super) async fn send<E: Endpoint>(&self, lane: &Lane, endpoint: &E) -> Result<Answer, Fault> {
        self.send_wrapped(lane, endpoint, None).await
    }

    /// The same, with the answer to be fetched by a token that works once, so long.
    pub(super) async fn send_wrapped<E: Endpoint>(
        &self,
        lane: &Lane,
        endpoint: &E,
        wrap: Option<String>,
    ) -> Result<Answer, Fault> {
        let current = self.token(lane).await?;
        let answer = lane
            .send_wrapped(endpoint, Some(&current.token), wrap.clone())
            .await;
        match answer {
            Err(fault) if fault.is_denial() => match self.replace(lane, &current).await? {
                None => Err(fault),
                Some(new) => lane.send_wrapped(endpoint, Some(&new.token), wrap).await,
            },
            answer => answer,
        }
    }

    async fn token(&self, lane: &Lane) -> Result<Arc<Current>, Fault> {
        let good = |current: &Arc<Current>| current.tend_at.is_none_or(|at| self.clock.now() < at);
        if let Some(current) = self.current.load_full().filter(good) {
            return Ok(current);
        }
        let _one = self.one.lock().await;
        let before = self.current.load_full();
        match before {
            Some(current) if good(&current) => Ok(current),
            Some(current) => match self.live_on(lane, &current).await {
                Ok(new) => Ok(new),
                // It is good for a while yet.
                Err(fault) if current.expires_at.is_some_and(|at| self.clock.now() < at) => {
                    let error = fault.into_error("renewing Dayfly's own token", "check its role");
                    tracing::warn!(%error, "going on with the token of before");
                    Ok(current)
                }
                Err(fault) => Err(fault),
            },
            None => self.log_in(lane).await,
        }
    }

    async fn live_on(&self, lane: &Lane, current: &Current) -> Result<Arc<Current>, Fault> {
        if current.renewable && current.expires_at.is_some_and(|at| self.clock.now() < at) {
            let now = self.clock.now();
            let renewed = lane.send(&RenewSelf {}, Some(&current.token)).await;
            // Past half of what it got at first it is near its longest life, and a login gives more.
            if let Ok(Answer { auth: Some(auth), .. }) = renewed
                && now.plus(Duration::from_secs(auth.lease_duration))
                    > current.expires_at.unwrap_or(Timestamp::EPOCH)
            {
                return Ok(self.keep(Current::new(
                    current.token.clone(),
                    auth.lease_duration,
                    auth.renewable,
                    now,
                )));
            }
        }
        self.log_in(lane).await
    }

    /// A new token in place of one that was refused, unless that one is so new that it was meant.
    async fn replace(&self, lane: &Lane, refused: &Arc<Current>) -> Result<Option<Arc<Current>>, Fault> {
        let _one = self.one.lock().await;
        match self.current.load_full() {
            Some(current) if !Arc::ptr_eq(&current, refused) => Ok(Some(current)),
            Some(current) if self.clock.now().since(current.since) < FRESH => Ok(None),
            _ => self.log_in(lane).await.map(Some),
        }
    }

    async fn log_in(&self, lane: &Lane) -> Result<Arc<Current>, Fault> {
        let now = self.clock.now();
        let answer = match &self.login {
            Login::Token { file } => {
                let token = read(file).await?;
                let answer = lane.send(&LookUpSelf {}, Some(&token)).await?;
                let data = answer.data.unwrap_or_default();
                let seconds = data.get("ttl").and_then(serde_json::Value::as_u64);
                let renewable = data.get("renewable").and_then(serde_json::Value::as_bool);
                let current = Current::new(token, seconds.unwrap_or(0), renewable.unwrap_or(false), now);
                return Ok(self.keep(current));
            }
            Login::Jwt {
                mount,
                role,
                audience,
                issuer,
                keys,
            } => {
                let claims = Claims {
                    iss: issuer,
                    sub: issuer,
                    aud: audience,
                    iat: now.as_secs(),
                    nbf: now.as_secs(),
                    exp: now.plus(OWN_TOKEN).as_secs(),
                };
                let jwt = jose::sign(&*keys.current(), "JWT", &claims)
                    .await
                    .map_err(|error| Fault::Lost(error.to_string()))?;
                self.by_jwt(lane, mount, role, &Secret::new(jwt)).await?
            }
            Login::Kubernetes {
                mount,
                role,
                token_file,
            } => self.by_jwt(lane, mount, role, &read(token_file).await?).await?,
            Login::AppRole {
                mount,
                role_id_file,
                secret_id_file,
            } => {
                let endpoint = LogInByAppRole {
                    mount: mount.clone(),
                    role_id: read(role_id_file).await?.expose().to_owned(),
                    secret_id: read(secret_id_file).await?.expose().to_owned(),
                };
                lane.send(&endpoint, None).await?
            }
        };
        let auth = answer
            .auth
            .ok_or_else(|| Fault::Lost("its answer to the login holds no token".into()))?;
        let current = Current::new(auth.client_token, auth.lease_duration, auth.renewable, now);
        Ok(self.keep(current))
    }

    async fn by_jwt(&self, lane: &Lane, mount: &str, role: &str, jwt: &Secret) -> Result<Answer, Fault> {
        let endpoint = LogInByJwt {
            mount: mount.to_owned(),
            role: role.to_owned(),
            jwt: jwt.expose().to_owned(),
        };
        lane.send(&endpoint, None).await
    }

    fn keep(&self, current: Current) -> Arc<Current> {
        let current = Arc::new(current);
        self.current.store(Some(Arc::clone(&current)));
        current
    }

    /// Whether the server knows Dayfly.
    pub(super) async fn check(&self, lane: &Lane) -> Result<(), ProviderError> {
        let remedy = "let Dayfly's own policy read auth/token/lookup-self, and check how it logs in";
        self.token(lane)
            .await
            .map_err(|fault| fault.into_error("logging in", remedy))?;
        let answer = self.send(lane, &LookUpSelf {}).await;
        answer.map_err(|fault| fault.into_error("looking up Dayfly's own token", remedy))?;
        Ok(())
    }
}

/// A token in a file, without the white space around it. Files of tokens rotate, and one that is not
/// there now may be in a moment.
async fn read(path: &Path) -> Result<Secret, Fault> {
    let about = |reason: &dyn fmt::Display| Fault::Lost(format!("the file {}: {reason}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(|error| about(&error))?;
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(LONGEST)
        .read_to_string(&mut text)
        .await
        .map_err(|error| about(&error))?;
    let token = text.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(about(&"it does not hold one word"));
    }
    Ok(Secret::new(token))
}
