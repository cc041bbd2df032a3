//! Verifier of OpenID Connect tokens.
