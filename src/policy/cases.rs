//! Policy tests: cases beside policies.
