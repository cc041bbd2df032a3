//! The `dayfly` binary.

fn main() {}
