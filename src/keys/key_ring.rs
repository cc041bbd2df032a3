//! The key ring: the next, the active and the retiring keys of the token issuer, and its JWKS.
