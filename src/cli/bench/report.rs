//! What is said at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Mix;
use super::load::{Load, Rate};
use super::tally::{Tally, Times};
use crate::cli::terminal::{Terminal, Tone};

/// The percentiles that are told.
const TOLD: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// What came of asking one side.
pub(super) struct Came {
    name: &'static str,
    slices: Vec<Tally>,
    whole: Tally,
}

impl Came {
    pub(super) fn new(name: &'static str, slices: Vec<Tally>) -> Self {
        let mut whole = Tally::default();
        for slice in &slices {
            whole.add(slice);
        }
        Self { name, slices, whole }
    }

    /// How much failed.
    pub(super) fn failed(&self) -> u64 {
        self.whole.failed()
    }
}

/// A figure of the broker divided by that of the other side, slice by slice.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Ratio {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Ratio {
    fn of(broker: &Came, other: &Came, figure: impl Fn(&Tally) -> Option<f64>) -> Option<Self> {
        let pairs = broker.slices.iter().zip(&other.slices);
        let ratios = pairs.filter_map(|(one, other)| Some(figure(one)? / figure(other)?));
        let mut ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
        ratios.sort_by(f64::total_cmp);
        let middle = |at: usize| ratios.get(at).copied();
        let (upper, lower) = (middle(ratios.len() / 2)?, middle((ratios.len() - 1) / 2)?);
        Some(Self {
            median: f64::midpoint(lower, upper),
            lowest: *ratios.first()?,
            highest: *ratios.last()?,
        })
    }

    fn value(self) -> Value {
        json!({"median": self.median, "lowest": self.lowest, "highest": self.highest})
    }

    fn text(this: Option<Self>) -> String {
        this.map_or_else(
            || "–".to_owned(),
            |this| format!("{:.2} ({:.2}–{:.2})", this.median, this.lowest, this.highest),
        )
    }
}

/// The ratios that are told of one kind of request, and what they are called.
fn ratios(broker: &Came, other: &Came, what: &str) -> [(&'static str, Option<Ratio>); 3] {
    let percentile = |percent: f64| {
        Ratio::of(broker, other, |tally| {
            let took = &tally.asked.get(what)?.took;
            (took.count() > 0).then(|| took.percentile(percent).as_secs_f64())
        })
    };
    let answered = |tally: &Tally| Some(rate(tally.asked.get(what)?.took.count(), tally.took));
    [
        ("rate", Ratio::of(broker, other, answered)),
        ("p50", percentile(50.0)),
        ("p99", percentile(99.0)),
    ]
}

/// Processor time of one request.
fn each(spent: Option<Duration>, tally: &Tally) -> Option<f64> {
    (tally.sent > 0).then_some(())?;
    Some(1.0 / rate(tally.sent, spent?))
}

fn server_cpu(broker: &Came, other: &Came) -> Option<Ratio> {
    Ratio::of(broker, other, |tally| each(tally.spent.server, tally))
}

pub(super) fn print(terminal: &Terminal, mix: Mix, load: &Load, came: &[Came]) -> anyhow::Result<()> {
    let [broker, others @ ..] = came else {
        return Ok(());
    };
    let other = others.first();
    if terminal.is_json() {
        return Ok(terminal.value(&value(mix, load, broker, other))?);
    }
    requests(terminal, came)?;
    for side in came {
        for (what, asked) in &side.whole.asked {
            for (why, times) in &asked.failed {
                let line = format!("{}: {what}: {times} times {why}", side.name);
                terminal.line(terminal.paint(Tone::Bad, &line))?;
            }
        }
    }
    terminal.line("")?;
    costs(terminal, came)?;
    if let Some(other) = other {
        terminal.line("")?;
        compared(terminal, broker, other)?;
    }
    Ok(terminal.note(terminal.paint(Tone::Faint, &how(load, &broker.whole)))?)
}

/// How long everything took.
fn requests(terminal: &Terminal, came: &[Came]) -> anyhow::Result<()> {
    let headings: Vec<&str> = ["AT", "REQUEST", "ANSWERED", "FAILED", "A SECOND"]
        .into_iter()
        .chain(TOLD.iter().map(|(name, _)| *name))
        .chain(["LONGEST"])
        .collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for side in came {
        for (what, asked) in &side.whole.asked {
            let (answered, failed) = (asked.took.count(), asked.failures());
            let mut row = vec![
                side.name.to_owned(),
                what.clone(),
                answered.to_string(),
                failed.to_string(),
                format!("{:.0}", rate(answered, side.whole.took)),
            ];
            row.extend(times(&asked.took));
            rows.push(row);
        }
    }
    Ok(terminal.table(&headings, &rows)?)
}

/// What it cost.
fn costs(terminal: &Terminal, came: &[Came]) -> anyhow::Result<()> {
    let micros =
        |spent: Option<f64>| spent.map_or_else(|| "–".to_owned(), |spent| format!("{:.0} µs", spent * 1e6));
    let rows: Vec<Vec<String>> = came
        .iter()
        .map(|Came { name, whole, .. }| {
            vec![
                (*name).to_owned(),
                whole.sent.to_string(),
                micros(each(whole.spent.server, whole)),
                micros(each(whole.spent.harness, whole)),
            ]
        })
        .collect();
    Ok(terminal.table(&["AT", "REQUESTS", "ITS CPU FOR ONE", "OUR CPU FOR ONE"], &rows)?)
}

/// The broker by the other side.
fn compared(terminal: &Terminal, broker: &Came, other: &Came) -> anyhow::Result<()> {
    let against = format!("BROKER / {}", other.name.to_uppercase());
    let kinds = broker.whole.asked.keys();
    let mut rows: Vec<Vec<String>> = kinds
        .map(|what| {
            let told = ratios(broker, other, what).map(|(_, ratio)| Ratio::text(ratio));
            [what.clone()].into_iter().chain(told).collect()
        })
        .collect();
    rows.push(vec![
        "CPU for one".to_owned(),
        Ratio::text(server_cpu(broker, other)),
    ]);
    terminal.table(&[&against, "A SECOND", "p50", "p99"], &rows)?;
    Ok(terminal.note(terminal.paint(
        Tone::Faint,
        &format!(
            "medians of {} pairs of slices, and between which they lie",
            broker.slices.len()
        ),
    ))?)
}

/// What the figures are of.
fn how(load: &Load, tally: &Tally) -> String {
    let connections = load.connections;
    let seconds = load.duration.as_secs();
    match load.rate {
        Rate::Max => format!(
            "closed loop: {connections} connections, each asking as soon as it was answered, for {seconds}s. How much that \
             carries; for how long callers wait that do not wait for each other, give a rate"
        ),
        Rate::Each(rate) => {
            let [p50, .., p99, _] = TOLD.map(|(_, percent)| tally.late.percentile(percent));
            format!(
                "{rate} a second on {connections} connections for {seconds}s; times count from when a request was due. Begun \
                 late by {} (p50), {} (p99)",
                short(p50),
                short(p99)
            )
        }
    }
}

fn value(mix: Mix, load: &Load, broker: &Came, other: Option<&Came>) -> Value {
    let rate = match load.rate {
        Rate::Max => json!("max"),
        Rate::Each(rate) => json!(rate),
    };
    let mut value = side(broker);
    if let Value::Object(members) = &mut value {
        members.insert("mix".to_owned(), mix.name().into());
        members.insert("rate".to_owned(), rate);
        members.insert("closed_loop".to_owned(), (load.rate == Rate::Max).into());
        members.insert("connections".to_owned(), json!(load.connections));
        if let Some(other) = other {
            members.insert("beside".to_owned(), side(other));
            members.insert("ratio".to_owned(), ratio(broker, other));
        }
    }
    value
}

fn side(came: &Came) -> Value {
    let tally = &came.whole;
    let requests: Map<String, Value> = tally
        .asked
        .iter()
        .map(|(what, asked)| {
            let seconds = TOLD.map(|(name, percent)| (name, asked.took.percentile(percent).as_secs_f64()));
            let one = json!({
                "answered": asked.took.count(),
                "failed": asked.failures(),
                "rate": rate(asked.took.count(), tally.took),
                "failures": asked.failed,
                "took": BTreeMap::from(seconds),
                "longest": asked.took.longest().as_secs_f64(),
            });
            (what.clone(), one)
        })
        .collect();
    json!({
        "at": came.name,
        "seconds": tally.took.as_secs_f64(),
        "requests": requests,
        "late": {
            "p50": tally.late.percentile(50.0).as_secs_f64(),
            "p99": tally.late.percentile(99.0).as_secs_f64(),
        },
        "cpu": {
            "server": each(tally.spent.server, tally),
            "harness": each(tally.spent.harness, tally),
        },
    })
}

fn ratio(broker: &Came, other: &Came) -> Value {
    let kinds = broker.whole.asked.keys();
    let requests: Map<String, Value> = kinds
        .map(|what| {
            let told = ratios(broker, other, what);
            let told = told.map(|(name, ratio)| (name.to_owned(), json!(ratio.map(Ratio::value))));
            (what.clone(), Value::Object(told.into_iter().collect()))
        })
        .collect();
    json!({
        "slices": broker.slices.len(),
        "requests": requests,
        "server_cpu": server_cpu(broker, other).map(Ratio::value),
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people: nothing is counted with it"
)]
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn times(took: &Times) -> Vec<String> {
    TOLD.iter()
        .map(|(_, percent)| short(took.percentile(*percent)))
        .chain([short(took.longest())])
        .collect()
}

pub(super) fn short(time: Duration) -> String {
    format!("{time:.2?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(rates: &[u64]) -> Came {
        let slice = |rate: &u64| {
            let mut tally = Tally {
                took: Duration::from_secs(1),
                ..Tally::default()
            };
            tally.spent.server = Some(Duration::from_millis(100));
            for _ in 0..*rate {
                tally.note("issue", Duration::from_millis(1), None);
            }
            tally
        };
        Came::new("broker", rates.iter().map(slice).collect())
    }

    #[test]
    fn a_ratio_is_that_of_slices_beside_each_other() {
        let (broker, other) = (came(&[10, 20, 90]), came(&[20, 20, 100]));
        let [(_, rate), (_, p50), _] = ratios(&broker, &other, "issue");
        let expected = Ratio {
            median: 0.9,
            lowest: 0.5,
            highest: 1.0,
        };
        assert_eq!(rate, Some(expected));
        assert_eq!(Ratio::text(p50), "1.00 (1.00–1.00)");
        assert_eq!(ratios(&broker, &other, "renew")[0].1, None);
        let cpu = server_cpu(&broker, &other).unwrap();
        assert_eq!((cpu.lowest, cpu.highest), (1.0, 2.0));
    }

    #[test]
    fn of_two_slices_the_middle_lies_between_them() {
        let ratio = ratios(&came(&[10, 30]), &came(&[10, 10]), "issue")[0].1.unwrap();
        assert_eq!(ratio.median, 2.0);
        assert_eq!(Ratio::text(None), "–");
    }
}
