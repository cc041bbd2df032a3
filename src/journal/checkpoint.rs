//! Signed checkpoints: C2SP signed-note and tlog-checkpoint.
