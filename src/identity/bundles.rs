//! Trust bundles and key sets: fetched, cached, refreshed, never lower in sequence.
