//! Compact JWS (RFC 7515): parsed strictly, verified with one key, signed with one key.
