//! What the command line prints. Data goes to standard output, notes to standard error; colour only
//! where a person is looking. A reader that went away is no error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How a piece of text is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// As it is.
    Plain,
    /// A heading or a name.
    Strong,
    /// Went well.
    Good,
    /// Went wrong, or was refused.
    Bad,
    /// Worth a look.
    Warn,
    /// Less important.
    Faint,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Strong => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Faint => "2",
        }
    }
}

/// Standard output and standard error, as this command uses them.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    json: bool,
    colour: bool,
}

impl Terminal {
    /// For people, or with `json` for programs.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            colour: !json && io::stdout().is_terminal(),
        }
    }

    /// Whether a program reads the output.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person reads the notes.
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// The text in its tone, where a person is looking.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour && tone != Tone::Plain {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    /// One line of data.
    pub fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        forgive(writeln!(io::stdout().lock(), "{}", text.as_ref()))
    }

    /// One value as JSON, on one line.
    pub fn value(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(text)
    }

    /// A note to the person, beside the data.
    pub fn note(&self, text: impl AsRef<str>) -> io::Result<()> {
        forgive(writeln!(io::stderr().lock(), "{}", text.as_ref()))
    }

    /// A note that takes the place of the one before it, for whoever watches; an empty one leaves nothing. On a
    /// screen that is narrower, the one before stays visible in part.
    pub fn progress(&self, text: &str) -> io::Result<()> {
        let mut screen = io::stderr().lock();
        forgive(write!(screen, "\r\x1b[2K{text}").and_then(|()| screen.flush()))
    }

    /// Rows under headings, each column as wide as its widest cell.
    pub fn table(&self, headings: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let width = |column: usize| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells
                .chain(headings.get(column).map(|heading| heading.len()))
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let pad = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(self.paint(Tone::Faint, &pad(&mut headings.iter().copied())))?;
        for row in rows {
            self.line(pad(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

fn forgive(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
