//! `cargo xtask simulate`: builds the simulation with optimisation and with all assertions, and runs it.

use anyhow::Context;

use crate::cargo::cargo;
use crate::files;

/// Runs it and says whether every seed held.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let status = cargo()
        .args(["run", "--quiet", "--profile", "simulation", "--package", "unanimity-simulation"])
        .args(["--bin", "simulate", "--"])
        .args(arguments)
        .current_dir(files::root())
        .status()
        .context("running cargo run")?;
    Ok(status.success())
}
