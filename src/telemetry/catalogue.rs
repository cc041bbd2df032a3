//! Every metric there is, with its labels. What is counted and not in this table, or in the table and not in the
//! reference, fails a test.

mod table;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub use table::METRICS;

/// What a metric is, in the words of the exposition format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were below each bound, their sum and their number.
    Histogram,
}

impl Kind {
    /// The word that the exposition format has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a label may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// One of these words.
    One(&'static [&'static str]),
    /// A name that the configuration or the code gives: nobody outside can make another.
    Named,
}

/// A metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [(&'static str, Values)],
    /// What it counts, in words.
    pub counts: &'static str,
}

impl Metric {
    /// The base unit, as its name has it.
    pub fn unit(&self) -> Option<Unit> {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        match name.rsplit('_').next() {
            Some("seconds") => Some(Unit::Seconds),
            Some("bytes") => Some(Unit::Bytes),
            _ => None,
        }
    }
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [(&'static str, Values)],
    counts: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        counts,
    }
}

/// Says of each what it counts.
pub(super) fn describe() {
    for metric in METRICS {
        let unit = metric.unit().unwrap_or(Unit::Count);
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.counts),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.counts),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.counts),
        }
    }
}
