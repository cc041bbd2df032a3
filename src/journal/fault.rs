//! What verification can find wrong, and where.

use std::fmt;

use super::segment::Segment;

/// Where a record is, or belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its place in the log, from 0.
    pub index: u64,
    /// The file.
    pub segment: String,
    /// The line in the file, from 1.
    pub line: u64,
}

impl Place {
    pub(super) fn of(segment: Segment, index: u64) -> Self {
        Self {
            index,
            segment: segment.lines_name(),
            line: index.saturating_sub(segment.first) + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "record {} (line {} of {})",
            self.index, self.line, self.segment
        )
    }
}

/// The first thing that is not as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Another line stands in its place.
    #[error("{0} was changed")]
    Changed(Place),
    /// Lines were taken out.
    #[error("{count} records were dropped, beginning with {place}")]
    Dropped {
        /// Where the first of them was.
        place: Place,
        /// How many.
        count: u64,
    },
    /// Lines were put in.
    #[error("{count} lines were inserted, beginning at line {} of {}, where record {} belongs", .place.line, .place.segment, .place.index)]
    Inserted {
        /// Where the first of them is.
        place: Place,
        /// How many.
        count: u64,
    },
    /// The same lines, in another order.
    #[error("records were reordered: where {place} belongs stands record {found}")]
    Reordered {
        /// The first place where the order is another one.
        place: Place,
        /// The record that stands there.
        found: u64,
    },
    /// The end is missing, or the last line is not whole.
    #[error("the end was cut off: {signed} records were signed, and {place} is the first that is missing")]
    Truncated {
        /// The first record that is missing.
        place: Place,
        /// How many records the newest checkpoint covers.
        signed: u64,
    },
    /// Records and the hashes beside them were both tampered with; the checkpoints tell how far.
    #[error(
        "between {first} and record {last} something is not what was signed ({missing} lines are missing), and the hashes beside it were changed too"
    )]
    Between {
        /// The first record after the last checkpoint that holds.
        first: Place,
        /// The last record before the first checkpoint that does not.
        last: u64,
        /// How many lines are missing at the end.
        missing: u64,
    },
    /// A line after the newest checkpoint is no record.
    #[error("{0} is no record")]
    NoRecord(Place),
    /// Whole segments are missing.
    #[error("the files with records {from} to {to} are missing")]
    Missing {
        /// The first record.
        from: u64,
        /// The last record.
        to: u64,
    },
    /// The hashes beside a segment were tampered with; its records are as they were signed.
    #[error(
        "{file} was changed at the hash of record {index}; the records of its segment are as they were signed"
    )]
    Hashes {
        /// The file.
        file: String,
        /// The record whose hash it is.
        index: u64,
    },
    /// A checkpoint is missing, forged, or contradicts the others.
    #[error("{file}, checkpoint {number}: {reason}")]
    Checkpoint {
        /// The file.
        file: String,
        /// Which of the checkpoints in the file, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint that was kept elsewhere belongs to another history.
    #[error(
        "the checkpoint of {size} records that was kept elsewhere is not of this journal: its history was rewritten"
    )]
    Rewritten {
        /// How many records it covers.
        size: u64,
    },
    /// A checkpoint that was kept elsewhere covers more than there is.
    #[error(
        "the checkpoint that was kept elsewhere covers {size} records, and {records} are there: the journal was rolled back"
    )]
    RolledBack {
        /// How many records it covers.
        size: u64,
        /// How many there are.
        records: u64,
    },
    /// A file cannot be read.
    #[error("{file} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
}
