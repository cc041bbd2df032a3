//! Streams of signals: those that are polled, and those that should have said something by now.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::entropy::draw;
use crate::signal::{Batch, Outcomes, Stream, Streams, Told, Transmitter};

use super::error::{BrokerError, chain};
use super::signals::Taken;
use super::{Broker, measure};

/// The longest wait after polls that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often silence is listened for.
const LISTEN: Duration = Duration::from_secs(10);

impl Broker {
    /// Fetches what a transmitter has to say until told to stop. What was taken is acknowledged once it is
    /// written down, so a transmitter that several replicas poll tells each of them no more than it has to.
    pub async fn poll(
        self: Arc<Self>,
        stream: Arc<Stream>,
        transmitter: Arc<dyn Transmitter>,
        stop: CancellationToken,
    ) {
        let (mut outcomes, mut failures) = (Outcomes::default(), 0);
        loop {
            let began = Instant::now();
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                polled = transmitter.poll(&outcomes) => polled,
            };
            let pause = match polled {
                Ok(batch) => {
                    let more = batch.more;
                    let (whole, news);
                    (outcomes, whole, news) = self.take_all(&stream, batch).await;
                    failures = if whole { 0 } else { failures + 1 };
                    // A transmitter that sends again what it was told of is not asked the faster for it.
                    match (failures, more || news) {
                        (0, true) => Duration::ZERO,
                        (0, false) => transmitter.interval().saturating_sub(began.elapsed()),
                        _ => self.after_failures(failures, transmitter.interval()),
                    }
                }
                Err(error) => {
                    failures += 1;
                    measure::poll_failed(stream.name());
                    tracing::warn!(stream = %stream.name(), %error, failures, "signals could not be fetched");
                    self.after_failures(failures, transmitter.interval())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes the tokens of a batch. Of one that cannot be taken now nothing is said, so it comes again.
    /// Says, too, whether all was answered, and whether anything was taken for the first time.
    async fn take_all(&self, stream: &Stream, batch: Batch) -> (Outcomes, bool, bool) {
        let (mut outcomes, mut whole, mut news) = (Outcomes::default(), true, false);
        for (jti, set) in batch.sets {
            match self.signal(stream, &set, Some(&jti), None).await {
                Ok(taken) => {
                    news |= taken != Taken::Repeated;
                    outcomes.taken.push(jti);
                }
                Err(BrokerError::Signal(error)) if error.code().is_some() => {
                    if let Some(told) = Told::of(&error) {
                        outcomes.refused.insert(jti, told);
                    }
                }
                Err(error) => {
                    whole = false;
                    tracing::warn!(stream = %stream.name(), error = %chain(&error), "a signal could not be taken");
                }
            }
        }
        (outcomes, whole, news)
    }

    /// Longer with each failure, and never for all replicas at once.
    fn after_failures(&self, failures: u32, interval: Duration) -> Duration {
        let least = interval.max(Duration::from_secs(1));
        let whole = least.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let [spread] = draw(&*self.parts.entropy).unwrap_or_default();
        let whole = whole.min(LONGEST_PAUSE.max(least));
        whole - whole.mul_f64(0.25) * u32::from(spread) / 255
    }

    /// Says so when a stream is silent for longer than it promised, until told to stop.
    pub async fn listen_for_silence(self: Arc<Self>, streams: Arc<Streams>, stop: CancellationToken) {
        let expected: Vec<_> = streams
            .iter()
            .filter(|stream| stream.is_expected_to_speak())
            .collect();
        let mut silent = vec![false; expected.len()];
        while !expected.is_empty() {
            let now = self.now();
            for (stream, was) in expected.iter().zip(&mut silent) {
                let silence = stream.silent_for(now);
                measure::silent(stream.name(), silence.is_some());
                match silence {
                    Some(silence) if !*was => {
                        let seconds = silence.as_secs();
                        tracing::warn!(stream = %stream.name(), seconds, "a stream of signals is silent");
                    }
                    None if *was => {
                        tracing::info!(stream = %stream.name(), "a stream of signals is heard again")
                    }
                    _ => {}
                }
                *was = silence.is_some();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LISTEN) => {}
            }
        }
    }
}
