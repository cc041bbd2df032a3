//! Floor 0, the words: plain values. No async, no I/O, no clock.
//!
//! A value that exists is valid: every type here is parsed at the edge or refused there, so that no
//! floor above has to look twice. Sizes are bounded by the parsers.

pub mod access;
pub mod acting;
pub mod agent;
pub mod attestation;
pub mod aws;
pub mod credential;
pub mod cutoff;
pub mod decision;
pub mod document;
pub mod fact;
pub mod ids;
pub mod lease;
pub mod name;
pub mod origin;
pub(crate) mod parsed;
pub mod recheck;
pub mod secret;
pub mod spiffe;
pub mod status_list;
pub mod strict;
pub mod task;
pub mod time;
pub mod token;
pub mod tool;
pub mod ttl;
