//! Standard input and output as MCP has them, one message a line, and the notes on standard error.
//!
//! Each has a thread of its own, since a read of standard input cannot be called off: the process ends while it
//! waits there, which a task of the runtime would hold up. Neither can a write to somebody who does not read.

use std::io::{self, BufRead, Write};
use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::message::{Id, LARGEST};
use crate::cli::terminal::Terminal;

/// How many messages wait for a client that does not read. Whoever has another one waits too.
const WAITING: usize = 16;
/// How many notes wait for a person. A server causes them, and nobody may be reading: what is more is left out.
const NOTES: usize = 64;

/// The longest id that is looked for in a message that is too large.
const LONGEST_ID: usize = 300;

/// What came on one line.
#[derive(PartialEq, Debug)]
pub(super) enum Line {
    /// The line.
    Whole(Vec<u8>),
    /// More than a message may have; if it is a request, its id.
    TooLarge(Option<Id>),
}

/// The lines of standard input, until it is closed.
pub(super) fn lines() -> io::Result<mpsc::Receiver<Line>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            read(io::stdin().lock(), LARGEST, |line| {
                sender.blocking_send(line).is_ok()
            })
        })?;
    Ok(receiver)
}

/// Where to put what goes to standard output, and what is ready when all of it is written and nothing more can come.
pub(super) fn output() -> io::Result<(mpsc::Sender<String>, oneshot::Receiver<()>)> {
    writer("stdout", WAITING, |mut line| {
        line.push('\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(line.as_bytes())?;
        stdout.flush()
    })
}

/// What a person is told beside the messages. Never waited for.
#[derive(Clone)]
pub(super) struct Notes {
    sender: mpsc::Sender<String>,
    left_out: Arc<AtomicUsize>,
}

impl Notes {
    /// Tells it, unless too much waits to be read already.
    pub(super) fn tell(&self, text: &str) {
        if self.sender.try_send(format!("dayfly: {text}")).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where to put notes, and what is ready when all of them are written and nothing more can come.
pub(super) fn notes(terminal: Terminal) -> io::Result<(Notes, oneshot::Receiver<()>)> {
    let left_out = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&left_out);
    let (sender, done) = writer("stderr", NOTES, move |line| {
        terminal.note(line)?;
        match count.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            more => terminal.note(format!("dayfly: and {more} more notes that nobody read in time")),
        }
    })?;
    Ok((Notes { sender, left_out }, done))
}

/// A thread that writes what is sent to it.
fn writer(
    name: &str,
    waiting: usize,
    mut write: impl FnMut(String) -> io::Result<()> + Send + 'static,
) -> io::Result<(mpsc::Sender<String>, oneshot::Receiver<()>)> {
    let (sender, mut receiver) = mpsc::channel::<String>(waiting);
    let (written, done) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        while let Some(line) = receiver.blocking_recv() {
            // Who went away reads nothing more; whoever sends sees the channel closed.
            if write(line).is_err() {
                break;
            }
        }
        drop(receiver);
        let _ = written.send(());
    })?;
    Ok((sender, done))
}

/// Reads lines of at most `most` bytes until there are no more, or nobody takes them.
fn read(mut input: impl BufRead, most: usize, mut take_line: impl FnMut(Line) -> bool) {
    let (mut line, mut finder) = (Vec::new(), None::<Finder>);
    loop {
        let bytes = match input.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or(bytes);
        if finder.is_none() && line.len() + part.len() > most {
            let mut begun = Finder::default();
            begun.feed(&take(&mut line));
            finder = Some(begun);
        }
        match &mut finder {
            Some(finder) => finder.feed(part),
            None => line.extend_from_slice(part),
        }
        let read = part.len() + usize::from(end.is_some());
        input.consume(read);
        if end.is_some() && !finish(&mut line, &mut finder, &mut take_line) {
            return;
        }
    }
    finish(&mut line, &mut finder, &mut take_line);
}

fn finish(line: &mut Vec<u8>, finder: &mut Option<Finder>, take_line: &mut impl FnMut(Line) -> bool) -> bool {
    let line = take(line);
    match finder.take() {
        Some(finder) => take_line(Line::TooLarge(finder.found())),
        None if line.iter().all(u8::is_ascii_whitespace) => true,
        None => take_line(Line::Whole(line)),
    }
}

/// Looks for the `id` of a message without keeping the message, so that a request that is too large is answered.
#[derive(Default)]
struct Finder {
    depth: usize,
    in_text: bool,
    escaped: bool,
    part: Vec<u8>,
    key: Vec<u8>,
    id: Option<Vec<u8>>,
}

impl Finder {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.byte(byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            self.keep(byte);
            return;
        }
        match byte {
            b'"' => {
                self.in_text = true;
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.part.clear();
            }
            b'}' | b']' => {
                self.end_of_member();
                self.depth = self.depth.saturating_sub(1);
            }
            b',' => self.end_of_member(),
            b':' if self.depth == 1 => self.key = take(&mut self.part),
            _ if byte.is_ascii_whitespace() => {}
            _ => self.keep(byte),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.part.len() < LONGEST_ID {
            self.part.push(byte);
        }
    }

    fn end_of_member(&mut self) {
        if self.depth == 1 {
            let value = take(&mut self.part);
            if take(&mut self.key) == b"\"id\"" {
                self.id = Some(value);
            }
        }
    }

    fn found(self) -> Option<Id> {
        Id::read(std::str::from_utf8(&self.id?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn all(text: &str, most: usize) -> Vec<Line> {
        let mut found = Vec::new();
        read(BufReader::with_capacity(3, text.as_bytes()), most, |line| {
            found.push(line);
            true
        });
        found
    }

    #[test]
    fn a_message_a_line_and_the_last_one_may_lack_its_end() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        assert_eq!(
            all("{1}\n\r\n\n{22}\n{333}", 5),
            [whole("{1}"), whole("{22}"), whole("{333}")]
        );
        assert!(all("", 5).is_empty());
    }

    #[test]
    fn a_request_that_is_too_large_is_known_by_its_id_and_the_next_line_is_read() {
        let padding = "x".repeat(50);
        for (message, id) in [
            (
                format!(r#"{{"id":7,"params":{{"id":8,"a":"{padding}"}}}}"#),
                Some(Id::Number(7.into())),
            ),
            (
                format!(r#"{{"params":["{padding}",{{"id":8}}], "id" : "a\"b" }}"#),
                Some(Id::Text("a\"b".to_owned())),
            ),
            (
                format!(r#"{{"params":"\",\"id\":9,\"{padding}","id":7.5}}"#),
                Id::read("7.5"),
            ),
            (format!(r#"{{"method":"{padding}"}}"#), None),
            (format!(r#"[{{"id":1}},"{padding}"]"#), None),
            (format!("}}]{padding}"), None),
        ] {
            let lines = all(&format!("{message}\n{{}}\n"), 20);
            assert_eq!(
                lines,
                [Line::TooLarge(id), Line::Whole(b"{}".to_vec())],
                "{message}"
            );
        }
    }
}
