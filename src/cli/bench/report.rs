//! What is said at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Mix;
use super::load::{Asked, Load, Tally, Times};
use crate::cli::terminal::{Terminal, Tone};

/// The percentiles that are told.
const TOLD: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

pub(super) fn print(terminal: &Terminal, mix: Mix, load: &Load, tally: &Tally) -> anyhow::Result<()> {
    if terminal.is_json() {
        return Ok(terminal.value(&value(mix, load, tally))?);
    }
    let headings: Vec<&str> = ["REQUEST", "ANSWERED", "FAILED", "A SECOND"]
        .into_iter()
        .chain(TOLD.iter().map(|(name, _)| *name))
        .chain(["LONGEST"])
        .collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (what, asked) in &tally.asked {
        let (answered, failed) = (asked.took.count(), failures(asked));
        let mut row = vec![
            (*what).to_owned(),
            answered.to_string(),
            failed.to_string(),
            format!("{:.0}", rate(answered, tally.took)),
        ];
        row.extend(times(&asked.took));
        rows.push(row);
    }
    terminal.table(&headings, &rows)?;
    for (what, asked) in &tally.asked {
        for (why, times) in &asked.failed {
            terminal.line(terminal.paint(Tone::Bad, &format!("{what}: {times} times {why}")))?;
        }
    }
    let [p50, .., p99, _] = TOLD.map(|(_, percent)| tally.late.percentile(percent));
    Ok(terminal.note(terminal.paint(
        Tone::Faint,
        &format!(
            "{} a second on {} connections for {}s; times count from when a request was due. Begun late by {} (p50), {} (p99)",
            load.rate,
            load.connections,
            load.duration.as_secs(),
            short(p50),
            short(p99)
        ),
    ))?)
}

fn value(mix: Mix, load: &Load, tally: &Tally) -> Value {
    let requests: Map<String, Value> = tally
        .asked
        .iter()
        .map(|(what, asked)| {
            let seconds = TOLD.map(|(name, percent)| (name, asked.took.percentile(percent).as_secs_f64()));
            let one = json!({
                "answered": asked.took.count(),
                "failed": failures(asked),
                "rate": rate(asked.took.count(), tally.took),
                "failures": asked.failed,
                "took": BTreeMap::from(seconds),
                "longest": asked.took.longest().as_secs_f64(),
            });
            ((*what).to_owned(), one)
        })
        .collect();
    json!({
        "mix": mix.name(),
        "rate": load.rate,
        "connections": load.connections,
        "seconds": tally.took.as_secs_f64(),
        "requests": requests,
        "late": {
            "p50": tally.late.percentile(50.0).as_secs_f64(),
            "p99": tally.late.percentile(99.0).as_secs_f64(),
        },
    })
}

fn failures(asked: &Asked) -> u64 {
    asked.failed.values().sum()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people: nothing is counted with it"
)]
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn times(took: &Times) -> impl Iterator<Item = String> {
    TOLD.iter()
        .map(|(_, percent)| short(took.percentile(*percent)))
        .chain([short(took.longest())])
        .collect::<Vec<_>>()
        .into_iter()
}

fn short(time: Duration) -> String {
    format!("{time:.2?}")
}
