//! A broker as a process of its own: how long it takes to be ready, and its memory when it has nothing to do.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Medians of several starts.
pub(crate) struct Started {
    /// Until it said that it was.
    pub(crate) ready: Duration,
    /// KiB in memory, some time after that.
    pub(crate) resident: u64,
    /// How many of them are its own: neither the binary nor a library.
    pub(crate) own: u64,
}

/// Starts a broker so many times, each after the end of the one before, and looks at it when it has rested for so long.
pub(crate) async fn measure(
    binary: &str,
    configuration: &Path,
    address: SocketAddr,
    starts: usize,
    rest: Duration,
) -> Started {
    let client = reqwest::ClientBuilder::new().build().unwrap();
    let (mut took, mut resident, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..starts {
        let begun = Instant::now();
        let mut process = Command::new(binary)
            .args(["serve", "--config"])
            .arg(configuration)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ready = async || {
            let answer = client.get(format!("http://{address}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        };
        while !ready().await {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(begun.elapsed());
        tokio::time::sleep(rest).await;
        resident.push(memory(process.id(), "VmRSS"));
        own.push(memory(process.id(), "RssAnon"));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    Started {
        ready: median(took),
        resident: median(resident),
        own: median(own),
    }
}

/// The middle one.
pub(crate) fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    *values.get(values.len() / 2).unwrap()
}

/// What the kernel says about the memory of a process, in KiB.
pub(crate) fn memory(id: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
