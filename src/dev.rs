//! Floor 5: a small world for trying things out: a trust domain and a tool.

pub mod trust_domain;
