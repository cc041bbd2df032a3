//! Verification of a journal, offline: nothing is trusted but the key.
//!
//! The signed roots say what the records were; the hashes beside them, once they give the signed roots,
//! say which record is another one now. What is past the newest checkpoint is counted, not vouched for.
//! Someone who holds the directory can put back an older state of all of it: give a checkpoint that was
//! kept elsewhere to find that too.

use std::io;
use std::path::Path;

use super::align::{compare, long};
use super::checkpoint::Checkpoint;
pub use super::fault::{Fault, Place};
use super::merkle::{Frontier, Hash};
use super::note::NoteVerifier;
use super::record::Record;
use super::segment::{CHECKPOINT, Hashes, Lines, Segment, split_notes};

/// What the journal is held against.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The audit key. Without it the journal is only checked to agree with itself.
    pub key: Option<NoteVerifier>,
    /// Checkpoints of this journal that were kept elsewhere.
    pub kept: Vec<Checkpoint>,
}

/// A journal in which nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The newest checkpoint. What it covers is as it was written.
    pub newest: Checkpoint,
    /// All records, with those that no checkpoint covers yet.
    pub records: u64,
    /// The root over all of them.
    pub root: Hash,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Bytes after the last whole line: a write that was not finished.
    pub torn: u64,
}

/// Verifies the journal in `dir`; it may be one that is being written to. Blocks on the disk; memory is
/// for one segment's hashes.
pub fn verify(dir: &Path, expected: &Expected) -> Result<Verified, Fault> {
    let key = expected.key.as_ref();
    let published = std::fs::read_to_string(dir.join(CHECKPOINT)).map_err(unreadable(CHECKPOINT))?;
    let published =
        Checkpoint::open(&published, key).map_err(|error| refuse(CHECKPOINT, 1, error.to_string()))?;
    let segments = Segment::list(dir).map_err(unreadable("the directory"))?;
    let mut walk = Walk {
        dir,
        expected,
        tree: Frontier::new(),
        published: published.clone(),
        newest: published,
        checkpoints: 0,
        torn: 0,
    };
    let start = segments
        .first()
        .map_or(walk.published.size, |segment| segment.first);
    if start > 0 {
        return Err(Fault::Missing {
            from: 0,
            to: start - 1,
        });
    }
    walk.anchors()?;
    let nexts = segments.iter().skip(1).map(|next| Some(next.first)).chain([None]);
    for (&segment, next) in segments.iter().zip(nexts) {
        walk.segment(segment, next)?;
    }
    let records = walk.tree.size();
    if let Some(kept) = expected.kept.iter().find(|kept| kept.size > records) {
        return Err(Fault::RolledBack {
            size: kept.size,
            records,
        });
    }
    Ok(Verified {
        newest: walk.newest,
        records,
        root: walk.tree.root(),
        checkpoints: walk.checkpoints,
        segments: long(segments.len()),
        torn: walk.torn,
    })
}

struct Walk<'a> {
    dir: &'a Path,
    expected: &'a Expected,
    /// Over the records that are verified so far.
    tree: Frontier,
    published: Checkpoint,
    newest: Checkpoint,
    checkpoints: u64,
    torn: u64,
}

/// The lines of a segment, by their hashes.
struct Found {
    leaves: Vec<Hash>,
    /// The first line past the checkpoints that is no record.
    no_record: Option<u64>,
    torn: u64,
}

impl Walk<'_> {
    fn segment(&mut self, segment: Segment, next: Option<u64>) -> Result<(), Fault> {
        let name = segment.notes_name();
        let mut notes = self.notes(segment)?;
        let written = notes.len();
        if next.is_none() {
            let ahead = notes.last().is_none_or(|last| last.size < self.published.size);
            notes.extend(ahead.then(|| self.published.clone()));
        }
        let newest = notes
            .last()
            .cloned()
            .ok_or_else(|| refuse(&name, 1, "it is missing"))?;
        if next.is_some_and(|next| newest.size > next) {
            return Err(refuse(&name, written, "it covers records of the next segment"));
        }
        let found = self.lines(segment, newest.size)?;
        self.judge(segment, &notes, &found)?;

        let end = segment.first + long(found.leaves.len());
        if notes.len() > written {
            let reason = format!("it is missing, and `{CHECKPOINT}` has it");
            return Err(refuse(&name, written + 1, reason));
        }
        if let Some(next) = next {
            let beyond = end - newest.size + u64::from(found.torn > 0);
            if newest.size == next && beyond > 0 {
                return Err(Fault::Inserted {
                    place: Place::of(segment, next),
                    count: beyond,
                });
            }
            if newest.size < next && end >= next {
                return Err(refuse(
                    &name,
                    written + 1,
                    format!("the one of {next} records is missing"),
                ));
            }
            if newest.size < next {
                return Err(Fault::Missing {
                    from: end,
                    to: next - 1,
                });
            }
        }
        if let Some(index) = found.no_record {
            return Err(Fault::NoRecord(Place::of(segment, index)));
        }
        for leaf in found.leaves {
            self.tree.push(leaf);
            self.anchors()?;
        }
        self.torn = found.torn;
        self.checkpoints += long(written);
        self.newest = newest;
        Ok(())
    }

    /// Holds the records of a segment against its checkpoints, and names the first difference.
    fn judge(&self, segment: Segment, notes: &[Checkpoint], found: &Found) -> Result<(), Fault> {
        let beside = Hashes::read(self.dir, segment).ok().flatten();
        let peaks = beside.as_ref().is_some_and(|beside| beside.start == self.tree);
        let beside = beside.map(|beside| beside.leaves).unwrap_or_default();
        let signed = notes.last().map_or(0, |last| last.size - segment.first);
        let signed = usize::try_from(signed).unwrap_or(usize::MAX);
        let hashes_broken = broken(&self.tree, &beside, notes);
        let Some((from, to)) = broken(&self.tree, &found.leaves, notes) else {
            if hashes_broken.is_none() && peaks {
                return Ok(());
            }
            let good = beside.iter().zip(&found.leaves).take_while(|(a, b)| a == b);
            return Err(Fault::Hashes {
                file: segment.hashes_name(),
                index: segment.first + if peaks { long(good.count()) } else { 0 },
            });
        };
        if hashes_broken.is_none() {
            let named = compare(segment, beside.get(..signed).unwrap_or(&beside), &found.leaves);
            if let Some(fault) = named {
                return Err(fault);
            }
        }
        Err(Fault::Between {
            first: Place::of(segment, from),
            last: to - 1,
            missing: to.saturating_sub(segment.first + long(found.leaves.len())),
        })
    }

    /// The checkpoints of a segment. The first one covers everything before it.
    fn notes(&self, segment: Segment) -> Result<Vec<Checkpoint>, Fault> {
        let name = segment.notes_name();
        let content = segment.read_notes(self.dir).map_err(unreadable(&name))?;
        let mut notes: Vec<Checkpoint> = Vec::new();
        for (number, note) in (1..).zip(split_notes(&content).0) {
            let note = Checkpoint::open(note, self.expected.key.as_ref())
                .map_err(|error| refuse(&name, number, error.to_string()))?;
            if note.origin != self.published.origin {
                return Err(refuse(&name, number, format!("its origin is `{}`", note.origin)));
            }
            let before = notes.last();
            if before.is_none() && (note.size, note.root) != (segment.first, self.tree.root()) {
                return Err(refuse(
                    &name,
                    number,
                    "it is not that of the records before this segment",
                ));
            }
            if before.is_some_and(|before| {
                note.size < before.size || (note.size == before.size && note.root != before.root)
            }) {
                return Err(refuse(&name, number, "it contradicts the one before it"));
            }
            notes.push(note);
        }
        Ok(notes)
    }

    fn lines(&self, segment: Segment, signed: u64) -> Result<Found, Fault> {
        let (path, name) = (segment.lines(self.dir), segment.lines_name());
        let unreadable = unreadable(&name);
        let mut lines = Lines::open(&path, 0).map_err(&unreadable)?;
        let mut found = Found {
            leaves: Vec::new(),
            no_record: None,
            torn: 0,
        };
        while let Some(line) = lines.next().map_err(&unreadable)? {
            if !line.whole {
                let (from, to) = (line.offset, lines.offset);
                found.torn = to - from;
                break;
            }
            let index = segment.first + long(found.leaves.len());
            if index >= signed && found.no_record.is_none() {
                let record = std::str::from_utf8(line.bytes).map(Record::from_line);
                found.no_record = (!matches!(record, Ok(Ok(_)))).then_some(index);
            }
            found.leaves.push(Hash::leaf(line.bytes));
        }
        Ok(found)
    }

    /// Holds the tree against the checkpoints of its size that do not come from the segment.
    fn anchors(&self) -> Result<(), Fault> {
        let size = self.tree.size();
        let other = |anchor: &Checkpoint| anchor.size == size && anchor.root != self.tree.root();
        if self.expected.kept.iter().any(other) {
            return Err(Fault::Rewritten { size });
        }
        if other(&self.published) {
            return Err(refuse(
                CHECKPOINT,
                1,
                "it contradicts the records and their checkpoints",
            ));
        }
        Ok(())
    }
}

/// The first stretch, from one checkpoint's size to the next one's, over which these hashes do not give
/// the signed root.
fn broken(start: &Frontier, leaves: &[Hash], notes: &[Checkpoint]) -> Option<(u64, u64)> {
    let mut tree = start.clone();
    let mut rest = leaves.iter().copied();
    for note in notes {
        let from = tree.size();
        let count = usize::try_from(note.size - from).unwrap_or(usize::MAX);
        tree.extend(rest.by_ref().take(count));
        if tree.size() != note.size || tree.root() != note.root {
            return Some((from, note.size));
        }
    }
    None
}

fn refuse(file: &str, number: usize, reason: impl Into<String>) -> Fault {
    Fault::Checkpoint {
        file: file.to_owned(),
        number,
        reason: reason.into(),
    }
}

fn unreadable(file: &str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::Unreadable {
        file: file.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::super::note::NoteSigner;
    use super::super::record::{Result as Outcome, Verb};
    use super::super::recovery;
    use super::super::segment;
    use super::super::storage::OsStorage;
    use super::*;
    use crate::model::time::Timestamp;

    const SEGMENTS: [&str; 3] = [
        "00000000000000000000",
        "00000000000000000005",
        "00000000000000000010",
    ];

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
    }

    fn line(n: u64) -> String {
        let mut record = Record::new(Verb::Issue, Outcome::Permitted, Timestamp::EPOCH);
        record.reason = Some(format!("record {n:02}"));
        record.to_line().unwrap()
    }

    /// Records 0 to 13 in segments of five; a checkpoint after each two and at the end of a segment, so
    /// at 2, 4, 5, 6, 8, 10 and 12: records 12 and 13 have none.
    fn journal() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let bytes = 5 * (long(line(0).len()) + 1);
        let mut appender = recovery::open(dir.path(), bytes, signer(), Arc::new(OsStorage)).unwrap();
        for n in 0..14 {
            let line = line(n);
            appender
                .append(format!("{line}\n").as_bytes(), &[Hash::leaf(line.as_bytes())])
                .unwrap();
            if n % 2 == 1 && n < 13 {
                appender.sign().unwrap();
            }
            appender.roll().unwrap();
        }
        dir
    }

    fn check(dir: &Path) -> Result<Verified, Fault> {
        verify(
            dir,
            &Expected {
                key: Some(signer().verifier()),
                kept: Vec::new(),
            },
        )
    }

    fn edit(dir: &Path, name: &str, change: impl FnOnce(&mut Vec<String>)) {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        let mut lines = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(
            dir.join(name),
            lines.iter().map(|line| format!("{line}\n")).collect::<String>(),
        )
        .unwrap();
    }

    fn lines(dir: &Path, segment: usize, change: impl FnOnce(&mut Vec<String>)) {
        edit(dir, &format!("{}.jsonl", SEGMENTS[segment]), change);
    }

    fn place(index: u64) -> Place {
        Place::of(
            Segment {
                first: index.min(13) / 5 * 5,
            },
            index,
        )
    }

    #[test]
    fn an_untouched_journal_verifies() {
        let dir = journal();
        let verified = check(dir.path()).unwrap();
        assert_eq!((verified.records, verified.newest.size), (14, 12));
        assert_eq!(
            (verified.segments, verified.checkpoints, verified.torn),
            (3, 10, 0)
        );
        let mut tree = Frontier::new();
        tree.extend((0..14).map(|n| Hash::leaf(line(n).as_bytes())));
        assert_eq!(verified.root, tree.root());
        assert_eq!(verify(dir.path(), &Expected::default()), Ok(verified));
    }

    #[test]
    fn every_changed_record_is_named() {
        for n in 0..12 {
            let dir = journal();
            let (segment, at) = (usize::try_from(n / 5).unwrap(), usize::try_from(n % 5).unwrap());
            lines(dir.path(), segment, |lines| {
                lines[at] = lines[at].replace("permitted", "denied")
            });
            let fault = check(dir.path()).unwrap_err();
            assert_eq!(fault, Fault::Changed(place(n)), "{n}");
        }
        let message = Fault::Changed(place(7)).to_string();
        assert_eq!(
            message,
            "record 7 (line 3 of 00000000000000000005.jsonl) was changed"
        );
    }

    #[test]
    fn every_dropped_record_is_named() {
        for n in 0..12 {
            let dir = journal();
            let (segment, at) = (usize::try_from(n / 5).unwrap(), usize::try_from(n % 5).unwrap());
            lines(dir.path(), segment, |lines| drop(lines.remove(at)));
            let fault = check(dir.path()).unwrap_err();
            let expected = match n {
                // The last record of a segment: the segment ends too early.
                4 | 9 => Fault::Truncated {
                    place: place(n),
                    signed: n + 1,
                },
                // The last signed one: the record after it stands in its place, and nothing says which it is.
                11 => Fault::Changed(place(n)),
                _ => Fault::Dropped {
                    place: place(n),
                    count: 1,
                },
            };
            assert_eq!(fault, expected, "{n}");
        }
    }

    #[test]
    fn every_inserted_record_is_named() {
        for n in 0..12 {
            let dir = journal();
            let (segment, at) = (usize::try_from(n / 5).unwrap(), usize::try_from(n % 5).unwrap());
            lines(dir.path(), segment, |lines| {
                lines.insert(at, line(77));
                lines.insert(at, line(78));
            });
            let fault = check(dir.path()).unwrap_err();
            assert_eq!(
                fault,
                Fault::Inserted {
                    place: place(n),
                    count: 2
                },
                "{n}"
            );
        }
        let dir = journal();
        lines(dir.path(), 0, |lines| lines.push(line(77)));
        let place = Place {
            line: 6,
            ..Place::of(Segment { first: 0 }, 5)
        };
        assert_eq!(
            check(dir.path()),
            Err(Fault::Inserted { place, count: 1 }),
            "at the end of a segment"
        );
    }

    #[test]
    fn a_record_that_is_there_twice_was_inserted() {
        let dir = journal();
        lines(dir.path(), 1, |lines| lines.insert(2, lines[1].clone()));
        assert_eq!(
            check(dir.path()),
            Err(Fault::Inserted {
                place: place(7),
                count: 1
            })
        );
    }

    #[test]
    fn reordered_records_are_named() {
        for (a, b) in [(0, 1), (0, 4), (2, 3), (1, 4)] {
            let dir = journal();
            lines(dir.path(), 1, |lines| lines.swap(a, b));
            let expected = Fault::Reordered {
                place: place(5 + long(a)),
                found: 5 + long(b),
            };
            assert_eq!(check(dir.path()), Err(expected));
        }
    }

    #[test]
    fn a_journal_that_was_cut_off_says_where() {
        for keep in 0..2 {
            let dir = journal();
            lines(dir.path(), 2, |lines| lines.truncate(keep));
            let expected = Fault::Truncated {
                place: place(10 + long(keep)),
                signed: 12,
            };
            assert_eq!(check(dir.path()), Err(expected));
        }
        // Half a record, where a whole one was signed.
        let dir = journal();
        let path = dir.path().join(format!("{}.jsonl", SEGMENTS[2]));
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..line(0).len() * 2]).unwrap();
        assert_eq!(
            check(dir.path()),
            Err(Fault::Truncated {
                place: place(11),
                signed: 12
            })
        );
    }

    #[test]
    fn cutting_off_the_hashes_and_checkpoints_too_does_not_hide_it() {
        let dir = journal();
        lines(dir.path(), 2, |lines| lines.truncate(1));
        fs::write(dir.path().join(format!("{}.hashes", SEGMENTS[2])), {
            let mut tree = Frontier::new();
            tree.extend((0..10).map(|n| Hash::leaf(line(n).as_bytes())));
            [
                segment::concat(tree.peaks()),
                Hash::leaf(line(10).as_bytes()).0.to_vec(),
            ]
            .concat()
        })
        .unwrap();
        edit(dir.path(), &format!("{}.checkpoints", SEGMENTS[2]), |lines| {
            lines.truncate(5)
        });
        let expected = Fault::Between {
            first: place(10),
            last: 11,
            missing: 1,
        };
        assert_eq!(check(dir.path()), Err(expected));
    }

    #[test]
    fn what_no_checkpoint_covers_is_counted_and_not_vouched_for() {
        let dir = journal();
        lines(dir.path(), 2, |lines| {
            lines.pop();
            lines[2] = line(77);
        });
        let verified = check(dir.path()).unwrap();
        assert_eq!((verified.records, verified.newest.size), (13, 12));

        let path = dir.path().join(format!("{}.jsonl", SEGMENTS[2]));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}torn")).unwrap();
        assert_eq!(check(dir.path()).unwrap().torn, 4);

        fs::write(&path, format!("{text}no record\n")).unwrap();
        assert_eq!(check(dir.path()), Err(Fault::NoRecord(place(13))));
    }

    #[test]
    fn missing_segments_are_named() {
        for (segment, from, to) in [(0, 0, 4), (1, 5, 9)] {
            let dir = journal();
            fs::remove_file(dir.path().join(format!("{}.jsonl", SEGMENTS[segment]))).unwrap();
            assert_eq!(check(dir.path()), Err(Fault::Missing { from, to }));
        }
        let dir = journal();
        for segment in SEGMENTS {
            fs::remove_file(dir.path().join(format!("{segment}.jsonl"))).unwrap();
        }
        assert_eq!(check(dir.path()), Err(Fault::Missing { from: 0, to: 11 }));
        // The newest segment without a trace of it but the published checkpoint.
        let dir = journal();
        for extension in ["jsonl", "hashes", "checkpoints"] {
            fs::remove_file(dir.path().join(format!("{}.{extension}", SEGMENTS[2]))).unwrap();
        }
        let expected = Fault::Between {
            first: Place::of(Segment { first: 5 }, 10),
            last: 11,
            missing: 2,
        };
        assert_eq!(check(dir.path()), Err(expected));
    }

    #[test]
    fn changed_hashes_are_told_from_changed_records() {
        for (segment, at) in [(0, 0_usize), (0, 4), (1, 1), (2, 1)] {
            let dir = journal();
            let name = format!("{}.hashes", SEGMENTS[segment]);
            let path = dir.path().join(&name);
            let mut bytes = fs::read(&path).unwrap();
            let first = long(segment) * 5;
            bytes[(Frontier::peaks_at(first) + at) * Hash::BYTES + 9] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let file = name.clone();
            assert_eq!(
                check(dir.path()),
                Err(Fault::Hashes {
                    file,
                    index: first + long(at)
                })
            );

            fs::write(&path, b"").unwrap();
            assert!(matches!(check(dir.path()), Err(Fault::Hashes { file, .. }) if file == name));
        }
        let dir = journal();
        let path = dir.path().join(format!("{}.hashes", SEGMENTS[1]));
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1; // a peak
        fs::write(&path, &bytes).unwrap();
        let file = format!("{}.hashes", SEGMENTS[1]);
        assert_eq!(check(dir.path()), Err(Fault::Hashes { file, index: 5 }));
    }

    #[test]
    fn a_change_with_its_hash_is_narrowed_down_by_the_checkpoints() {
        let dir = journal();
        lines(dir.path(), 1, |lines| lines[2] = line(77));
        let path = dir.path().join(format!("{}.hashes", SEGMENTS[1]));
        let mut bytes = fs::read(&path).unwrap();
        let at = (Frontier::peaks_at(5) + 2) * Hash::BYTES;
        bytes[at..at + Hash::BYTES].copy_from_slice(&Hash::leaf(line(77).as_bytes()).0);
        fs::write(&path, &bytes).unwrap();
        let expected = Fault::Between {
            first: place(6),
            last: 7,
            missing: 0,
        };
        assert_eq!(check(dir.path()), Err(expected));
    }

    #[test]
    fn forged_and_missing_checkpoints_are_named() {
        let key = NoteSigner::from_seed("dayfly.test/journal", &[8; 32]).unwrap();
        let forged = |size| Checkpoint::sign(size, Hash::empty(), &key).unwrap();
        let refused = |dir: &Path, file: &str, number| match check(dir).unwrap_err() {
            Fault::Checkpoint {
                file: f,
                number: n,
                reason,
            } => {
                assert_eq!((f.as_str(), n), (file, number));
                reason
            }
            fault => panic!("{fault}"),
        };

        let dir = journal();
        fs::write(dir.path().join(CHECKPOINT), forged(12)).unwrap();
        assert!(refused(dir.path(), CHECKPOINT, 1).contains("not signed by"));

        let name = format!("{}.checkpoints", SEGMENTS[1]);
        let dir = journal();
        edit(dir.path(), &name, |lines| lines[6] = "7".into());
        assert!(refused(dir.path(), &name, 2).contains("wrong"));

        let dir = journal();
        edit(dir.path(), &name, |lines| drop(lines.drain(15..)));
        assert_eq!(refused(dir.path(), &name, 4), "the one of 10 records is missing");

        let dir = journal();
        edit(dir.path(), &name, |lines| drop(lines.drain(..5)));
        refused(dir.path(), &name, 1);

        let last = format!("{}.checkpoints", SEGMENTS[2]);
        let dir = journal();
        edit(dir.path(), &last, |lines| drop(lines.drain(5..)));
        assert_eq!(
            refused(dir.path(), &last, 2),
            "it is missing, and `checkpoint` has it"
        );

        let dir = journal();
        fs::remove_file(dir.path().join(&last)).unwrap();
        assert!(matches!(check(dir.path()), Err(Fault::Unreadable { file, .. }) if file == last));

        let dir = journal();
        fs::remove_file(dir.path().join(CHECKPOINT)).unwrap();
        assert!(matches!(check(dir.path()), Err(Fault::Unreadable { file, .. }) if file == CHECKPOINT));
    }

    #[test]
    fn a_checkpoint_that_was_kept_finds_a_roll_back_and_a_rewrite() {
        let dir = journal();
        let key = signer().verifier();
        let kept = fs::read_to_string(dir.path().join(CHECKPOINT)).unwrap();
        let kept = Checkpoint::open(&kept, Some(&key)).unwrap();
        let check = |dir: &Path, kept: &Checkpoint| {
            verify(
                dir,
                &Expected {
                    key: Some(key.clone()),
                    kept: vec![kept.clone()],
                },
            )
        };
        assert!(check(dir.path(), &kept).is_ok());

        let other = Checkpoint {
            size: 3,
            ..kept.clone()
        };
        assert_eq!(check(dir.path(), &other), Err(Fault::Rewritten { size: 3 }));
        let later = Checkpoint {
            size: 15,
            ..kept.clone()
        };
        assert_eq!(
            check(dir.path(), &later),
            Err(Fault::RolledBack {
                size: 15,
                records: 14
            })
        );
    }
}
