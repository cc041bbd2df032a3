//! Opening a journal: what was signed must be there as it was signed; what a crash tore is cut off.
//!
//! Only the newest segment is read. The tree before it comes from its peaks, which are believed because
//! they give the root of the checkpoint that the segment begins with.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use super::JournalError;
use super::appender::{Appender, Files};
use super::checkpoint::Checkpoint;
use super::merkle::{Frontier, Hash};
use super::notary::{Desk, Notary};
use super::note::NoteSigner;
use super::record::Record;
use super::segment::{self, CHECKPOINT, Hashes, LOCK, Lines, Segment};
use super::storage::{AppendFile, Storage};

/// Opens the journal in `dir`, or begins one.
pub(super) fn open(
    dir: &Path,
    segment_bytes: u64,
    signer: NoteSigner,
    storage: Arc<dyn Storage>,
) -> Result<Appender, JournalError> {
    make_dir(dir).map_err(at(dir))?;
    let lock = lock(dir)?;
    let found = match Segment::list(dir).map_err(at(dir))?.last() {
        Some(&newest) => resume(dir, newest, &signer, &*storage)?,
        None => begin(dir, &signer, &*storage)?,
    };
    let notary = Notary {
        dir: dir.to_owned(),
        storage: Arc::clone(&storage),
        signer,
        hashes: found.files.hashes,
        notes: found.files.notes,
        pending: Vec::new(),
    };
    let mut appender = Appender {
        dir: dir.to_owned(),
        storage,
        segment_bytes,
        tree: found.tree,
        lines: found.files.lines,
        pending: found.pending,
        desk: Desk::of(notary),
        signed: found.signed,
        _lock: lock,
    };
    appender.sign().and_then(|()| appender.roll()).map_err(at(dir))?;
    Ok(appender)
}

struct Found {
    tree: Frontier,
    files: Files,
    pending: Vec<Hash>,
    signed: (u64, String),
}

/// Makes the directory and those above it, durably: a lost directory would take its records along.
fn make_dir(dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let missing: Vec<_> = dir.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    for above in missing.into_iter().filter_map(Path::parent) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join(LOCK);
    let lock = File::create(&path).map_err(at(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::Unavailable(format!(
            "another process writes to {}; give each broker a directory of its own",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(at(&path)(error)),
    }
}

fn begin(dir: &Path, signer: &NoteSigner, storage: &dyn Storage) -> Result<Found, JournalError> {
    let path = dir.join(CHECKPOINT);
    if path.try_exists().map_err(at(&path))? {
        return Err(damaged(
            "there is a checkpoint but no segment: the records were removed",
        ));
    }
    let tree = Frontier::new();
    let note = Checkpoint::sign(0, tree.root(), signer)
        .map_err(|error| JournalError::Unavailable(error.to_string()))?;
    let files = Files::begin(storage, dir, &tree, &note).map_err(at(dir))?;
    storage.replace(&path, note.as_bytes()).map_err(at(&path))?;
    Ok(Found {
        tree,
        files,
        pending: Vec::new(),
        signed: (0, note),
    })
}

fn resume(
    dir: &Path,
    newest: Segment,
    signer: &NoteSigner,
    storage: &dyn Storage,
) -> Result<Found, JournalError> {
    let hashes_path = newest.hashes(dir);
    let hashes = Hashes::read(dir, newest)
        .map_err(at(&hashes_path))?
        .ok_or_else(|| damaged(format!("{} is too short", newest.hashes_name())))?;
    let notes = notes(dir, newest, &hashes.start, signer)?;
    let scan = scan(dir, newest, &hashes, &notes.newest)?;
    publish(dir, &notes, scan.tree.size(), signer, storage)?;

    let peaks = Frontier::peaks_at(newest.first);
    let kept = peaks + usize::try_from(notes.newest.size - newest.first).unwrap_or(usize::MAX);
    let open = |path: &Path, len| AppendFile::open(storage, path, len).map_err(at(path));
    Ok(Found {
        files: Files {
            lines: open(&newest.lines(dir), scan.len)?.with_room(),
            hashes: open(&hashes_path, long(kept * Hash::BYTES))?,
            notes: open(&newest.notes(dir), notes.len)?,
        },
        tree: scan.tree,
        pending: scan.pending,
        signed: (notes.newest.size, notes.text),
    })
}

struct Notes {
    newest: Checkpoint,
    /// The newest one, as it was signed.
    text: String,
    /// How many bytes the whole notes take.
    len: u64,
}

/// The first and the newest checkpoint of the segment; the first one proves the peaks.
fn notes(dir: &Path, segment: Segment, start: &Frontier, signer: &NoteSigner) -> Result<Notes, JournalError> {
    let (path, name) = (segment.notes(dir), segment.notes_name());
    let content = segment.read_notes(dir).map_err(at(&path))?;
    let (notes, len) = segment::split_notes(&content);
    let (Some(first), Some(&text)) = (notes.first(), notes.last()) else {
        return Err(damaged(format!("{name} holds no checkpoint")));
    };
    let key = signer.verifier();
    let open = |note| Checkpoint::open(note, Some(&key)).map_err(|error| damaged(format!("{name}: {error}")));
    let (first, newest) = (open(first)?, open(text)?);
    if (first.size, first.root) != (segment.first, start.root()) || newest.size < first.size {
        return Err(damaged(format!(
            "{name} does not begin with the root that {} gives",
            segment.hashes_name()
        )));
    }
    Ok(Notes {
        newest,
        text: text.to_owned(),
        len: long(len),
    })
}

struct Scan {
    tree: Frontier,
    pending: Vec<Hash>,
    len: u64,
}

/// Reads the lines: up to the checkpoint they must give its root; after it, a torn end is cut off.
fn scan(dir: &Path, segment: Segment, hashes: &Hashes, newest: &Checkpoint) -> Result<Scan, JournalError> {
    let (path, name) = (segment.lines(dir), segment.lines_name());
    let end = std::fs::metadata(&path).map_err(at(&path))?.len();
    let mut lines = Lines::open(&path, 0).map_err(at(&path))?;
    let mut scan = Scan {
        tree: hashes.start.clone(),
        pending: Vec::new(),
        len: 0,
    };
    let mut leaves = hashes.leaves.iter();
    let tampered = |index: u64| {
        damaged(format!(
            "{name} is not what was signed, at record {index}; `dayfly journal verify` says more"
        ))
    };
    check_root(&scan.tree, newest).map_err(tampered)?;
    while let Some(line) = lines.next().map_err(at(&path))? {
        let index = scan.tree.size();
        let leaf = Hash::leaf(line.bytes);
        if index < newest.size {
            if !line.whole || leaves.next() != Some(&leaf) {
                return Err(tampered(index));
            }
        } else if !is_record(line.bytes) || !line.whole {
            // A write that was not finished has no end, or bytes that never reached the disk.
            if line.whole && !line.bytes.contains(&0) {
                return Err(damaged(format!("record {index} in {name} is no record")));
            }
            tracing::warn!(
                index,
                bytes = end - line.offset,
                "the end of the journal was torn by a crash; cut off what was never acknowledged"
            );
            break;
        } else {
            scan.pending.push(leaf);
        }
        scan.tree.push(leaf);
        check_root(&scan.tree, newest).map_err(tampered)?;
        scan.len = lines.offset;
    }
    if scan.tree.size() < newest.size {
        return Err(damaged(format!(
            "{} records were signed and {} are there; `dayfly journal verify` says more",
            newest.size,
            scan.tree.size()
        )));
    }
    Ok(scan)
}

fn is_record(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| Record::from_line(line).is_ok())
}

fn check_root(tree: &Frontier, newest: &Checkpoint) -> Result<(), u64> {
    if tree.size() == newest.size && tree.root() != newest.root {
        return Err(tree.size());
    }
    Ok(())
}

/// The published checkpoint is the newest one or, after a crash, an earlier one. It is never ahead.
fn publish(
    dir: &Path,
    notes: &Notes,
    size: u64,
    signer: &NoteSigner,
    storage: &dyn Storage,
) -> Result<(), JournalError> {
    let path = dir.join(CHECKPOINT);
    let published = match std::fs::read_to_string(&path) {
        Ok(text) => Checkpoint::open(&text, Some(&signer.verifier()))
            .map_err(|error| damaged(format!("{CHECKPOINT}: {error}")))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && size == 0 => {
            return storage.replace(&path, notes.text.as_bytes()).map_err(at(&path));
        }
        Err(error) => return Err(at(&path)(error)),
    };
    if published.size > notes.newest.size
        || (published.size == notes.newest.size && published.root != notes.newest.root)
    {
        return Err(damaged(format!(
            "`{CHECKPOINT}` covers {} records, and the segment's newest checkpoint {}; `dayfly journal verify` says more",
            published.size, notes.newest.size
        )));
    }
    if published != notes.newest {
        storage.replace(&path, notes.text.as_bytes()).map_err(at(&path))?;
    }
    Ok(())
}

fn long(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn damaged(what: impl Into<String>) -> JournalError {
    JournalError::Damaged(what.into())
}

fn at(path: &Path) -> impl Fn(io::Error) -> JournalError {
    move |error| JournalError::Unavailable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::record::{Result as Outcome, Verb};
    use super::super::storage::OsStorage;
    use super::*;
    use crate::model::time::Timestamp;

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
    }

    fn reopen(dir: &Path) -> Result<Appender, JournalError> {
        super::open(dir, 1 << 20, signer(), Arc::new(OsStorage))
    }

    fn damage(dir: &Path) -> String {
        match reopen(dir).err() {
            Some(JournalError::Damaged(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    fn append(appender: &mut Appender, n: u64) {
        let mut record = Record::new(Verb::Issue, Outcome::Permitted, Timestamp::EPOCH);
        record.reason = Some(format!("record {n:02}"));
        let line = record.to_line().unwrap();
        let leaf = Hash::leaf(line.as_bytes());
        appender.append(format!("{line}\n").as_bytes(), &[leaf]).unwrap();
    }

    /// Five records; a checkpoint covers the first three. As a crash leaves it.
    fn crashed() -> (tempfile::TempDir, Frontier) {
        let dir = tempfile::tempdir().unwrap();
        let mut appender = reopen(dir.path()).unwrap();
        for n in 0..5 {
            append(&mut appender, n);
            if n == 2 {
                appender.sign().unwrap();
            }
        }
        let tree = appender.tree.clone();
        (dir, tree)
    }

    const SEGMENT: Segment = Segment { first: 0 };

    fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn opening_goes_on_where_it_ended_and_signs_it() {
        let (dir, tree) = crashed();
        let appender = reopen(dir.path()).unwrap();
        assert_eq!((&appender.tree, appender.unsigned()), (&tree, 0));
        let published = fs::read_to_string(dir.path().join(CHECKPOINT)).unwrap();
        assert_eq!(published, appender.checkpoint());
        let checkpoint = Checkpoint::open(&published, Some(&signer().verifier())).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (5, tree.root()));
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_is_torn() {
        let (dir, _) = crashed();
        let path = SEGMENT.lines(dir.path());
        let whole = fs::read(&path).unwrap();
        let line = whole.len() / 5;
        for keep in [1, 2, 9, line / 2, line - 2, line - 1].map(|torn| line * 4 + torn) {
            let (dir, _) = crashed();
            let path = SEGMENT.lines(dir.path());
            change(&path, |bytes| bytes.truncate(keep));
            assert_eq!(reopen(dir.path()).unwrap().size(), 4, "{keep}");
            assert_eq!(fs::read(&path).unwrap(), &whole[..line * 4]);
            let mut appender = reopen(dir.path()).unwrap();
            append(&mut appender, 4);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn bytes_that_never_reached_the_disk_are_cut_off() {
        let (dir, _) = crashed();
        let path = SEGMENT.lines(dir.path());
        let line = fs::read(&path).unwrap().len() / 5;
        change(&path, |bytes| bytes[line * 3 + 5..line * 4 - 5].fill(0));
        assert_eq!(reopen(dir.path()).unwrap().size(), 3);
    }

    #[test]
    fn a_whole_line_that_is_no_record_is_damage() {
        let (dir, _) = crashed();
        change(&SEGMENT.lines(dir.path()), |bytes| {
            bytes.extend_from_slice(b"{}\n")
        });
        assert!(damage(dir.path()).starts_with("record 5 in"));
    }

    #[test]
    fn what_was_signed_must_be_there_as_it_was_signed() {
        let line = {
            let (dir, _) = crashed();
            fs::read(SEGMENT.lines(dir.path())).unwrap().len() / 5
        };
        for at in [0, line, line * 3 - 1] {
            let (dir, _) = crashed();
            change(&SEGMENT.lines(dir.path()), |bytes| bytes[at] ^= 1);
            assert!(damage(dir.path()).contains("not what was signed"), "{at}");
        }
        for keep in [0, line, line * 2 + 10, line * 3 - 1] {
            let (dir, _) = crashed();
            change(&SEGMENT.lines(dir.path()), |bytes| bytes.truncate(keep));
            damage(dir.path());
        }
        for name in [SEGMENT.hashes_name(), SEGMENT.notes_name(), CHECKPOINT.to_owned()] {
            let (dir, _) = crashed();
            change(&dir.path().join(&name), |bytes| bytes[3] ^= 1);
            damage(dir.path());
        }
        let (dir, _) = crashed();
        fs::remove_file(SEGMENT.lines(dir.path())).unwrap();
        assert!(damage(dir.path()).contains("removed"));
    }

    #[test]
    fn makes_the_directories_it_needs_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        drop(reopen(&inner).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        for name in [
            SEGMENT.lines_name(),
            SEGMENT.hashes_name(),
            SEGMENT.notes_name(),
            CHECKPOINT.into(),
        ] {
            assert_eq!(mode(&inner.join(name)), 0o600);
        }
    }

    #[test]
    fn another_key_does_not_go_on_with_the_journal() {
        let (dir, _) = crashed();
        let other = NoteSigner::from_seed("dayfly.test/journal", &[8; 32]).unwrap();
        let refused = super::open(dir.path(), 1 << 20, other, Arc::new(OsStorage)).err();
        assert!(matches!(refused, Some(JournalError::Damaged(what)) if what.contains("not signed by")));
    }

    #[test]
    fn a_crash_between_the_steps_of_a_checkpoint_is_taken_up() {
        // Hashes written, the note torn or not there, the published checkpoint the one before.
        let mut torn_in_a_character = false;
        for cut in [1, 40, 114, 115, 116, 150] {
            let (dir, tree) = crashed();
            let old = fs::read(dir.path().join(CHECKPOINT)).unwrap();
            drop(reopen(dir.path()).unwrap());
            change(&SEGMENT.notes(dir.path()), |bytes| {
                bytes.truncate(bytes.len() - cut);
                torn_in_a_character |= std::str::from_utf8(bytes).is_err();
            });
            fs::write(dir.path().join(CHECKPOINT), old).unwrap();
            let appender = reopen(dir.path()).unwrap();
            assert_eq!((&appender.tree, appender.unsigned()), (&tree, 0));
        }
        assert!(torn_in_a_character, "the dash takes three bytes");
        // The note written, not published.
        let (dir, _) = crashed();
        let old = fs::read(dir.path().join(CHECKPOINT)).unwrap();
        drop(reopen(dir.path()).unwrap());
        fs::write(dir.path().join(CHECKPOINT), old).unwrap();
        let appender = reopen(dir.path()).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join(CHECKPOINT)).unwrap(),
            appender.checkpoint()
        );
    }

    #[test]
    fn a_crash_between_the_steps_of_a_beginning_is_taken_up() {
        let (dir, _) = crashed();
        drop(reopen(dir.path()).unwrap());
        // Rolling over: the files beside the next segment are there, its lines are not.
        let next = Segment { first: 5 };
        fs::write(next.hashes(dir.path()), "left").unwrap();
        fs::write(next.notes(dir.path()), "over").unwrap();
        let mut appender = super::open(dir.path(), 10, signer(), Arc::new(OsStorage)).unwrap();
        append(&mut appender, 5);
        drop(appender);
        assert_eq!(reopen(dir.path()).unwrap().size(), 6);
        assert_eq!(Segment::list(dir.path()).unwrap(), [SEGMENT, next]);

        // The very first start: everything but the published checkpoint.
        let dir = tempfile::tempdir().unwrap();
        drop(reopen(dir.path()).unwrap());
        fs::remove_file(dir.path().join(CHECKPOINT)).unwrap();
        assert_eq!(reopen(dir.path()).unwrap().size(), 0);
        assert!(dir.path().join(CHECKPOINT).exists());
    }
}
