//! Floor 1: randomness, as a value that is handed in.

use std::sync::{Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

/// A source of random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the buffer, or says that no randomness can be had. Nothing may go on without it.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy>;
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoEntropy;

/// A fixed number of random bytes.
pub fn draw<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// Random bytes drawn ahead, each given out once. For names and never for secrets: they lie in memory
/// until they are used. A system call for each id would cost more than all else about it.
#[derive(Default)]
pub struct Stock(Mutex<Vec<u8>>);

impl Stock {
    /// How many bytes are drawn at a time: for a hundred ids.
    const BYTES: usize = 1000;

    /// A fixed number of random bytes, at most as many as are drawn at a time.
    pub fn draw<const N: usize>(&self, entropy: &dyn Entropy) -> Result<[u8; N], NoEntropy> {
        let mut unused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() < N {
            let mut fresh = vec![0; Self::BYTES];
            entropy.fill(&mut fresh)?;
            *unused = fresh;
        }
        let (rest, drawn) = unused.split_last_chunk().ok_or(NoEntropy)?;
        let (left, drawn) = (rest.len(), *drawn);
        unused.truncate(left);
        Ok(drawn)
    }
}

/// The operating system's generator.
#[derive(Debug, Clone)]
pub struct OsEntropy(SystemRandom);

impl OsEntropy {
    /// The operating system's generator.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where randomness comes from"
    )]
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }

    /// The same generator in the form that ring's keys ask for. ring takes no other, so keys and
    /// ECDSA signatures cannot be drawn from an [`Entropy`] of our own.
    pub fn ring(&self) -> &SystemRandom {
        &self.0
    }
}

impl Default for OsEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy for OsEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        self.0.fill(buffer).map_err(|_| NoEntropy)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn nothing_is_drawn_twice() {
        let (stock, entropy) = (Stock::default(), OsEntropy::new());
        let drawn: BTreeSet<[u8; 10]> = (0..1000).map(|_| stock.draw(&entropy).unwrap()).collect();
        assert_eq!(drawn.len(), 1000);
    }

    #[test]
    fn without_randomness_nothing_is_drawn() {
        #[derive(Default)]
        struct Broken(AtomicBool);
        impl Entropy for Broken {
            fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
                buffer.fill(1); // what is left there is not used
                match self.0.load(Ordering::Relaxed) {
                    true => Ok(()),
                    false => Err(NoEntropy),
                }
            }
        }
        let (stock, entropy) = (Stock::default(), Broken::default());
        assert_eq!(stock.draw::<10>(&entropy), Err(NoEntropy));
        entropy.0.store(true, Ordering::Relaxed);
        assert_eq!(stock.draw::<10>(&entropy), Ok([1; 10]));
    }
}
