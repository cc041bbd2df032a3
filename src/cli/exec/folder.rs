//! The private folder of one `dayfly exec`: for its owner alone, in memory where the system has such a place,
//! and gone at the end. A folder whose `exec` was killed is cleared away by the next one.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};

use crate::entropy::{Entropy, draw};
use crate::keys::file::write_private;

const PREFIX: &str = "dayfly-exec-";
/// Locked for as long as its folder is in use.
const LOCK: &str = "lock";
/// The longest path of a folder here: a socket in it has to fit into 108 bytes.
const LONGEST: usize = 90;

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes one in the first of the usual places that can be used: `$XDG_RUNTIME_DIR`, `/dev/shm`, the temporary
    /// folder.
    pub(super) fn make(runtime: Option<PathBuf>, entropy: &dyn Entropy) -> anyhow::Result<Self> {
        let places = [
            runtime,
            Some(PathBuf::from("/dev/shm")),
            Some(std::env::temp_dir()),
        ];
        let mut last = None;
        for place in places.into_iter().flatten().filter(|place| place.is_absolute()) {
            match Self::make_in(&place, entropy) {
                Ok(folder) => {
                    clear(&place, &folder.path);
                    return Ok(folder);
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| io::Error::other("there is no place for it"));
        Err(error).context("no private folder can be made: set XDG_RUNTIME_DIR to a folder of your own")
    }

    fn make_in(place: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let random = draw::<8>(entropy).map_err(io::Error::other)?;
        let path = place.join(format!("{PREFIX}{}", hex(&random)));
        if path.as_os_str().len() > LONGEST {
            return Err(io::Error::other("its path is too long for a socket"));
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        // Locked before it has its name: from then on others take it for abandoned when it is not locked.
        let new = path.join("new");
        let locked = File::create(&new).and_then(|file| {
            file.try_lock()?;
            fs::rename(&new, path.join(LOCK))?;
            Ok(file)
        });
        match locked {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                Err(error)
            }
        }
    }

    /// The path of a file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file for the owner alone, at once in place of what was there.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        write_private(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Makes a folder in it.
    pub(super) fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes folders of the same owner that nobody holds the lock of.
fn clear(place: &Path, own: &Path) {
    let Ok(owner) = fs::metadata(own).map(|own| own.uid()) else {
        return;
    };
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let ours = entry
            .metadata()
            .is_ok_and(|found| found.is_dir() && found.uid() == owner);
        if path == own || !named || !ours {
            continue;
        }
        // Without a lock it is being made at this moment, or being removed.
        if open_lock(&path).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Opens the lock of a folder, which any program of the same user may have made. A pipe would be waited for until
/// somebody writes, and a link leads elsewhere.
fn open_lock(folder: &Path) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(rustix::fs::open(folder.join(LOCK), how, Mode::empty())?);
    match lock.metadata()?.is_file() {
        true => Ok(lock),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::entropy::OsEntropy;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn it_is_for_its_owner_alone_and_goes_with_its_value() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::make(Some(place.path().to_owned()), &OsEntropy::new()).unwrap();
        assert!(folder.path.starts_with(place.path()));
        assert_eq!(mode(&folder.path), 0o700);
        let file = folder.write("pass", "secret").unwrap();
        assert_eq!(mode(&file), 0o600);
        folder.write("pass", "another").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "another");
        assert_eq!(mode(&folder.folder("bin").unwrap()), 0o700);
        drop(folder);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_one_left_is_cleared_and_what_is_in_use_stays() {
        let place = tempfile::tempdir().unwrap();
        let make = || Folder::make(Some(place.path().to_owned()), &OsEntropy::new()).unwrap();
        let left = place.path().join(format!("{PREFIX}left"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let somebodys = place.path().join("notes");
        fs::create_dir(&somebodys).unwrap();
        let first = make();
        let second = make();
        assert!(!left.exists());
        assert!(first.path.exists() && second.path.exists() && somebodys.exists());
    }

    #[test]
    fn a_lock_that_is_no_file_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(format!("{PREFIX}pipe"));
        fs::create_dir(&left).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, left.join(LOCK), Mode::RUSR | Mode::WUSR).unwrap();
        let (made, done) = std::sync::mpsc::channel();
        let runtime = Some(place.path().to_owned());
        let making = std::thread::Builder::new().spawn(move || {
            let _nobody_waits_any_more = made.send(Folder::make(runtime, &OsEntropy::new()).is_ok());
        });
        assert_eq!(done.recv_timeout(std::time::Duration::from_secs(60)), Ok(true));
        making.unwrap().join().unwrap();
        assert!(left.exists(), "nobody knows whose it is");
        std::os::unix::fs::symlink(&left, place.path().join("elsewhere")).unwrap();
        assert!(open_lock(&place.path().join("elsewhere")).is_err());
    }

    #[test]
    fn a_place_that_cannot_be_used_is_passed_by() {
        let folder = Folder::make(Some("/nowhere/at/all".into()), &OsEntropy::new()).unwrap();
        assert!(folder.path.exists());
        let long = tempfile::tempdir().unwrap();
        let long = long.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let folder = Folder::make(Some(long.clone()), &OsEntropy::new()).unwrap();
        assert!(!folder.path.starts_with(long));
    }
}
