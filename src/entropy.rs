//! Floor 1: randomness, as a value that is handed in.

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
