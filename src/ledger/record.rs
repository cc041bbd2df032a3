//! How tasks, leases and cutoffs are stored: small, versioned records.
