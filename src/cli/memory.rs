//! What keeps the memory of this process, with the credentials in it, from others.

/// The system writes no memory of this process to disk, and lets no other process of the same user read it.
#[cfg(target_os = "linux")]
pub(super) fn keep_to_oneself() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // Where it cannot be had, it is as it is for every other program.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

#[cfg(not(target_os = "linux"))]
pub(super) fn keep_to_oneself() {}
