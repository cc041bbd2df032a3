//! The running program and everything below it: started, signalled, waited for, and ended. Whatever it left
//! behind becomes a child of this process (it is a subreaper), so nothing gets away by forking twice.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::process::Command;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where the system shows what runs.
const PROC: &str = "/proc";
/// How often it is looked for what is left.
const LOOK: Duration = Duration::from_millis(20);
/// How long what was killed may take to be gone: a process can be held up in the system.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// What is passed on to the program.
const FORWARDED: [(SignalKind, Signal); 8] = [
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
    (SignalKind::from_raw(Signal::CONT.as_raw()), Signal::CONT),
];

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// With a code.
    Code(u8),
    /// By a signal.
    Signal(i32),
}

impl End {
    fn of(status: WaitStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
        }
        status.terminating_signal().map(Self::Signal)
    }

    /// The exit code for it, as shells have it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// What the task is told.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Code(0) => "completed",
            Self::Code(_) => "failed",
            Self::Signal(_) => "cancelled",
        }
    }
}

/// The signals that come to this process, from when this was made on.
pub(super) struct Signals(Vec<(Stream, Signal)>);

impl Signals {
    /// Listens.
    pub(super) fn listen() -> io::Result<Self> {
        let streams = FORWARDED.map(|(kind, number)| Ok((signal(kind)?, number)));
        Ok(Self(streams.into_iter().collect::<io::Result<_>>()?))
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (stream, number) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that asks this process to end.
    pub(super) async fn next_to_end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].contains(&signal) {
                return signal;
            }
        }
    }
}

/// A program that was started.
pub(super) struct Program {
    pid: Pid,
    children: Stream,
    ended: Option<End>,
}

impl Program {
    /// Starts it. On the thread that lives as long as the process: the program is told when that ends.
    pub(super) fn start(mut command: Command) -> io::Result<Self> {
        let children = signal(SignalKind::child())?;
        become_subreaper()?;
        let child = command.spawn()?;
        Ok(Self {
            pid: Pid::from_child(&child),
            children,
            ended: None,
        })
    }

    /// Takes note of every child that ended, and says how the program did, if it did.
    fn reap(&mut self) -> Option<End> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                self.ended = End::of(status);
            }
        }
        self.ended
    }

    /// Waits for its end. What is a child of this process by then is reaped by the way.
    pub(super) async fn ended(&mut self) -> End {
        loop {
            if let Some(end) = self.reap() {
                return end;
            }
            self.children.recv().await;
        }
    }

    /// Passes a signal on. What the terminal sends to all that run before it, the program has already.
    pub(super) fn forward(&self, signal: Signal) {
        let by_terminal = [Signal::INT, Signal::QUIT, Signal::WINCH].contains(&signal) && in_foreground();
        if self.ended.is_none() && !by_terminal {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Asks the program and all below it to end.
    pub(super) fn terminate(&self) {
        for pid in self.everything(Path::new(PROC)) {
            send(pid, Signal::TERM);
        }
    }

    /// Ends the program and all below it.
    pub(super) fn kill(&self) {
        for pid in self.everything(Path::new(PROC)) {
            send(pid, Signal::KILL);
        }
    }

    /// The program, while it runs, and all below this process. Where nobody can be seen the program is known still.
    fn everything(&self, proc: &Path) -> BTreeSet<i32> {
        let mut everything = below(proc, Pid::as_raw(Some(rustix::process::getpid())));
        if self.ended.is_none() {
            everything.insert(Pid::as_raw(Some(self.pid)));
        }
        everything
    }

    /// Ends what the program left behind: asks, waits, and then kills, at once where there is a `hurry`. How many there
    /// were, and how many could not be ended.
    pub(super) async fn clear(&mut self, grace: Duration, hurry: &CancellationToken) -> (usize, usize) {
        let itself = Pid::as_raw(Some(rustix::process::getpid()));
        let mut kill_at = Instant::now() + grace;
        let mut asked = BTreeSet::new();
        loop {
            self.reap();
            let now = Instant::now();
            if hurry.is_cancelled() {
                kill_at = kill_at.min(now);
            }
            let left = below(Path::new(PROC), itself);
            if left.is_empty() || now > kill_at + AFTER_KILL {
                return (asked.len(), left.len());
            }
            for pid in left {
                let first = asked.insert(pid);
                if now >= kill_at {
                    send(pid, Signal::KILL);
                } else if first {
                    send(pid, Signal::TERM);
                }
            }
            tokio::select! {
                _ = self.children.recv() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

fn send(pid: i32, signal: Signal) {
    // Somebody who has just ended, or who became another user's, is not ours to signal.
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
}

#[cfg(target_os = "linux")]
fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// Other systems give what is left behind to their first process.
#[cfg(not(target_os = "linux"))]
fn become_subreaper() -> io::Result<()> {
    Ok(())
}

/// Whether the terminal sends its signals to this process, and so to the program in the same group.
fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else {
        return false;
    };
    rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Every process below this one that has not ended, as `/proc` has them.
fn below(proc: &Path, root: i32) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<(i32, bool)>> = BTreeMap::new();
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let stat = pid.and_then(|pid: i32| std::fs::read_to_string(proc.join(format!("{pid}/stat"))).ok());
        if let (Some(pid), Some((parent, alive))) = (pid, stat.as_deref().and_then(parent_of)) {
            children.entry(parent).or_default().push((pid, alive));
        }
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for (pid, alive) in children.remove(&parent).unwrap_or_default() {
            open.push(pid);
            if alive {
                found.insert(pid);
            }
        }
    }
    found
}

/// The parent in a line of `/proc/<pid>/stat`, and whether it has not ended. A name may hold anything, so it is read
/// from its end on.
fn parent_of(stat: &str) -> Option<(i32, bool)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?;
    Some((words.next()?.parse().ok()?, !matches!(state, "Z" | "X")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[test]
    fn an_end_has_the_code_that_shells_have_for_it() {
        assert_eq!(End::Code(3).code(), 3);
        assert_eq!(End::Signal(15).code(), 143);
        assert_eq!(End::Code(0).outcome(), "completed");
        assert_eq!(End::Code(1).outcome(), "failed");
        assert_eq!(End::Signal(9).outcome(), "cancelled");
    }

    #[test]
    fn a_parent_is_read_whatever_its_child_is_called() {
        assert_eq!(parent_of("7 (sh) S 3 7 7"), Some((3, true)));
        assert_eq!(parent_of("7 (a) Z 1 (b) Z 3 7 7"), Some((3, false)));
        assert_eq!(parent_of("7"), None);
    }

    #[test]
    fn what_runs_below_is_found_at_any_depth() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'sleep 60 & wait' & wait"])
            .process_group(0)
            .spawn()
            .unwrap();
        let root = Pid::from_child(&shell);
        let found = || below(Path::new(PROC), Pid::as_raw(Some(root)));
        let looked = std::iter::repeat_with(found)
            .take(10_000)
            .find(|found| found.len() == 2);
        let looked = looked.unwrap();
        rustix::process::kill_process_group(root, Signal::KILL).unwrap();
        shell.wait().unwrap();
        // What is killed is reaped by somebody else, sooner or later, and has ended before.
        let alive = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("{PROC}/{pid}/stat"));
            stat.is_ok_and(|stat| parent_of(&stat).is_some_and(|(_, alive)| alive))
        };
        let gone = std::iter::repeat_with(|| !looked.iter().any(alive))
            .take(1_000_000)
            .any(|gone| gone);
        assert!(gone, "{looked:?}");
    }

    #[tokio::test]
    async fn the_program_is_known_where_nobody_can_be_seen() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let child = command.spawn().unwrap();
        let mut program = Program {
            pid: Pid::from_child(&child),
            children: signal(SignalKind::child()).unwrap(),
            ended: None,
        };
        let nobody = tempfile::tempdir().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(program.everything(nobody.path()), BTreeSet::from([pid]));
        assert!(program.everything(Path::new(PROC)).contains(&pid));
        program.ended = Some(End::Signal(9));
        assert!(
            program.everything(nobody.path()).is_empty(),
            "its number may be somebody else's"
        );
        send(pid, Signal::KILL);
        { child }.wait().unwrap();
    }
}
