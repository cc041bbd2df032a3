//! Keys on ring: signing, and the checking of signatures.
