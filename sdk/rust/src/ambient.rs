//! What comes from outside: the environment, the time of day, and randomness. Read here and nowhere else.

use std::time::{Duration, SystemTime};

use crate::error::{Error, Problem};

/// A variable of the environment, where it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    (!value.is_empty()).then_some(value)
}

/// The time of day.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the system's time is read"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A key that nobody else has, for requests that may come twice.
pub(crate) fn idempotency_key() -> Result<String, Error> {
    let bytes: [u8; 16] = random().ok_or_else(|| {
        Error::Refused(Problem::here(
            "no-randomness",
            "the system gives no random numbers",
            "",
        ))
    })?;
    Ok(format!("rs-{:032x}", u128::from_be_bytes(bytes)))
}

/// A part of `whole` between none and all of it.
pub(crate) fn jitter(whole: Duration) -> Duration {
    // Without randomness the pauses are all the same, which is no reason to fail.
    let drawn = random::<2>().map_or(u16::MAX / 2, u16::from_be_bytes);
    whole.mul_f64(f64::from(drawn) / f64::from(u16::MAX))
}
