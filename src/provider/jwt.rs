//! The JWT provider: RFC 9068 access tokens.
