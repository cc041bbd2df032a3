//! The key ring: the key that signs now, the one that will, and those that did.
//!
//! All of them are published. A key is known to everybody a whole period before it signs, and stays
//! known until the last token that it signed is over, so that no rotation ever refuses a token.
//!
//! What is which is kept in `ring.json` beside the keys. Replicas that share the directory agree on
//! it: changes are made under a lock, and [`KeyRing::tend`] takes over what another one changed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::file::{KeyDirectory, read_private, unusable, write_private};
use super::jwk::KeySet;
use super::ring_keys::RingSigner;
use super::{Algorithm, KeyError, KeyId, Signer};
use crate::entropy::OsEntropy;
use crate::model::time::Timestamp;

/// How keys follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// The algorithm of new keys. A change takes hold with the key that is made next.
    pub algorithm: Algorithm,
    /// How long a key signs.
    pub period: Duration,
    /// How long a key stays published after it signed last: the longest life of a token plus the
    /// skew of clocks.
    pub overlap: Duration,
}

impl Rotation {
    /// How long a key signs unless the configuration says otherwise: 30 days.
    pub const PERIOD: Duration = Duration::from_secs(30 * 24 * 3600);
}

/// The keys that sign our tokens.
pub struct KeyRing {
    home: Option<Home>,
    published: ArcSwap<Published>,
}

struct Home {
    directory: KeyDirectory,
    rotation: Rotation,
}

/// What everybody reads, without a lock.
struct Published {
    signer: Arc<dyn Signer>,
    keys: Arc<KeySet>,
    jwks: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u8,
    active: KeyId,
    active_since: Timestamp,
    /// None only where Dayfly cannot make the kind of key and nobody has provided one.
    next: Option<KeyId>,
    retiring: Vec<Retiring>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retiring {
    key: KeyId,
    until: Timestamp,
}

type Keys = BTreeMap<KeyId, (PathBuf, Arc<RingSigner>)>;

impl KeyRing {
    /// A ring of one key that is kept nowhere and never rotated, for tests and trials.
    pub fn of(signer: Arc<dyn Signer>) -> Self {
        let keys = KeySet::of([signer.public_key().clone()]);
        Self {
            home: None,
            published: ArcSwap::from_pointee(Published::new(signer, keys)),
        }
    }

    /// The ring that is kept in a directory; begins one where there is none. Reads and writes files:
    /// call it where blocking is allowed.
    pub fn open(
        directory: &Path,
        rotation: Rotation,
        entropy: &OsEntropy,
        now: Timestamp,
    ) -> Result<Self, KeyError> {
        let home = Home {
            directory: KeyDirectory::open(directory, entropy)?,
            rotation,
        };
        let (published, _) = home.step(now, false)?;
        Ok(Self {
            home: Some(home),
            published: ArcSwap::from_pointee(published),
        })
    }

    /// The ring that is kept in a directory, as it stands: for who looks and changes nothing. `None` where there is
    /// none. Reads files.
    pub fn look(directory: &Path, rotation: Rotation, entropy: &OsEntropy) -> Result<Option<Self>, KeyError> {
        // Opening makes the directory.
        if !directory.try_exists().map_err(|e| unusable(directory, &e))? {
            return Ok(None);
        }
        let home = Home {
            directory: KeyDirectory::open(directory, entropy)?,
            rotation,
        };
        let Some(state) = home.read()? else {
            return Ok(None);
        };
        let published = home.publish(&state, &home.keys()?)?;
        Ok(Some(Self {
            home: None,
            published: ArcSwap::from_pointee(published),
        }))
    }

    /// The key that signs now.
    pub fn current(&self) -> Arc<dyn Signer> {
        self.published.load().signer.clone()
    }

    /// All keys that a valid token can be signed by.
    pub fn key_set(&self) -> Arc<KeySet> {
        self.published.load().keys.clone()
    }

    /// The same for publishing, as a JWK Set in JSON.
    pub fn jwks(&self) -> Arc<str> {
        self.published.load().jwks.clone()
    }

    /// How often to [`tend`](Self::tend) it: several times a period, so that each replica has published a key by the
    /// time that another one signs with it. At least once a minute.
    pub fn tend_every(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(60);
        let period = self.home.as_ref().map(|home| home.rotation.period / 4);
        period.map_or(LONGEST, |period| period.min(LONGEST))
    }

    /// Does what is due: rotates a key whose period is over, drops those that nothing needs any more,
    /// and takes over what another replica did. To be called as often as `tend_every` says; blocks on files.
    /// Answers whether the signing key changed.
    pub fn tend(&self, now: Timestamp) -> Result<bool, KeyError> {
        self.step(now, false)
    }

    /// Rotates now, due or not. Blocks on files.
    pub fn rotate(&self, now: Timestamp) -> Result<bool, KeyError> {
        self.step(now, true)
    }

    fn step(&self, now: Timestamp, forced: bool) -> Result<bool, KeyError> {
        let Some(home) = &self.home else { return Ok(false) };
        // The lock is held until the outcome is published, or an older one could overtake it.
        let (published, _lock) = home.step(now, forced)?;
        let changed = published.signer.key_id() != self.published.load().signer.key_id();
        self.published.store(Arc::new(published));
        Ok(changed)
    }
}

impl Published {
    fn new(signer: Arc<dyn Signer>, keys: KeySet) -> Self {
        Self {
            signer,
            jwks: keys.to_json().into(),
            keys: Arc::new(keys),
        }
    }
}

impl Home {
    fn step(&self, now: Timestamp, forced: bool) -> Result<(Published, File), KeyError> {
        let lock = self.lock()?;
        let mut keys = self.keys()?;
        let before = self.read()?;
        let mut state = match before.clone() {
            Some(state) => state,
            None => {
                let Some(active) = self.waiting(&mut keys, None)? else {
                    let reason = format!(
                        "Dayfly makes no {} keys: put one here as PKCS#8, mode 0600",
                        self.rotation.algorithm.as_str()
                    );
                    return Err(unusable(&self.directory.file(""), &reason));
                };
                State {
                    version: 1,
                    active,
                    active_since: now,
                    next: None,
                    retiring: Vec::new(),
                }
            }
        };
        if state.next.is_none() {
            state.next = self.waiting(&mut keys, Some(&state))?;
        }
        if forced || now.since(state.active_since) >= self.rotation.period {
            self.turn(&mut state, &mut keys, now)?;
        }
        // Files go before the state forgets them: a key that the state does not know counts as new.
        let over: Vec<_> = state.retiring.extract_if(.., |old| old.until <= now).collect();
        for old in over {
            if let Some((path, _)) = keys.remove(&old.key) {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unusable(&path, &e)),
                    _ => {}
                }
            }
        }
        let published = self.publish(&state, &keys)?;
        if before.as_ref() != Some(&state) {
            self.write(&state)?;
        }
        Ok((published, lock))
    }

    fn keys(&self) -> Result<Keys, KeyError> {
        let keys = self.directory.keys()?.into_iter();
        Ok(keys
            .map(|(path, key)| (key.key_id().clone(), (path, Arc::new(key))))
            .collect())
    }

    /// next → active → retiring, and a new next.
    fn turn(&self, state: &mut State, keys: &mut Keys, now: Timestamp) -> Result<(), KeyError> {
        let Some(next) = state.next.take() else {
            let reason = format!(
                "the signing key is due for rotation and there is no next one: put a {} key here as PKCS#8, mode 0600",
                self.rotation.algorithm.as_str()
            );
            return Err(unusable(&self.directory.file(""), &reason));
        };
        let old = std::mem::replace(&mut state.active, next);
        state.active_since = now;
        state.retiring.push(Retiring {
            key: old,
            until: now.plus(self.rotation.overlap),
        });
        state.next = self.waiting(keys, Some(state))?;
        Ok(())
    }

    /// A key that has no part in the ring yet: one that somebody put into the directory, or a new one.
    fn waiting(&self, keys: &mut Keys, state: Option<&State>) -> Result<Option<KeyId>, KeyError> {
        let provided = keys
            .iter()
            .filter(|(id, (_, key))| {
                key.algorithm() == self.rotation.algorithm && !state.is_some_and(|state| state.has(id))
            })
            .min_by(|(_, (one, _)), (_, (other, _))| one.cmp(other))
            .map(|(id, _)| id.clone());
        match (provided, self.rotation.algorithm) {
            (Some(id), _) => Ok(Some(id)),
            (None, Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa) => {
                let key = self.directory.create(self.rotation.algorithm)?;
                let id = key.key_id().clone();
                let path = self.directory.file(&format!("{id}.pem"));
                keys.insert(id.clone(), (path, Arc::new(key)));
                Ok(Some(id))
            }
            (None, _) => Ok(None),
        }
    }

    fn publish(&self, state: &State, keys: &Keys) -> Result<Published, KeyError> {
        let mut ordered = Vec::new();
        let retiring = state.retiring.iter().map(|old| &old.key);
        for id in std::iter::once(&state.active).chain(&state.next).chain(retiring) {
            let (_, key) = keys.get(id).ok_or_else(|| KeyError::Unusable {
                key: id.to_string(),
                reason: format!(
                    "`{}` names it and its file is gone: restore the file",
                    self.directory.file(STATE).display()
                ),
            })?;
            ordered.push(key.clone());
        }
        let public = KeySet::of(ordered.iter().map(|key| key.public_key().clone()));
        let (active, _) = ordered
            .split_first()
            .ok_or_else(|| KeyError::Unavailable("no key".into()))?;
        Ok(Published::new(active.clone(), public))
    }

    /// One writer at a time, in this process and in others.
    fn lock(&self) -> Result<File, KeyError> {
        let path = self.directory.file(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| unusable(&path, &e))?;
        file.lock().map_err(|e| unusable(&path, &e))?;
        Ok(file)
    }

    fn read(&self) -> Result<Option<State>, KeyError> {
        let path = self.directory.file(STATE);
        if !path.try_exists().map_err(|e| unusable(&path, &e))? {
            return Ok(None);
        }
        let state: State = serde_json::from_slice(&read_private(&path)?).map_err(|e| unusable(&path, &e))?;
        if state.version != 1 {
            return Err(unusable(&path, &"a newer Dayfly wrote it"));
        }
        Ok(Some(state))
    }

    fn write(&self, state: &State) -> Result<(), KeyError> {
        let path = self.directory.file(STATE);
        let json = serde_json::to_vec_pretty(state).map_err(|e| unusable(&path, &e))?;
        write_private(&path, &json)
    }
}

impl State {
    fn has(&self, id: &KeyId) -> bool {
        self.active == *id || self.next.as_ref() == Some(id) || self.retiring.iter().any(|old| old.key == *id)
    }
}

const STATE: &str = "ring.json";

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("active", self.published.load().signer.key_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::jose::{JoseError, Unverified, sign};
    use super::super::jwk::KeyUse;
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_795_329_000);
    const PERIOD: Duration = Duration::from_secs(1000);
    const OVERLAP: Duration = Duration::from_secs(100);
    const ROTATION: Rotation = Rotation {
        algorithm: Algorithm::Es256,
        period: PERIOD,
        overlap: OVERLAP,
    };

    fn open(path: &Path, now: Timestamp) -> Result<KeyRing, KeyError> {
        KeyRing::open(path, ROTATION, &OsEntropy::new(), now)
    }

    fn files(path: &Path) -> usize {
        let pem = |e: &fs::DirEntry| e.path().extension().is_some_and(|e| e == "pem");
        fs::read_dir(path).unwrap().flatten().filter(pem).count()
    }

    async fn token(ring: &KeyRing) -> String {
        sign(&*ring.current(), "at+jwt", &json!({})).await.unwrap()
    }

    fn verify(token: &str, jwks: &str) -> Result<(), JoseError> {
        let keys = KeySet::parse(jwks.as_bytes(), KeyUse::Signature).unwrap();
        Unverified::parse(token, 4096).unwrap().verify_with(&keys)
    }

    #[tokio::test]
    async fn a_rotation_refuses_no_token() {
        let temp = tempfile::tempdir().unwrap();
        let ring = open(temp.path(), START).unwrap();
        let mut cached = ring.jwks();
        let mut now = START;
        for _ in 0..4 {
            let before = token(&ring).await;
            now = now.plus(PERIOD);
            assert!(ring.tend(now).unwrap());
            let after = token(&ring).await;
            assert_eq!(
                verify(&after, &cached),
                Ok(()),
                "the set of before knows the new key"
            );
            assert_eq!(
                verify(&before, &ring.jwks()),
                Ok(()),
                "the set of now knows the old key"
            );
            cached = ring.jwks();
        }
    }

    #[tokio::test]
    async fn an_old_key_goes_once_no_token_of_its_own_can_live() {
        let temp = tempfile::tempdir().unwrap();
        let ring = open(temp.path(), START).unwrap();
        let old = token(&ring).await;
        let turned = START.plus(PERIOD);
        ring.tend(turned).unwrap();
        ring.tend(turned.plus(OVERLAP).minus(Duration::from_millis(1)))
            .unwrap();
        assert_eq!((verify(&old, &ring.jwks()), files(temp.path())), (Ok(()), 3));
        assert!(!ring.tend(turned.plus(OVERLAP)).unwrap(), "the signing key stays");
        assert_eq!(
            (verify(&old, &ring.jwks()), files(temp.path())),
            (Err(JoseError::NoKey), 2)
        );
    }

    #[test]
    fn a_restart_keeps_the_keys_and_the_age_of_the_signing_key() {
        let temp = tempfile::tempdir().unwrap();
        let first = open(temp.path(), START).unwrap();
        let almost = START.plus(PERIOD).minus(Duration::from_millis(1));
        let second = open(temp.path(), almost).unwrap();
        assert_eq!(second.current().key_id(), first.current().key_id());
        assert_eq!(second.jwks(), first.jwks());
        let third = open(temp.path(), START.plus(PERIOD)).unwrap();
        assert_ne!(third.current().key_id(), first.current().key_id());
    }

    #[test]
    fn replicas_that_share_a_directory_rotate_once_and_agree() {
        let temp = tempfile::tempdir().unwrap();
        let (one, other) = (
            open(temp.path(), START).unwrap(),
            open(temp.path(), START).unwrap(),
        );
        let due = START.plus(PERIOD);
        assert!(one.tend(due).unwrap());
        assert!(other.tend(due).unwrap());
        assert_eq!(one.current().key_id(), other.current().key_id());
        assert_eq!((one.jwks(), files(temp.path())), (other.jwks(), 3));
    }

    #[test]
    fn a_forced_rotation_does_not_wait_and_the_next_period_starts_then() {
        let temp = tempfile::tempdir().unwrap();
        let ring = open(temp.path(), START).unwrap();
        let now = START.plus(Duration::from_secs(1));
        assert!(ring.rotate(now).unwrap());
        assert!(!ring.tend(START.plus(PERIOD)).unwrap());
        assert!(ring.tend(now.plus(PERIOD)).unwrap());
    }

    #[test]
    fn a_key_that_somebody_provides_is_next_before_one_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let provided = KeyDirectory::open(temp.path(), &OsEntropy::new())
            .unwrap()
            .create(Algorithm::Es256)
            .unwrap();
        let ring = open(temp.path(), START).unwrap();
        assert_eq!(ring.current().key_id(), provided.key_id());
    }

    #[test]
    fn without_a_key_that_ring_can_make_it_says_what_to_do() {
        let temp = tempfile::tempdir().unwrap();
        let rotation = Rotation {
            algorithm: Algorithm::Rs256,
            ..ROTATION
        };
        let error = KeyRing::open(temp.path(), rotation, &OsEntropy::new(), START).unwrap_err();
        assert!(error.to_string().contains("put one here as PKCS#8"), "{error}");
    }

    #[test]
    fn a_lost_key_file_or_a_state_of_the_future_is_an_error_and_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let ring = open(temp.path(), START).unwrap();
        let file = temp.path().join(format!("{}.pem", ring.current().key_id()));
        let aside = temp.path().join("aside");
        fs::rename(&file, &aside).unwrap();
        assert!(
            open(temp.path(), START)
                .unwrap_err()
                .to_string()
                .contains("restore")
        );
        assert!(ring.tend(START).is_err());
        fs::rename(&aside, &file).unwrap();
        assert_eq!(
            open(temp.path(), START).unwrap().current().key_id(),
            ring.current().key_id()
        );
        let state = temp.path().join(STATE);
        let newer = fs::read_to_string(&state)
            .unwrap()
            .replace("\"version\": 1", "\"version\": 2");
        write_private(&state, newer.as_bytes()).unwrap();
        assert!(open(temp.path(), START).is_err());
    }

    #[test]
    fn a_ring_of_one_key_does_not_rotate() {
        let key = RingSigner::generate(Algorithm::EdDsa, &OsEntropy::new()).unwrap();
        let ring = KeyRing::of(Arc::new(key));
        assert!(!ring.rotate(START).unwrap());
        assert_eq!(ring.key_set().keys().len(), 1);
    }
}
