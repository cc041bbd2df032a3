//! Verifier of SPIFFE JWT-SVIDs.
