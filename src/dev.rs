//! Floor 5: a small world for trying things out. Everything in it is real: the trust domain signs
//! JWT-SVIDs, the broker is the broker, and the tool verifies tokens as any tool would.

pub mod crm;
pub mod demo;
pub mod estate;
pub mod trust_domain;
