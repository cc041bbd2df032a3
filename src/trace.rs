//! Floor 1, where a request stands in the trace of whoever made it: W3C Trace Context, in and out.
//!
//! Spans are made with `tracing`, under [`TARGET`]; where nobody listens to that, none are made. Who listens
//! ([`crate::telemetry::traces`]) also says where the span under way stands, so that calls to others can carry it on.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

/// What spans of the inside of a request, and what is noted on them, go by. Logs do not show them.
pub const TARGET: &str = "dayfly_trace";

/// The header that says where a request stands.
pub const TRACEPARENT: &str = "traceparent";
/// The header that goes with it, for the systems on the way.
pub const TRACESTATE: &str = "tracestate";

/// The longest `tracestate` that is carried on, in bytes: what all have to carry (W3C Trace Context §3.3.1.5).
const LONGEST_STATE: usize = 512;
/// The most members that it has.
const MOST_MEMBERS: usize = 32;

/// A place in a trace (W3C Trace Context §3.2). Neither id is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traceparent {
    /// The trace.
    pub trace: u128,
    /// The span in it.
    pub span: u64,
    /// Whether whoever made the span may have recorded it.
    pub sampled: bool,
}

/// No `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no traceparent of W3C Trace Context")]
pub struct InvalidTraceparent;

impl FromStr for Traceparent {
    type Err = InvalidTraceparent;

    /// Version `00`, strictly; of later ones what they have in common with it, and never `ff`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(5, '-');
        let mut hex = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length);
            part.filter(|part| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                .ok_or(InvalidTraceparent)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let more = parts.next().is_some();
        if version == "ff" || (version == "00" && more) {
            return Err(InvalidTraceparent);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| InvalidTraceparent)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| InvalidTraceparent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceparent)?;
        match trace == 0 || span == 0 {
            true => Err(InvalidTraceparent),
            false => Ok(Self {
                trace,
                span,
                sampled: flags & 1 == 1,
            }),
        }
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

/// Whether this is carried on: printable, not long, and of few members. What is not is left out, which the
/// standard allows, and changes nothing about the trace.
pub fn may_carry(state: &str) -> bool {
    let printable = state.bytes().all(|b| (b' '..=b'~').contains(&b));
    let member = |member: &str| member.trim().is_empty() || member.contains('=');
    !state.trim().is_empty()
        && state.len() <= LONGEST_STATE
        && printable
        && state.split(',').count() <= MOST_MEMBERS
        && state.split(',').all(member)
}

/// Where work stands in a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Here {
    /// The place.
    pub parent: Traceparent,
    /// The `tracestate` that came with it.
    pub state: Option<Arc<str>>,
}

thread_local! {
    static CAME: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Makes the span of a request that came with this, and says so to whoever listens.
pub(crate) fn begin<T>(came: Option<&Here>, make: impl FnOnce() -> T) -> T {
    CAME.with(|cell| cell.replace(came.cloned()));
    let made = make();
    CAME.with(|cell| cell.replace(None));
    made
}

/// What the request came with whose span is being made.
pub(crate) fn came() -> Option<Here> {
    CAME.with(|cell| cell.borrow().clone())
}

type Lookup = fn() -> Option<Here>;

static LOOKUP: OnceLock<Lookup> = OnceLock::new();

/// From now on, this says where the work under way stands. The first one holds.
pub(crate) fn look_up_by(lookup: Lookup) {
    let _first = LOOKUP.set(lookup);
}

/// Whether anybody listens to spans. Where nobody does, there is no need to ask.
pub(crate) fn is_heard() -> bool {
    LOOKUP.get().is_some()
}

/// Where the work under way stands, if it is traced.
pub fn here() -> Option<Here> {
    LOOKUP.get().and_then(|lookup| lookup())
}

/// The headers that carry it on: none where nothing is traced.
pub fn headers() -> impl Iterator<Item = (&'static str, String)> {
    let here = here();
    let parent = here.as_ref().map(|here| (TRACEPARENT, here.parent.to_string()));
    let state = here.and_then(|here| here.state);
    let state = state.map(|state| (TRACESTATE, state.to_string()));
    parent.into_iter().chain(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn reads_what_it_writes() {
        let read: Traceparent = EXAMPLE.parse().unwrap();
        assert_eq!(read.span, 0xb7ad_6b71_6920_3331);
        assert!(read.sampled);
        assert_eq!(read.to_string(), EXAMPLE);
        let silent = EXAMPLE.replace("-01", "-00").parse::<Traceparent>().unwrap();
        assert!(!silent.sampled);
    }

    #[test]
    fn a_later_version_says_more_behind_and_is_read_as_far_as_it_is_known() {
        for later in ["01", "cc"] {
            let text = EXAMPLE.replacen("00", later, 1);
            assert_eq!(text.parse::<Traceparent>(), EXAMPLE.parse());
            assert_eq!(format!("{text}-what").parse::<Traceparent>(), EXAMPLE.parse());
        }
    }

    #[test]
    fn whatever_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replacen("00", "ff", 1),
            &format!("{EXAMPLE}-what"),
            &format!("{EXAMPLE}-"),
            &format!(" {EXAMPLE}"),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("-01", "-1"),
            &EXAMPLE.replace("b7ad", "+7ad"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert!(text.parse::<Traceparent>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_state_is_carried_unless_it_is_long_strange_or_has_many_members() {
        assert!(may_carry("vendor=a1,other@tenant=b 2"));
        assert!(may_carry(&format!("a={}", "x".repeat(510))));
        for state in ["", "  ", "word", "a=1,word", "a=\u{7f}", "a=1\r\nb: 2", "ä=1"] {
            assert!(!may_carry(state), "{state:?}");
        }
        assert!(!may_carry(&format!("a={}", "x".repeat(511))));
        assert!(!may_carry(&vec!["a=1"; 33].join(",")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            if let Ok(read) = text.parse::<Traceparent>() {
                prop_assert!(read.trace != 0 && read.span != 0);
            }
        }
    }
}
