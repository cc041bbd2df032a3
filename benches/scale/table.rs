//! The table that is printed, row by row as they come about.

use std::io::Write as _;
use std::time::Duration;

pub(crate) fn head(columns: [&str; 3]) {
    row(columns[0], columns[1], columns[2]);
    println!("|---|---|---|");
}

pub(crate) fn row(what: &str, value: impl std::fmt::Display, how: &str) {
    println!("| {what} | {value} | {how} |");
    // Who looks on waits for minutes.
    std::io::stdout().flush().unwrap();
}

#[expect(clippy::cast_precision_loss, reason = "counts of leases are far below that")]
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// The lowest, the middle and the highest.
pub(crate) fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    [0, values.len() / 2, last].map(|at| *values.get(at).unwrap())
}

/// How many a second, of several rounds.
pub(crate) fn rates(of: [f64; 3]) -> String {
    let [least, middle, most] = of;
    format!("{middle:.0} a second ({least:.0} to {most:.0})")
}
