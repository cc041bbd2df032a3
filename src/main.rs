//! The `dayfly` binary.

use std::process::ExitCode;

use clap::Parser;

/// A Cedar decision allocates; with the system's allocator two cores decide hardly more than one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else is there: no thread, no runtime, nothing for the program to inherit.
    match dayfly::cli::exec::launch::instead() {
        Some(code) => code,
        None => run(),
    }
}

#[tokio::main]
async fn run() -> ExitCode {
    // One crypto stack for everything that speaks TLS. It fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments = dayfly::cli::helper::arguments(std::env::args_os());
    dayfly::cli::run(dayfly::cli::Cli::parse_from(arguments))
        .await
        .into()
}
