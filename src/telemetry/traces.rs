//! Traces: the spans of requests that are sampled, on their way to a collector.
//!
//! A request is one span, with those of what is done inside below it. Only what stands in a table here becomes an
//! attribute, so nothing that is secret or personal can. Finished spans wait in a bounded queue for [`super::otlp`]; where it is full
//! they are dropped and counted. Nobody ever waits for it.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;
use crate::entropy::{Entropy, Stock};
use crate::model::time::Timestamp;
use crate::trace::{self, Here, Traceparent};

/// Spans that were dropped, by reason.
pub const DROPPED: &str = "dayfly_trace_spans_dropped_total";

/// How many finished spans may wait.
const QUEUE: usize = 4096;
/// The longest text of an attribute, in bytes.
const LONGEST: usize = 256;
/// The most attributes of a span.
const MOST_ATTRIBUTES: usize = 24;
/// How many sampled requests may come at once after a calm time.
const BURST: f64 = 20.0;

/// The name of the span of a request, and where it is made.
const REQUEST: (&str, &str) = ("request", concat!(env!("CARGO_CRATE_NAME"), "::http::envelope"));

/// What of fields becomes an attribute, and how it is called there (OpenTelemetry semantic conventions, where they
/// have a name for it).
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("agent", &["gen_ai.agent.id", "gen_ai.agent.name"]),
    ("call", &["dayfly.call"]),
    ("decision", &["dayfly.decision.id"]),
    ("id", &["dayfly.request.id"]),
    ("lease", &["dayfly.lease.id"]),
    ("method", &["http.request.method"]),
    ("provider", &["dayfly.provider"]),
    ("result", &["dayfly.result"]),
    ("route", &["http.route"]),
    ("status", &["http.response.status_code"]),
    ("task", &["dayfly.task.id"]),
    ("tool", &["gen_ai.tool.name"]),
    ("verb", &["gen_ai.operation.name"]),
];

/// A value of an attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
}

/// A span that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// Its trace.
    pub trace: u128,
    /// Itself.
    pub span: u64,
    /// The span above it; 0 where there is none.
    pub parent: u64,
    /// The `tracestate` of its trace.
    pub state: Option<Arc<str>>,
    /// What it is called.
    pub name: String,
    /// Whether somebody else asked for it: a request, not a part of one.
    pub of_request: bool,
    /// When it began, in nanoseconds since 1970.
    pub from: u64,
    /// When it ended.
    pub until: u64,
    /// What is to be known about it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// A span of a sampled request, under way.
struct Open {
    at: Traceparent,
    parent: u64,
    state: Option<Arc<str>>,
    name: &'static str,
    of_request: bool,
    /// When its request began, by both clocks: one for people, one that goes evenly.
    request: (Timestamp, Instant),
    began: Instant,
    attributes: Vec<(&'static str, Value)>,
}

impl Open {
    fn finish(self) -> Finished {
        let (day, even) = self.request;
        let nanos = |at: Instant| {
            let since = at.saturating_duration_since(even);
            let day = Duration::from_millis(day.as_millis());
            u64::try_from((day + since).as_nanos()).unwrap_or(u64::MAX)
        };
        let said = |name: &str| {
            let mut attributes = self.attributes.iter();
            attributes.find_map(|(called, value)| match value {
                Value::Text(text) if *called == name => Some(text.as_str()),
                _ => None,
            })
        };
        let name = match (
            said("http.request.method"),
            said("http.route"),
            said("dayfly.call"),
        ) {
            (Some(method), Some(route), _) => format!("{method} {route}"),
            (_, _, Some(call)) => format!("{} {call}", self.name),
            _ => self.name.to_owned(),
        };
        Finished {
            trace: self.at.trace,
            span: self.at.span,
            parent: self.parent,
            state: self.state,
            name,
            of_request: self.of_request,
            from: nanos(self.began),
            until: nanos(Instant::now()),
            attributes: self.attributes,
        }
    }
}

/// Which requests are traced: a part of all of them, whatever callers wish.
struct Sampler {
    /// Between 0 and 1.
    part: f64,
    /// How many may be now of those whose callers have a word about it, and of the others. Each request adds `part` on
    /// its side, and each that is traced takes one: whatever the ones wish costs the others nothing.
    credit: Mutex<[f64; 2]>,
}

impl Sampler {
    fn new(part: f64) -> Self {
        let credit = Mutex::new([1.0; 2]);
        Self { part, credit }
    }

    /// Whether a request is traced. One whose caller traces it is, one whose caller does not is not, and of those
    /// without a word of it a part, drawn; and of all together never more than the part, but for a few at once.
    fn takes(&self, parent: Option<Traceparent>, drawn: u32) -> bool {
        let wanted = match parent {
            Some(parent) => parent.sampled,
            None => f64::from(drawn) < self.part * (f64::from(u32::MAX) + 1.0),
        };
        let mut credits = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let [wishes, drawings] = &mut *credits;
        let credit = if parent.is_some() { wishes } else { drawings };
        // At the end of the range rounding must not cost a trace.
        *credit = (*credit + self.part).min(BURST);
        let taken = wanted && *credit >= 0.999;
        if taken {
            *credit -= 1.0;
        }
        taken
    }
}

/// Listens to spans.
pub struct Traces {
    sampler: Sampler,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    ids: Stock,
    queue: mpsc::Sender<Finished>,
    dropped: Counter,
}

impl Traces {
    /// Takes this part of all requests, and where their spans come out.
    pub fn new(
        part: f64,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> (Self, mpsc::Receiver<Finished>) {
        let (queue, finished) = mpsc::channel(QUEUE);
        trace::look_up_by(here);
        let traces = Self {
            sampler: Sampler::new(part),
            clock,
            entropy,
            ids: Stock::default(),
            queue,
            dropped: dropped("queue_full"),
        };
        (traces, finished)
    }

    /// What it listens to.
    pub(super) fn hears(event: &Metadata<'_>) -> bool {
        event.target() == trace::TARGET || (event.name(), event.target()) == REQUEST
    }

    fn open(&self, name: &'static str, said: Said, above: Option<Above>) -> Option<Open> {
        let began = Instant::now();
        let (place, parent, state, request) = match above {
            Some(above) => (above.at, above.at.span, above.state, above.request),
            None => {
                let came = trace::came();
                let parent = came.as_ref().map(|came| came.parent);
                let drawn = u32::from_be_bytes(self.ids.draw(&*self.entropy).ok()?);
                if name != REQUEST.0 || !self.sampler.takes(parent, drawn) {
                    return None;
                }
                let fresh = u128::from_be_bytes(self.ids.draw(&*self.entropy).ok()?).max(1);
                let place = Traceparent {
                    trace: parent.map_or(fresh, |parent| parent.trace),
                    span: 0,
                    sampled: true,
                };
                let state = came.and_then(|came| came.state);
                (
                    place,
                    parent.map_or(0, |parent| parent.span),
                    state,
                    (self.clock.now(), began),
                )
            }
        };
        let span = u64::from_be_bytes(self.ids.draw(&*self.entropy).ok()?).max(1);
        Some(Open {
            at: Traceparent { span, ..place },
            parent,
            state,
            name,
            of_request: name == REQUEST.0,
            request,
            began,
            attributes: said.attributes,
        })
    }
}

/// What a span takes over from the one above it.
struct Above {
    at: Traceparent,
    state: Option<Arc<str>>,
    request: (Timestamp, Instant),
}

/// What is counted when spans are dropped.
pub(super) fn dropped(reason: &'static str) -> Counter {
    metrics::counter!(DROPPED, "reason" => reason)
}

impl<S> Layer<S> for Traces
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let above = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Open>().map(|open| Above {
                at: open.at,
                state: open.state.clone(),
                request: open.request,
            })
        });
        let mut said = Said::default();
        attributes.record(&mut said);
        if let Some(open) = self.open(span.name(), said, above) {
            span.extensions_mut().insert(open);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            let mut said = Said::default();
            values.record(&mut said);
            note(open, said);
        }
    }

    /// What is noted anywhere in a request is noted about the request.
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let scope = context.event_scope(event).into_iter().flatten();
        for span in scope {
            if let Some(open) = span
                .extensions_mut()
                .get_mut::<Open>()
                .filter(|open| open.of_request)
            {
                let mut said = Said::default();
                event.record(&mut said);
                note(open, said);
            }
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let open = context
            .span(&id)
            .and_then(|span| span.extensions_mut().remove::<Open>());
        if let Some(open) = open
            && self.queue.try_send(open.finish()).is_err()
        {
            self.dropped.increment(1);
        }
    }
}

/// The last word about each counts.
fn note(open: &mut Open, said: Said) {
    for (name, value) in said.attributes {
        let room = open.attributes.len() < MOST_ATTRIBUTES;
        match open.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None if room => open.attributes.push((name, value)),
            None => {}
        }
    }
}

/// Where the span under way stands.
fn here() -> Option<Here> {
    let open = tracing::Span::current().with_subscriber(|(id, dispatch)| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let mut scope = registry.span(id)?.scope();
        scope.find_map(|span| {
            let extensions = span.extensions();
            extensions.get::<Open>().map(|open| Here {
                parent: open.at,
                state: open.state.clone(),
            })
        })
    });
    open.flatten()
}

/// Reads fields.
#[derive(Default)]
struct Said {
    attributes: Vec<(&'static str, Value)>,
}

impl Said {
    fn take(&mut self, field: &Field, value: Value) {
        let known = ATTRIBUTES.iter().find(|(name, _)| *name == field.name());
        for name in known.into_iter().flat_map(|(_, names)| names.iter()) {
            self.attributes.push((*name, value.clone()));
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, Value::Text(cropped(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, Value::Number(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if ATTRIBUTES.iter().any(|(name, _)| *name == field.name()) {
            let mut text = String::new();
            // Writing to a text does not fail.
            let _written = write!(text, "{value:?}");
            self.take(field, Value::Text(cropped(&text)));
        }
    }
}

fn cropped(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(sampled: bool) -> Option<Traceparent> {
        Some(Traceparent {
            trace: 1,
            span: 1,
            sampled,
        })
    }

    #[test]
    fn all_are_taken_at_one_and_none_at_nought() {
        let (all, none) = (Sampler::new(1.0), Sampler::new(0.0));
        for drawn in [0, 1, u32::MAX] {
            for parent in [None, caller(true)] {
                assert!(all.takes(parent, drawn));
            }
            assert!(!all.takes(caller(false), drawn));
        }
        none.credit.lock().map(|mut credit| *credit = [0.0; 2]).unwrap();
        assert!(!none.takes(None, 0) && !none.takes(caller(true), 0));
    }

    #[test]
    fn no_caller_gets_more_than_the_part_but_for_a_few_at_once() {
        let sampler = Sampler::new(0.01);
        let calm = (0..100_000).filter(|_| sampler.takes(caller(false), 0)).count();
        assert_eq!(calm, 0);
        let taken = (0..10_000).filter(|_| sampler.takes(caller(true), 0)).count();
        assert!((100..=121).contains(&taken), "{taken}");
    }

    #[test]
    fn what_callers_wish_costs_those_nothing_who_wish_for_nothing() {
        let sampler = Sampler::new(0.01);
        let mut taken = 0;
        for number in 0_u32..10_000 {
            for _ in 0..10 {
                sampler.takes(caller(true), 0);
            }
            // Evenly drawn.
            let drawn = (number % 100) * (u32::MAX / 100);
            taken += u32::from(sampler.takes(None, drawn));
        }
        assert!((95..=100).contains(&taken), "{taken} of 100 that were drawn");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cropped(&"ä".repeat(200)).len(), LONGEST);
        assert_eq!(cropped(&format!("x{}", "ä".repeat(200))).len(), LONGEST - 1);
        assert_eq!(cropped("crm"), "crm");
    }
}
