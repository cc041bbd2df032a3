//! Server-sent events, read as they come in (HTML Living Standard, "Server-sent events"): of each event its data, and
//! by what and when to resume after the stream broke.

use std::mem::take;
use std::time::Duration;

/// The longest that a server may have us wait before we come again.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A line or an event that is larger than may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooLarge;

/// What was read of one stream, over all of its connections.
#[derive(Debug)]
pub(super) struct Events {
    most: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    returned: bool,
    first: bool,
    data: Vec<u8>,
    has_data: bool,
    ignored: bool,
    id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl Events {
    /// Nothing yet. A line, and the data of an event, may have so many bytes at the most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            line: Vec::new(),
            returned: false,
            first: true,
            data: Vec::new(),
            has_data: false,
            ignored: false,
            id: None,
            last_id: None,
            retry: None,
        }
    }

    /// The id of the last event that came in whole, by which the stream can be resumed.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long the server wants us to wait before we come again.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// A new connection: what was begun on the last one is forgotten.
    pub(super) fn reconnected(&mut self) {
        let (last_id, retry) = (self.last_id.take(), self.retry);
        *self = Self {
            id: last_id.clone(),
            last_id,
            retry,
            ..Self::new(self.most)
        };
    }

    /// Takes what came in, and gives the data of each event that it completes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let (mut whole, mut rest) = (Vec::new(), bytes);
        while let Some(&first) = rest.first() {
            if take(&mut self.returned) && first == b'\n' {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            if self.line.len() + part.len() > self.most {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(part);
            if let Some((&ending, after)) = after.split_first() {
                self.returned = ending == b'\r';
                whole.extend(self.end_of_line()?);
                rest = after;
            } else {
                rest = after;
            }
        }
        Ok(whole)
    }

    fn end_of_line(&mut self) -> Result<Option<Vec<u8>>, TooLarge> {
        let line = take(&mut self.line);
        let mut line = line.as_slice();
        if take(&mut self.first) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.end_of_event());
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.data.len() + value.len() >= self.most {
                    return Err(TooLarge);
                }
                if take(&mut self.has_data) {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => self.ignored = !matches!(value, b"" | b"message"),
            b"id" if !value.contains(&0) => self.id = String::from_utf8(value.to_vec()).ok(),
            b"retry" => {
                let digits = value.iter().all(u8::is_ascii_digit).then_some(value);
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                if let Some(Ok(millis)) = digits.map(str::parse) {
                    self.retry = Some(Duration::from_millis(millis).min(LONGEST_WAIT));
                }
            }
            // Comments, and fields that nobody knows.
            _ => {}
        }
        Ok(None)
    }

    fn end_of_event(&mut self) -> Option<Vec<u8>> {
        // With an empty id a server takes back the way to resume.
        self.last_id = self.id.clone().filter(|id| !id.is_empty());
        let ignored = take(&mut self.ignored);
        self.has_data = false;
        let data = take(&mut self.data);
        (!ignored && !data.is_empty()).then_some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &mut Events, text: &str) -> Vec<String> {
        let data = events.feed(text.as_bytes()).unwrap();
        data.into_iter()
            .map(|data| String::from_utf8(data).unwrap())
            .collect()
    }

    #[test]
    fn an_event_is_its_data_however_it_is_cut_and_its_lines_end() {
        let stream = "\u{feff}: hello\r\nevent: message\rid: 7\ndata: {\"a\":\r\ndata:  1}\n\ndata:x\n\n";
        for size in 1..stream.len() {
            let mut events = Events::new(100);
            let chunks = stream.as_bytes().chunks(size);
            let data: Vec<_> = chunks.flat_map(|chunk| events.feed(chunk).unwrap()).collect();
            assert_eq!(data, [b"{\"a\":\n 1}".to_vec(), b"x".to_vec()], "{size}");
            assert_eq!(events.last_id(), Some("7"));
        }
    }

    #[test]
    fn only_an_event_that_came_in_whole_moves_the_place_to_resume_at() {
        let mut events = Events::new(100);
        assert!(
            read(&mut events, "id: 1\nretry: 250\ndata:\n\n").is_empty(),
            "priming"
        );
        assert_eq!(events.last_id(), Some("1"));
        assert_eq!(events.retry(), Some(Duration::from_millis(250)));
        assert!(read(&mut events, "id: 2\ndata: half").is_empty());
        assert_eq!(events.last_id(), Some("1"));
        events.reconnected();
        assert_eq!(read(&mut events, "data: b\n\n"), ["b"]);
        assert_eq!(events.last_id(), Some("1"));
        assert_eq!(events.retry(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn what_is_not_a_message_is_passed_over() {
        let mut events = Events::new(100);
        assert!(
            read(
                &mut events,
                "event: endpoint\ndata: /x\n\n:\n\nretry: soon\nnonsense\n\n"
            )
            .is_empty()
        );
        assert_eq!(events.retry(), None);
        assert_eq!(read(&mut events, "data: a\n\n"), ["a"]);
        assert!(read(&mut events, "retry: 99999999999\n\n").is_empty());
        assert_eq!(events.retry(), Some(LONGEST_WAIT));
    }

    #[test]
    fn neither_a_line_nor_an_event_grows_without_bound() {
        let mut events = Events::new(10);
        assert_eq!(events.feed(b"data: 0123456789"), Err(TooLarge));
        let mut events = Events::new(10);
        assert!(events.feed(b"data:1234\ndata:1234\n").is_ok());
        assert_eq!(events.feed(b"data:1234\n"), Err(TooLarge));
    }
}
