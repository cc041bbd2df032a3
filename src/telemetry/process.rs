//! What the process takes of its machine, under the names that the field has for it. Read from `/proc`: where that
//! is not, there is nothing.

use std::fs;
use std::time::Duration;

use metrics::{counter, gauge};
use rustix::param::{clock_ticks_per_second, page_size};

/// Bytes of memory that are resident.
pub const MEMORY: &str = "process_resident_memory_bytes";
/// Seconds of processor time, whole ones.
pub const CPU: &str = "process_cpu_seconds_total";
/// Files and sockets that are open.
pub const OPEN_FILES: &str = "process_open_fds";
/// How many may be.
pub const MOST_FILES: &str = "process_max_fds";
/// When the process started, in seconds since 1970.
pub const STARTED: &str = "process_start_time_seconds";

/// Reads all of it. Blocks for as long as it takes to count the open files.
pub(crate) fn sample() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let ticks = clock_ticks_per_second().max(1);
    if let Some(stat) = Stat::read(&read("/proc/self/stat")) {
        gauge!(MEMORY).set(stat.pages as f64 * page_size() as f64);
        counter!(CPU).absolute(stat.cpu_ticks / ticks);
        if let Some(booted) = booted(&read("/proc/stat")) {
            gauge!(STARTED).set(booted as f64 + stat.started_ticks as f64 / ticks as f64);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is this look itself.
        gauge!(OPEN_FILES).set(open.count().saturating_sub(1) as f64);
    }
    if let Some(most) = most_files(&read("/proc/self/limits")) {
        gauge!(MOST_FILES).set(most);
    }
}

/// The processor time that a process took so far, in user space and in the kernel; none where the system does not say.
/// Told in hundredths of a second, as the kernel does.
pub(crate) fn cpu_time(process: u32) -> Option<Duration> {
    let stat = Stat::read(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
    let ticks = clock_ticks_per_second().max(1);
    Some(Duration::from_millis(stat.cpu_ticks.saturating_mul(1000) / ticks))
}

/// What is read of `/proc/self/stat` (proc_pid_stat(5)).
#[derive(PartialEq, Eq, Debug)]
struct Stat {
    cpu_ticks: u64,
    started_ticks: u64,
    pages: u64,
}

impl Stat {
    fn read(line: &str) -> Option<Self> {
        // The name of the program may hold anything, parentheses too.
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is the third of the manual.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            started_ticks: field(22)?,
            pages: field(24)?,
        })
    }
}

/// When the machine started, in seconds since 1970.
fn booted(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// The soft limit on open files.
fn most_files(limits: &str) -> Option<f64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        most => most.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_shifts_nothing() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 120 30 13 14 15 16 17 18 4711 20 99 22";
        let stat = Stat::read(&format!("42 (day) fly (x) {rest}")).unwrap();
        let expected = Stat {
            cpu_ticks: 150,
            started_ticks: 4711,
            pages: 99,
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::read("42 (dayfly) S 1"), None);
        assert_eq!(Stat::read(""), None);
    }

    #[test]
    fn limits_and_boot_times_are_found_by_their_names() {
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(most_files(limits), Some(1024.0));
        assert_eq!(
            most_files("Max open files unlimited unlimited files"),
            Some(f64::INFINITY)
        );
        assert_eq!(most_files(""), None);
        assert_eq!(booted("cpu 1 2\nbtime 1795329000\n"), Some(1_795_329_000));
        assert_eq!(booted("cpu 1 2\n"), None);
    }
}
