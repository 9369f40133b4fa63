//! `cargo xtask soak`: the bank of a cluster (`integration-tests/tests/suite/cluster_bank`) for as long as one likes.
//!
//! All that runs is built with optimisation and every assertion (the profile `simulation`): the more transfers there
//! are, the more of them a fault meets. It stops by itself, and what a killed run left is swept as after
//! `cargo xtask test`.

use anyhow::Context;

use crate::cargo::cargo;
use crate::{files, test};

/// The names that the test knows.
const MINUTES_VARIABLE: &str = "UNANIMITY_TEST_SOAK_MINUTES";
const FAULTS_VARIABLE: &str = "UNANIMITY_TEST_SOAK_FAULTS";
const TRANSFERS_VARIABLE: &str = "UNANIMITY_TEST_SOAK_TRANSFERS";
const SEED_VARIABLE: &str = "UNANIMITY_SEED";
const TEST: &str = "cluster_bank::transfers_in_all_modes_survive_everything";
/// Two days: beyond, start it again.
const MINUTES_MAX: u32 = 2_880;

/// For how long, and from which seed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// For how many minutes faults go on, at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MINUTES_MAX)))]
    minutes: u32,
    /// Ends it earlier, with so many faults (and so many transfers, if both are given).
    #[arg(long, value_name = "N")]
    faults: Option<u32>,
    /// Ends it earlier, with so many transfers (and so many faults, if both are given).
    #[arg(long, value_name = "N")]
    transfers: Option<u32>,
    /// Which faults, in which order: the seed that another run printed. Without it, a new one.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// Runs it and says whether it passed.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let mut command = cargo();
    command
        .args(["test", "--profile", "simulation", "-p", "integration-tests", "--test", "suite", "--"])
        .args([TEST, "--exact", "--nocapture"])
        .env(MINUTES_VARIABLE, options.minutes.to_string())
        .current_dir(files::root());
    for (variable, count) in [(FAULTS_VARIABLE, options.faults), (TRANSFERS_VARIABLE, options.transfers)] {
        if let Some(count) = count {
            command.env(variable, count.to_string());
        }
    }
    if let Some(seed) = options.seed {
        command.env(SEED_VARIABLE, seed.to_string());
    }
    test::swept(&mut command).context("running the soak test")
}
