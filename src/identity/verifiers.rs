//! Chooses the verifier, and caches what was verified.
