//! The binary `unanimity`: wiring only, see [`unanimity_coordinator::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Transactions are many small allocations that live for milliseconds on several threads: see
/// docs/benchmarks.md for what it brings over the system's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    unanimity_coordinator::cli::main()
}
