//! Floor 5: configuration, valid by construction.

pub mod raw;
