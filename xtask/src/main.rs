//! The chores of this repository: `cargo xtask help` lists them.
//!
//! `check` says whether a change may land, `test` sets the machine up and runs every test, `bench` measures, `model`,
//! `simulate` and `soak` look for what the tests did not think of, `migrations` keeps the record of the migrations. Plain
//! `cargo` remains enough to build and to run single tests.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its standard output"
)]

mod bench;
mod cargo;
mod check;
mod files;
mod matrix;
mod model;
mod mutants;
mod simulate;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Unanimity's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Checks all that can be checked without running the tests.
    Check {
        /// Runs only the checks of these names.
        only: Vec<String>,
    },
    /// Sets up what the tests need and runs `cargo test --workspace`.
    Test {
        /// Goes to `cargo test`: a filter, `-p`, `-- --nocapture` …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures Unanimity beside PostgreSQL alone and beside rivals that are installed: docs/benchmarks.md.
    Bench(bench::Options),
    /// Checks the models of the protocol: every state of small worlds.
    Model {
        /// Larger worlds as well: minutes, and some gigabytes of memory.
        #[arg(long)]
        big: bool,
    },
    /// Runs seeds of the deterministic simulation, or replays one (`--seed S`): docs/testing.md.
    Simulate {
        /// Goes to `simulate`: `--seeds N`, `--from S`, `--seed S`, `--jobs J`, `--times 2` …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Transfers over a cluster under faults of all kinds, for as long as one likes: docs/testing.md.
    Soak(soak::Options),
    /// Kills processes at every point of the crash matrix, in rounds: docs/testing.md.
    Matrix(matrix::Options),
    /// Plants bugs one by one, and says which tests caught each.
    Mutants {
        /// Only these.
        names: Vec<String>,
    },
    /// Says which migrations are recorded, changed or new.
    Migrations {
        /// Adds new migrations to the record. Recorded ones must not change any more.
        #[arg(long)]
        record: bool,
    },
}

fn main() -> ExitCode {
    // Cargo called it in place of the compiler.
    if std::env::var_os(mutants::WRAPPER_VARIABLE).is_some() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let compiled = mutants::rustc(&arguments).unwrap_or(false);
        return if compiled { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let outcome = match Arguments::parse().chore {
        Chore::Check { only } => check::run(&only),
        Chore::Test { arguments } => test::run(&arguments),
        Chore::Bench(options) => bench::run(&options),
        Chore::Model { big } => model::run(big),
        Chore::Simulate { arguments } => simulate::run(&arguments),
        Chore::Soak(options) => soak::run(&options),
        Chore::Matrix(options) => matrix::run(&options),
        Chore::Mutants { names } => mutants::run(&names),
        Chore::Migrations { record } => check::migrations::run(record),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
