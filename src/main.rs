//! The `dayfly` binary.

use std::process::ExitCode;

use clap::Parser;

/// A Cedar decision allocates; with the system's allocator two cores decide hardly more than one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // One crypto stack for everything that speaks TLS. It fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    dayfly::cli::run(dayfly::cli::Cli::parse()).await.into()
}
