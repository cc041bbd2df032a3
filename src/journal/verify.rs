//! Verification of a journal, offline.
