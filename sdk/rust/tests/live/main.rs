//! The client against the real broker, its CRM, and a way between them that can be made bad.
//!
//! The binary is `DAYFLY_BIN`, or `dayfly` in the target folder that these tests were built in.
//!
//! Modules are marked `cfg(test)`, which is always so here, for clippy to see that they are tests.

#[cfg(test)]
mod credentials;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod readme;
#[cfg(feature = "tower")]
#[cfg(test)]
mod resource;
#[cfg(test)]
mod tasks;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod way;
#[cfg(test)]
mod world;
