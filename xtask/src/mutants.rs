//! `cargo xtask mutants`: every planted bug must make a test fail that was named for it.
//!
//! The bugs are in `proto/types/src/mutant.rs`. One build has them all, and each run switches one on. This very program
//! stands between cargo and rustc while it is built ([`rustc`]) and gives the crates of this workspace, and no
//! others, the `cfg`: what Unanimity depends on is not built a second time, and nothing that others build
//! ever has it.

mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cargo::cargo;
use crate::files;
use table::{MUTANTS, Planted, Suite};

/// Says to this program that it is to be a compiler.
pub(crate) const WRAPPER_VARIABLE: &str = "UNANIMITY_MUTANTS_RUSTC";

/// The name that `proto/types/src/mutant.rs` knows.
const MUTANT_VARIABLE: &str = "UNANIMITY_MUTANT";

/// A test that does not end was caught too, but only after so long.
const LONGEST: Duration = Duration::from_secs(120);

/// Runs rustc, with the bugs.
pub(crate) fn rustc(arguments: &[String]) -> anyhow::Result<bool> {
    let (compiler, rest) = arguments.split_first().context("cargo names the compiler")?;
    let status = Command::new(compiler).args(rest).args(["--cfg", "unanimity_mutants"]).status();
    Ok(status.context("running rustc")?.success())
}

/// Runs the bugs of these names, or all, and says whether each was caught.
pub(crate) fn run(only: &[String]) -> anyhow::Result<bool> {
    if let Some(unknown) =
        only.iter().find(|name| MUTANTS.iter().all(|planted| planted.name != name.as_str()))
    {
        let names: Vec<&str> = MUTANTS.iter().map(|planted| planted.name).collect();
        bail!("there is no planted bug {unknown}; there are {}", names.join(", "));
    }
    let chosen: Vec<&Planted> = MUTANTS
        .iter()
        .filter(|planted| only.is_empty() || only.iter().any(|name| name == planted.name))
        .collect();
    let root = files::root();
    let started = Instant::now();
    let programs = build(&root, &chosen)?;
    println!("built after {:.0} s", started.elapsed().as_secs_f64());
    without(&root, &programs, &chosen)?;
    println!("without a bug they pass, after {:.0} s", started.elapsed().as_secs_f64());
    let mut ended = Vec::new();
    for (number, planted) in chosen.iter().enumerate() {
        let begun = Instant::now();
        let caught = planted.caught_by.iter().find_map(|(suite, tests)| {
            let failed = failing(&root, &programs, *suite, tests, Some(planted.name));
            let named = |test: &String| format!("{}::{test}", suite.package());
            failed.map(|failed| failed.first().map(named)).transpose()
        });
        let (caught, took) = (caught.transpose()?, begun.elapsed().as_secs_f64());
        let verdict = if caught.is_some() { "caught" } else { "SURVIVED" };
        println!("{:>3} of {}: {} {verdict}, {took:.1} s", number + 1, chosen.len(), planted.name);
        ended.push((planted.name, caught));
    }
    println!("\n| planted bug | caught by |\n| --- | --- |");
    for (name, caught) in &ended {
        let by = caught.as_ref().map_or_else(|| "**survived**".to_owned(), |test| format!("`{test}`"));
        println!("| `{name}` | {by} |");
    }
    let survived: Vec<&str> =
        ended.iter().filter(|(_, caught)| caught.is_none()).map(|(name, _)| *name).collect();
    println!(
        "\n{} of {} caught, {:.0} s",
        ended.len() - survived.len(),
        ended.len(),
        started.elapsed().as_secs_f64()
    );
    if !survived.is_empty() {
        println!("survived: {}", survived.join(", "));
    }
    Ok(survived.is_empty())
}

/// With no bug planted the same tests pass: else their failing says nothing.
fn without(root: &Path, programs: &BTreeMap<Suite, PathBuf>, chosen: &[&Planted]) -> anyhow::Result<()> {
    let mut tests: BTreeMap<Suite, Vec<&'static str>> = BTreeMap::new();
    for (suite, of_suite) in chosen.iter().flat_map(|planted| planted.caught_by) {
        tests.entry(*suite).or_default().extend(*of_suite);
    }
    for (suite, mut of_suite) in tests {
        of_suite.sort_unstable();
        of_suite.dedup();
        let failed = failing(root, programs, suite, &of_suite, None)?;
        if !failed.is_empty() {
            bail!("without a planted bug these fail: {}", failed.join(", "));
        }
    }
    Ok(())
}

/// Builds the suites, with all bugs in them.
fn build(root: &Path, chosen: &[&Planted]) -> anyhow::Result<BTreeMap<Suite, PathBuf>> {
    let mut suites: Vec<Suite> =
        chosen.iter().flat_map(|planted| planted.caught_by).map(|(suite, _)| *suite).collect();
    suites.sort_unstable();
    suites.dedup();
    let mut programs = BTreeMap::new();
    for suite in suites {
        let output = cargo()
            .args(["test", "--no-run", "--message-format=json", "--package", suite.package()])
            .args(suite.target())
            .env("RUSTC_WORKSPACE_WRAPPER", std::env::current_exe().context("where this program is")?)
            .env(WRAPPER_VARIABLE, "1")
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .context("running cargo test --no-run")?;
        if !output.status.success() {
            bail!("{} with planted bugs does not build", suite.package());
        }
        let built = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == suite.name())
            .find_map(|message| message["executable"].as_str().map(PathBuf::from));
        let Some(program) = built else {
            bail!("cargo does not say where the tests of {} are", suite.name())
        };
        programs.insert(suite, program);
    }
    Ok(programs)
}

/// The named tests that fail. One whose name is not among the suite's is an error: it would be caught by nobody.
fn failing(
    root: &Path,
    programs: &BTreeMap<Suite, PathBuf>,
    suite: Suite,
    tests: &[&str],
    mutant: Option<&str>,
) -> anyhow::Result<Vec<String>> {
    let program = programs.get(&suite).context("it was built")?;
    let mut command = Command::new(program);
    command.args(tests).env("RUST_BACKTRACE", "0").current_dir(root.join(suite.directory()));
    command.env_remove(MUTANT_VARIABLE).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(mutant) = mutant {
        command.env(MUTANT_VARIABLE, mutant);
    }
    let mut child = command.spawn().with_context(|| format!("running {}", program.display()))?;
    let stdout = child.stdout.take().context("its output")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(stdout));
    let begun = Instant::now();
    let ended = loop {
        if child.try_wait()?.is_some() {
            break true;
        }
        if begun.elapsed() > LONGEST {
            child.kill()?;
            child.wait()?;
            break false;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = reader.join().map_err(|_| anyhow::anyhow!("reading its output"))??;
    let mut failed: Vec<String> = output
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::to_owned))
        .collect();
    if !ended && failed.is_empty() {
        failed.push(format!("{} (does not end)", tests.join(", ")));
    }
    let ran = output.lines().any(|line| line.starts_with("running ") && line != "running 0 tests");
    if !ran {
        bail!("{} has none of the tests {}", suite.name(), tests.join(", "));
    }
    Ok(failed)
}
