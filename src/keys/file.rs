//! Keys on disk: PKCS#8 files, readable by their owner alone.
