//! Floor 5: from a configuration to a running broker. The only file that names adapters.
