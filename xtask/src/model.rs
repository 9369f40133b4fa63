//! `cargo xtask model`: the models of the protocol, all states of small worlds; with `--big` of larger ones too.

use anyhow::Context;

use crate::cargo::cargo;
use crate::files;

/// Runs the models and says whether every rule holds.
pub(crate) fn run(big: bool) -> anyhow::Result<bool> {
    let mut command = cargo();
    command.args(["test", "--package", "unanimity-model", "--test", "suite", "--", "--nocapture"]);
    if big {
        command.env("UNANIMITY_MODEL_BIG", "1");
    }
    Ok(command.current_dir(files::root()).status().context("running cargo test")?.success())
}
