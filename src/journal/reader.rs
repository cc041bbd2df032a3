//! Reading records by index, beside a process that writes or without one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::JournalError;
use super::segment::{Lines, Segment};

/// The most bytes of one answer, so that a page of the largest records stays within reason.
const MOST_BYTES: usize = 16 << 20;
/// The most places that are remembered.
const MOST_MARKS: usize = 1024;

/// Reads the segments of a directory, page by page.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// Where earlier answers ended: index of the next record → its segment and offset. Whoever reads on
    /// or follows the end starts there, and not at the beginning of the segment.
    marks: Mutex<BTreeMap<u64, (Segment, u64)>>,
}

impl Reader {
    /// Reads the journal in `dir`. Nothing is opened yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            marks: Mutex::default(),
        }
    }

    /// Records from `from` on and below `end`, as they were written; at most `limit` of them and about
    /// 16 MiB. A line that has no newline yet is not part of the answer. Blocks on the disk.
    pub fn read(&self, from: u64, end: u64, limit: usize) -> Result<Vec<String>, JournalError> {
        let mut page = Page {
            next: from,
            end,
            limit,
            bytes: 0,
            lines: Vec::new(),
        };
        while !page.is_full() {
            let before = page.next;
            let segments = Segment::list(&self.dir).map_err(|error| self.failed(&error))?;
            let Some(&segment) = segments.iter().rev().find(|segment| segment.first <= before) else {
                break;
            };
            self.read_segment(segment, &mut page)?;
            if page.next == before {
                break;
            }
        }
        Ok(page.lines)
    }

    fn read_segment(&self, segment: Segment, page: &mut Page) -> Result<(), JournalError> {
        let (mut index, offset) = self.nearest(segment, page.next);
        let mut lines =
            Lines::open(&segment.lines(&self.dir), offset).map_err(|error| self.failed(&error))?;
        while !page.is_full() {
            match lines.next().map_err(|error| self.failed(&error))? {
                Some(line) if line.whole => {
                    if index == page.next {
                        page.add(line.bytes)?;
                    }
                    index += 1;
                }
                _ => return Ok(()),
            }
        }
        let mut marks = self.marks();
        marks.insert(index, (segment, lines.offset));
        if marks.len() > MOST_MARKS {
            marks.pop_first();
        }
        Ok(())
    }

    /// The nearest known place at or before a record of a segment: which record is there, and where.
    fn nearest(&self, segment: Segment, index: u64) -> (u64, u64) {
        let marks = self.marks();
        let mut before = marks.range(segment.first..=index).rev();
        match before.find(|(_, (of, _))| *of == segment) {
            Some((&index, &(_, offset))) => (index, offset),
            None => (segment.first, 0),
        }
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<u64, (Segment, u64)>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &io::Error) -> JournalError {
        JournalError::Unavailable(format!("{}: {error}", self.dir.display()))
    }
}

struct Page {
    next: u64,
    end: u64,
    limit: usize,
    bytes: usize,
    lines: Vec<String>,
}

impl Page {
    fn is_full(&self) -> bool {
        self.next >= self.end || self.lines.len() >= self.limit || self.bytes >= MOST_BYTES
    }

    fn add(&mut self, line: &[u8]) -> Result<(), JournalError> {
        let line = std::str::from_utf8(line)
            .map_err(|_| JournalError::Damaged(format!("record {} is no text", self.next)))?;
        self.bytes += line.len();
        self.lines.push(line.to_owned());
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_where_the_last_one_ended_across_segments() {
        let dir = tempfile::tempdir().unwrap();
        for (first, lines) in [(0, "0\n1\n2\n"), (3, "3\n4\n"), (5, "5\n6\n7")] {
            std::fs::write(Segment { first }.lines(dir.path()), lines).unwrap();
        }
        let reader = Reader::new(dir.path());
        for limit in 1..9 {
            let mut read = Vec::new();
            loop {
                let page = reader
                    .read(u64::try_from(read.len()).unwrap(), u64::MAX, limit)
                    .unwrap();
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                read.extend(page);
            }
            assert_eq!(read, ["0", "1", "2", "3", "4", "5", "6"], "pages of {limit}");
        }
        assert_eq!(reader.read(2, 4, 9).unwrap(), ["2", "3"], "below the end");
        assert_eq!(reader.read(4, u64::MAX, 1).unwrap(), ["4"]);
        assert!(reader.read(7, u64::MAX, 9).unwrap().is_empty(), "no newline yet");
        assert!(reader.read(1 << 40, u64::MAX, 9).unwrap().is_empty());
    }
}
