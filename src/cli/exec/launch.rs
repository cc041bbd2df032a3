//! How the program is started: by this binary, called once more, which asks the system to end the program when
//! `exec` dies and then becomes the program. Between these two there is no moment at which the program runs
//! without that, and no memory of `exec` is left in it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The first argument by which this binary knows what it is called for. No name of a sub-command.
const WORD: &str = "--launch-for-exec";
/// The program is not there.
pub(super) const NOT_FOUND: u8 = 127;
/// The program is there and cannot be executed.
pub(super) const NOT_EXECUTABLE: u8 = 126;

/// Why a program cannot be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unstartable {
    /// There is no such file.
    #[error("{0}: there is no such program")]
    NotFound(String),
    /// The file is no program, or not one of this user's to run.
    #[error("{0}: it is there and cannot be executed")]
    NotExecutable(String),
}

impl Unstartable {
    /// The exit code that shells have for it.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::NotFound(_) => NOT_FOUND,
            Self::NotExecutable(_) => NOT_EXECUTABLE,
        }
    }
}

/// The file that a name means, as a shell looks it up in this search path.
pub(super) fn look_up(name: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, Unstartable> {
    let told = || name.to_string_lossy().into_owned();
    let runs = |path: &Path| {
        let found = std::fs::metadata(path);
        found.map(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let candidates: Vec<PathBuf> = match name.as_encoded_bytes().contains(&b'/') {
        true => vec![PathBuf::from(name)],
        false if name.is_empty() => Vec::new(),
        false => std::env::split_paths(search.unwrap_or_default())
            .map(|folder| folder.join(name))
            .collect(),
    };
    let mut there = false;
    for path in candidates {
        match runs(&path) {
            Ok(true) => return Ok(path),
            Ok(false) => there = true,
            Err(error) => there |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(match there {
        true => Unstartable::NotExecutable(told()),
        false => Unstartable::NotFound(told()),
    })
}

/// A command that becomes `program`, under the name that it was called by, and ends when `parent` dies.
pub(super) fn command(parent: u32, program: &Path, called: &[OsString]) -> Command {
    // The very file that runs now, though another one may lie in its place by now.
    let itself = match Path::new("/proc/self/exe") {
        link if link.exists() => link.to_owned(),
        _ => std::env::current_exe().unwrap_or_default(),
    };
    let mut command = Command::new(itself);
    command
        .arg(WORD)
        .arg(parent.to_string())
        .arg(program)
        .args(called);
    command
}

/// Becomes the program, where this process was started to. Otherwise returns `None` and has done nothing.
pub fn instead() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != WORD {
        return None;
    }
    let parent = arguments.next()?.to_str()?.parse::<i32>().ok()?;
    let (program, called) = (arguments.next()?, arguments.next()?);
    if !die_with(parent) {
        return Some(ExitCode::FAILURE);
    }
    let error = Command::new(&program).arg0(&called).args(arguments).exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    let _ = writeln!(io::stderr(), "dayfly: {}: {error}", called.to_string_lossy());
    Some(ExitCode::from(code))
}

/// Has the system send SIGTERM when the parent dies. Whether it still lives.
#[cfg(target_os = "linux")]
fn die_with(parent: i32) -> bool {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    // The parent may have died before it was asked for: then nobody sends anything.
    set_parent_process_death_signal(Some(Signal::TERM)).is_ok() && Pid::as_raw(getppid()) == parent
}

/// Other systems have no such request.
#[cfg(not(target_os = "linux"))]
fn die_with(_: i32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_is_looked_up_as_a_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, mode) in [("runs", 0o755), ("text", 0o644)] {
            fs::write(path(name), "#!/bin/sh\n").unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let search = std::env::join_paths(["/nowhere".into(), folder.path().to_owned()]).unwrap();
        let look = |name: &str| look_up(name.as_ref(), Some(&search));
        assert_eq!(look("runs"), Ok(path("runs")));
        assert_eq!(look("text").unwrap_err().code(), NOT_EXECUTABLE);
        assert_eq!(look("none").unwrap_err().code(), NOT_FOUND);
        assert_eq!(look("").unwrap_err().code(), NOT_FOUND);
        assert_eq!(look("/nowhere/at/all").unwrap_err().code(), NOT_FOUND);
        assert_eq!(look("/").unwrap_err().code(), NOT_EXECUTABLE);
        assert_eq!(look_up(path("runs").as_os_str(), None), Ok(path("runs")));
    }
}
