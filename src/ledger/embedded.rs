//! The embedded ledger, on redb with group commit.
