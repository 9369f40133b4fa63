//! `cargo xtask matrix`: the crash matrix (`integration-tests/tests/suite/matrix`) in rounds, until so many processes have
//! died at its points.
//!
//! Every round runs all its tests; chance and the machine make each another one. Where a process died at its point, and was
//! seen to, the tests say so in a line, and these are counted. A round that fails keeps its output, and the next one begins.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cargo::cargo;
use crate::{files, test};

/// What the tests say of each death.
const DEATH: &str = "died at ";
/// Tests at a time: they wait more than they work.
const THREADS: &str = "4";
/// Rounds that fail one after the other before it gives up: something is wrong with the machine, or with everything.
const FAILED_IN_A_ROW_MAX: usize = 3;

/// How many deaths.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds go on until so many processes have died.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    kills: usize,
}

/// Runs the rounds and says whether all passed.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let started = Instant::now();
    let suite = build()?;
    let kept = files::root().join("target/matrix");
    std::fs::create_dir_all(&kept)?;
    let (mut deaths, mut rounds, mut failed, mut failed_in_a_row) = (BTreeMap::new(), 0, Vec::new(), 0);
    while sum(&deaths) < options.kills {
        rounds += 1;
        let begun = Instant::now();
        let round = round(&suite)?;
        let before = sum(&deaths);
        for line in round.output.lines() {
            // Not only at a line's beginning: two streams share the file.
            if let Some((_, point)) = line.split_once(DEATH) {
                let point = point.split('@').next().unwrap_or(point);
                *deaths.entry(point.to_owned()).or_insert(0_usize) += 1;
            }
        }
        println!(
            "round {rounds}: {}, {:.0} s; {} deaths so far",
            if round.passed { "passed" } else { "FAILED" },
            begun.elapsed().as_secs_f64(),
            sum(&deaths)
        );
        if sum(&deaths) == before {
            bail!("a round without a death: are the matrix' tests still in the suite?");
        }
        if round.passed {
            failed_in_a_row = 0;
            continue;
        }
        failed_in_a_row += 1;
        let path = kept.join(format!("round-{rounds}.log"));
        File::create(&path)?.write_all(round.output.as_bytes())?;
        for line in round.output.lines().filter(|line| line.ends_with("... FAILED")) {
            println!("  {line}");
        }
        println!("  its output is kept in {}", path.display());
        failed.push(rounds);
        if failed_in_a_row == FAILED_IN_A_ROW_MAX {
            bail!("{failed_in_a_row} rounds failed one after the other");
        }
    }
    println!(
        "{} deaths at {} points in {rounds} rounds, {} of them failed, {:.0} s",
        sum(&deaths),
        deaths.len(),
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    for (point, count) in &deaths {
        println!("{count:>6}  {point}");
    }
    Ok(failed.is_empty())
}

fn sum(deaths: &BTreeMap<String, usize>) -> usize {
    deaths.values().sum()
}

/// Builds the suite once, as the soak does; answers where it is.
fn build() -> anyhow::Result<PathBuf> {
    let output = cargo()
        .args(["test", "--profile", "simulation", "-p", "integration-tests", "--test", "suite", "--no-run"])
        .arg("--message-format=json")
        .current_dir(files::root())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo test --no-run")?;
    if !output.status.success() {
        bail!("the suite does not build");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "suite")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo does not say where the suite is")
}

struct Round {
    passed: bool,
    output: String,
}

/// One round, its output in a file: pipes would make tests wait for us.
fn round(suite: &Path) -> anyhow::Result<Round> {
    let output = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(suite);
    command
        .args(["matrix::", "--nocapture", "--test-threads", THREADS])
        .current_dir(files::root().join("integration-tests"))
        .stdin(Stdio::null())
        .stdout(output.as_file().try_clone()?)
        .stderr(output.as_file().try_clone()?);
    let passed = test::swept(&mut command).context("running the crash matrix")?;
    let output = String::from_utf8_lossy(&std::fs::read(output.path())?).into_owned();
    Ok(Round { passed, output })
}
