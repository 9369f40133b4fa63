//! The checks that other tools make: rustfmt, clippy, rustdoc, cargo-deny.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, bail};
use serde_json::Value;

use super::directions::{items, metadata};

pub(super) const DENY_REMEDY: &str =
    "take another crate or version, or let it in by deny.toml, with the reason beside it";

/// The version that deny.toml was written for; another one that is installed already is taken as it is.
const DENY_VERSION: &str = "0.20.2";

pub(super) fn format(root: &Path) -> anyhow::Result<Vec<String>> {
    // Names of files only: `cargo fmt` shows and makes the changes.
    cargo(root, &["fmt", "--all", "--", "--check", "-l"], &[])
}

pub(super) fn clippy(root: &Path) -> anyhow::Result<Vec<String>> {
    cargo(
        root,
        &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
        &[],
    )
}

pub(super) fn docs(root: &Path) -> anyhow::Result<Vec<String>> {
    let hidden = undocumented(&metadata(root)?);
    if !hidden.is_empty() {
        return Ok(hidden);
    }
    let arguments = ["doc", "--no-deps", "--workspace", "--document-private-items", "--locked", "--quiet"];
    cargo(root, &arguments, &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Libraries and binaries with `doc = false`, which `cargo doc` would pass over without a word.
fn undocumented(metadata: &Value) -> Vec<String> {
    items(metadata, "packages")
        .flat_map(|package| items(package, "targets").map(move |target| (package, target)))
        .filter(|(_, target)| items(target, "kind").any(|kind| kind == "lib" || kind == "bin"))
        .filter(|(_, target)| target["doc"] != true)
        .map(|(package, target)| {
            format!("{}: the target {} has doc = false", package["name"], target["name"])
        })
        .collect()
}

/// Licences, bans and sources: all that needs no network.
pub(super) fn deny(root: &Path) -> anyhow::Result<Vec<String>> {
    install_deny(root)?;
    cargo(
        root,
        &["deny", "--workspace", "--locked", "--log-level", "error", "check", "bans", "licenses", "sources"],
        &[],
    )
}

/// The RustSec advisories, where their database can be fetched. Where it cannot, that is said and nothing fails: the
/// network of a machine is not this repository's fault.
pub(super) fn advisories(root: &Path) -> anyhow::Result<Vec<String>> {
    install_deny(root)?;
    let fetched = output(root, &["deny", "--log-level", "error", "fetch", "db"], &[])?;
    if !fetched.status.success() {
        println!("advisories     SKIPPED: the RustSec database cannot be fetched from here");
        return Ok(Vec::new());
    }
    cargo(root, &["deny", "--workspace", "--locked", "check", "--disable-fetch", "advisories"], &[])
}

fn install_deny(root: &Path) -> anyhow::Result<()> {
    if output(root, &["deny", "--version"], &[])?.status.success() {
        return Ok(());
    }
    println!("installing cargo-deny {DENY_VERSION}, which takes some minutes");
    let problems =
        cargo(root, &["install", "cargo-deny", "--locked", "--quiet", "--version", DENY_VERSION], &[])?;
    if !problems.is_empty() {
        bail!("cargo-deny cannot be installed:\n{}", problems.join("\n"));
    }
    Ok(())
}

/// Runs cargo; what it said is the problem where it fails.
fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let output = output(root, arguments, environment)?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    Ok(vec![format!("cargo {} failed ({}):\n{}", arguments.join(" "), output.status, said.join("\n"))])
}

fn output(root: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    crate::cargo::cargo()
        .args(arguments)
        .envs(environment.iter().copied())
        // Nothing may wait for a password.
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("CARGO_TERM_COLOR", "never")
        .current_dir(root)
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("running cargo {}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_library_that_rustdoc_would_pass_over_is_found() {
        let workspace = |doc: bool| {
            let target = json!({"name": "unanimity", "kind": ["bin"], "doc": doc});
            json!({"packages": [{"name": "unanimity-coordinator", "targets": [target]}]})
        };
        assert!(undocumented(&workspace(true)).is_empty());
        assert_eq!(undocumented(&workspace(false)).len(), 1);
    }

    #[test]
    fn a_tool_that_fails_is_a_problem() {
        let problems = cargo(&crate::files::root(), &["no-such-command-of-cargo"], &[]).unwrap();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("no-such-command-of-cargo"), "{problems:?}");
    }
}
