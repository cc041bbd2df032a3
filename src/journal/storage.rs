//! The disk, as the journal needs it: appending that leaves no trace when it fails, and replacing in
//! one step. A trait, so that tests can fill the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

#[cfg(target_os = "linux")]
use rustix::fs::{FallocateFlags, fallocate};

/// Opens and replaces files.
pub(super) trait Storage: Send + Sync + 'static {
    /// Opens a file that exists, to append to it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Disk>>;

    /// Puts a file in place as a whole, durably: afterwards it has the old content or the new.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;
}

/// An open file.
pub(super) trait Disk: Send {
    /// Adds to the end. Part of it may be there when it fails.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything written is durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what is past `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Has room on the disk for so many bytes behind `len`, without growing.
    fn make_room(&mut self, len: u64, more: u64) -> io::Result<()>;
}

/// The file system of the operating system. New files are for their owner alone.
pub(super) struct OsStorage;

impl Storage for OsStorage {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Disk>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let beside = path.with_added_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        File::open(dir)?.sync_all()
    }
}

impl Disk for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.sync_all()
    }

    #[cfg(target_os = "linux")]
    fn make_room(&mut self, len: u64, more: u64) -> io::Result<()> {
        Ok(fallocate(self, FallocateFlags::KEEP_SIZE, len, more)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn make_room(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// How far ahead of what is written room is made. To find room takes a file system longer than to write, and whoever
/// waits for the write waits for it.
const ROOM: u64 = 4 << 20;

/// A file that only grows, by pieces that are there as a whole or not at all.
pub(super) struct AppendFile {
    disk: Box<dyn Disk>,
    /// How many bytes are known to be durable.
    len: u64,
    /// Whether there may be more than that, left by a failure.
    torn: bool,
    /// Up to where there is room; [`u64::MAX`] where none is made ahead.
    room: u64,
}

impl AppendFile {
    /// Opens a file and cuts off what is past `len`, which the caller found to be whole.
    pub(super) fn open(storage: &dyn Storage, path: &Path, len: u64) -> io::Result<Self> {
        let torn = std::fs::metadata(path)?.len() > len;
        let disk = storage.open(path)?;
        let mut file = Self {
            disk,
            len,
            torn,
            room: u64::MAX,
        };
        file.mend()?;
        Ok(file)
    }

    /// Makes room ahead from now on, where the file system can.
    pub(super) fn with_room(mut self) -> Self {
        self.room = self.len;
        self
    }

    /// Gives back what room was made and is not needed: nothing more will be written.
    pub(super) fn finish(mut self) {
        if self.room != u64::MAX
            && self.room > self.len
            && let Err(error) = self.disk.truncate(self.len)
        {
            tracing::warn!(%error, "some of the disk is kept for a file that is complete");
        }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns once the bytes are durable. When it fails none of them stay: they are cut off at once or,
    /// when that fails too, before anything else is written.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mend()?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.make_room(bytes);
        self.torn = true;
        if let Err(error) = self.disk.write(bytes).and_then(|()| self.disk.sync()) {
            if let Err(again) = self.mend() {
                tracing::error!(%again, "what was written before the failure could not be cut off yet");
            }
            return Err(error);
        }
        self.torn = false;
        self.len += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn make_room(&mut self, bytes: &[u8]) {
        let end = self
            .len
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if end > self.room {
            let more = (end - self.len).max(ROOM);
            // A disk that is full, or has no such thing, says so when it is written to.
            let made = self.disk.make_room(self.len, more);
            self.room = made.map_or(u64::MAX, |()| self.len.saturating_add(more));
        }
    }

    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.disk.truncate(self.len)?;
            self.torn = false;
            if self.room != u64::MAX {
                self.room = self.len;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A disk that can be full, lose its sync, or refuse to truncate.
    #[derive(Default, Clone)]
    pub(crate) struct FaultyStorage(Arc<Faults>);

    #[derive(Default)]
    pub(crate) struct Faults {
        /// Writes end half-way through.
        pub(crate) full: AtomicBool,
        /// Syncs fail.
        pub(crate) sync: AtomicBool,
        /// Truncations fail.
        pub(crate) truncate: AtomicBool,
        /// Replacements fail.
        pub(crate) replace: AtomicBool,
        /// Replacements wait.
        pub(crate) wait: AtomicBool,
    }

    impl std::ops::Deref for FaultyStorage {
        type Target = Faults;

        fn deref(&self) -> &Faults {
            &self.0
        }
    }

    pub(crate) fn set(fault: &AtomicBool, on: bool) {
        fault.store(on, Ordering::SeqCst);
    }

    fn check(fault: &AtomicBool, kind: io::ErrorKind) -> io::Result<()> {
        if fault.load(Ordering::SeqCst) {
            Err(kind.into())
        } else {
            Ok(())
        }
    }

    impl Storage for FaultyStorage {
        fn open(&self, path: &Path) -> io::Result<Box<dyn Disk>> {
            Ok(Box::new(FaultyDisk(OsStorage.open(path)?, self.clone())))
        }

        fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
            while self.wait.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            check(&self.replace, io::ErrorKind::StorageFull)?;
            OsStorage.replace(path, content)
        }
    }

    struct FaultyDisk(Box<dyn Disk>, FaultyStorage);

    impl Disk for FaultyDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            if let Err(full) = check(&self.1.full, io::ErrorKind::StorageFull) {
                self.0.write(&bytes[..bytes.len() / 2])?;
                return Err(full);
            }
            self.0.write(bytes)
        }

        fn sync(&mut self) -> io::Result<()> {
            check(&self.1.sync, io::ErrorKind::Other)?;
            self.0.sync()
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            check(&self.1.truncate, io::ErrorKind::Other)?;
            self.0.truncate(len)
        }

        fn make_room(&mut self, len: u64, more: u64) -> io::Result<()> {
            check(&self.1.full, io::ErrorKind::StorageFull)?;
            self.0.make_room(len, more)
        }
    }

    #[test]
    fn a_failed_append_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "good\ntorn").unwrap();
        let storage = FaultyStorage::default();
        let mut file = AppendFile::open(&storage, &path, 5).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"good\n");

        set(&storage.full, true);
        assert_eq!(
            file.append(b"lost").unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"good\n");

        set(&storage.truncate, true);
        file.append(b"lost").unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"good\nlo", "could not be cut off");
        set(&storage.full, false);
        file.append(b"more\n").unwrap_err();
        assert_eq!(file.len(), 5);

        set(&storage.truncate, false);
        file.append(b"more\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"good\nmore\n");
        assert_eq!(file.len(), 10);
    }

    #[test]
    fn room_is_made_ahead_and_is_no_part_of_the_file() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let kept = || path.metadata().unwrap().blocks() * 512;
        let mut file = AppendFile::open(&OsStorage, &path, 0).unwrap().with_room();
        for n in 1..=3 {
            file.append(b"line\n").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"line\n".repeat(n));
        }
        // Not every file system can.
        let ahead = kept();
        file.append(&[b'x'; 5000]).unwrap();
        assert!(
            kept() == ahead || ahead < ROOM,
            "none is made while there is some"
        );
        file.finish();
        assert!(kept() < ROOM);
        assert_eq!(path.metadata().unwrap().len(), 5015);
    }

    #[test]
    fn a_replacement_is_whole_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in ["one", "two"] {
            OsStorage.replace(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }
}
