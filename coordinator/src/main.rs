//! The binary `unanimity`: wiring only, see [`unanimity_coordinator::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimity_coordinator::cli::main()
}
