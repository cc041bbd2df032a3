//! What a journal directory holds, and how its files are read.
//!
//! ```text
//! lock                                  held by the process that writes
//! checkpoint                            the newest signed checkpoint
//! 00000000000000000000.jsonl            records, one canonical line each; named by its first index
//! 00000000000000000000.hashes           the tree's peaks at its start, then one leaf hash a record
//! 00000000000000000000.checkpoints      every checkpoint signed while it was the newest segment
//! 00000000000000131072.jsonl            …
//! ```
//!
//! A segment starts with a checkpoint of everything before it, so that its peaks can be trusted when
//! they give the signed root. The hashes are there to say *which* record was tampered with; below the
//! newest checkpoint they are covered by the signed roots, above it they are not written yet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::merkle::{Frontier, Hash};
use super::record::Record;

/// The file with the newest signed checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The file that is locked by the process that writes.
pub(super) const LOCK: &str = "lock";

const LINES: &str = "jsonl";
const DIGITS: usize = 20;

/// The names of a segment's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Segment {
    /// The index of its first record.
    pub(super) first: u64,
}

impl Segment {
    /// All segments of a directory, oldest first. Files of other names are not looked at.
    pub(super) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in dir.read_dir()? {
            let name = entry?.file_name();
            let first = name
                .to_str()
                .and_then(|name| name.strip_suffix(LINES)?.strip_suffix('.'))
                .filter(|digits| digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok());
            segments.extend(first.map(|first| Self { first }));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    pub(super) fn lines(self, dir: &Path) -> PathBuf {
        dir.join(self.lines_name())
    }

    pub(super) fn hashes(self, dir: &Path) -> PathBuf {
        dir.join(self.hashes_name())
    }

    pub(super) fn notes(self, dir: &Path) -> PathBuf {
        dir.join(self.notes_name())
    }

    pub(super) fn lines_name(self) -> String {
        self.name(LINES)
    }

    pub(super) fn hashes_name(self) -> String {
        self.name("hashes")
    }

    pub(super) fn notes_name(self) -> String {
        self.name("checkpoints")
    }

    /// The checkpoints signed while this was the newest segment, as text. What a crash tore need not be
    /// UTF-8: the answer ends before it.
    pub(super) fn read_notes(self, dir: &Path) -> io::Result<String> {
        let bytes = std::fs::read(self.notes(dir))?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
            let whole = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(whole);
            String::from_utf8(bytes).unwrap_or_default()
        }))
    }

    fn name(self, extension: &str) -> String {
        format!("{:0DIGITS$}.{extension}", self.first)
    }
}

/// The hashes beside a segment.
pub(super) struct Hashes {
    /// The tree at the segment's start, as far as the file is to be believed.
    pub(super) start: Frontier,
    /// A leaf hash a record.
    pub(super) leaves: Vec<Hash>,
}

impl Hashes {
    /// Reads the file of a segment; `None` when it is too short for the peaks.
    pub(super) fn read(dir: &Path, segment: Segment) -> io::Result<Option<Self>> {
        let mut hashes = Hash::many(&std::fs::read(segment.hashes(dir))?);
        let peaks = Frontier::peaks_at(segment.first);
        if hashes.len() < peaks {
            return Ok(None);
        }
        let leaves = hashes.split_off(peaks);
        Ok(Frontier::from_peaks(segment.first, hashes).map(|start| Self { start, leaves }))
    }
}

/// Hashes end to end, as the file has them.
pub(super) fn concat(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The lines of a segment, one after another.
pub(super) struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
    /// Where the next line begins.
    pub(super) offset: u64,
}

/// One line, without its newline.
pub(super) struct Line<'a> {
    /// At most one byte more than a record may have; the rest of a longer line is read over.
    pub(super) bytes: &'a [u8],
    /// Whether a newline ended it. The last line of a file may lack it.
    pub(super) whole: bool,
    /// Where it begins.
    pub(super) offset: u64,
}

impl Lines {
    /// Reads from `offset` on, which must be the beginning of a line.
    pub(super) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            file: BufReader::with_capacity(1 << 16, file),
            line: Vec::new(),
            offset,
        })
    }

    /// The next line; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let most = u64::try_from(Record::MOST_BYTES + 1).unwrap_or(u64::MAX);
        let offset = self.offset;
        self.line.clear();
        let mut taken = (&mut self.file).take(most).read_until(b'\n', &mut self.line)?;
        if taken == 0 {
            return Ok(None);
        }
        let mut whole = self.line.pop_if(|last| *last == b'\n').is_some();
        if !whole && self.line.len() > Record::MOST_BYTES {
            let rest = skip_line(&mut self.file)?;
            taken += rest.0;
            whole = rest.1;
        }
        self.offset += u64::try_from(taken).unwrap_or(u64::MAX);
        Ok(Some(Line {
            bytes: &self.line,
            whole,
            offset,
        }))
    }
}

/// Reads over the rest of a line without keeping it: how many bytes, and whether a newline ended it.
fn skip_line(file: &mut impl BufRead) -> io::Result<(usize, bool)> {
    let mut skipped = 0;
    loop {
        let chunk = file.fill_buf()?;
        let newline = chunk.iter().position(|&b| b == b'\n');
        let count = newline.map_or(chunk.len(), |at| at + 1);
        file.consume(count);
        skipped += count;
        if newline.is_some() || count == 0 {
            return Ok((skipped, newline.is_some()));
        }
    }
}

/// What every signature line of a note starts with: an em dash and a space.
const SIGNED_BY: &str = "\u{2014} ";

/// Splits notes that were written one after another, and says how many bytes the whole ones take. What
/// follows them was cut off while it was written.
pub(super) fn split_notes(text: &str) -> (Vec<&str>, usize) {
    let (mut notes, mut start, mut at) = (Vec::new(), 0, 0);
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        at += line.len();
        let signed = line.starts_with(SIGNED_BY) && line.ends_with('\n');
        if signed && lines.peek().is_none_or(|next| !next.starts_with(SIGNED_BY)) {
            notes.extend(text.get(start..at));
            start = at;
        }
    }
    (notes, start)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of C2SP signed-note.
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn splits_notes_and_leaves_what_was_cut_off() {
        let both = format!("{NOTE}{NOTE}");
        assert_eq!(split_notes(&both), (vec![NOTE, NOTE], both.len()));
        for cut in 1..NOTE.len() {
            let Some(text) = both.get(..NOTE.len() + cut) else {
                continue;
            };
            assert_eq!(split_notes(text), (vec![NOTE], NOTE.len()), "{cut}");
        }
        assert_eq!(split_notes(""), (vec![], 0));
    }

    #[test]
    fn lists_segments_in_order_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000000100.jsonl",
            "00000000000000000020.jsonl",
            "00000000000000000020.hashes",
            "20.jsonl",
            "+0000000000000000020.jsonl",
            "checkpoint",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let firsts: Vec<u64> = Segment::list(dir.path())
            .unwrap()
            .iter()
            .map(|s| s.first)
            .collect();
        assert_eq!(firsts, [20, 100]);
    }

    #[test]
    fn reads_lines_of_any_length_without_keeping_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let long = "x".repeat(300_000);
        std::fs::write(file.path(), format!("one\n\n{long}\nlast")).unwrap();
        let mut lines = Lines::open(file.path(), 0).unwrap();
        let mut seen = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            seen.push((line.bytes.len(), line.whole, line.offset));
        }
        let end = 5 + 300_001;
        assert_eq!(
            seen,
            [(3, true, 0), (0, true, 4), (65_536, true, 5), (4, false, end)]
        );
        assert_eq!(lines.offset, end + 4);
    }
}
