//! Floor 4: for resource servers. Verifies Dayfly tokens offline and fails closed.
