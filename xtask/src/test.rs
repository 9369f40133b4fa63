//! `cargo xtask test`: makes sure that the tests will find a PostgreSQL and a MariaDB, runs them, and removes what a
//! killed test left.
//!
//! The finding itself is the tests' own (`integration-tests/databases/src/postgres.rs`, `mariadb.rs`), so `cargo test` alone does as
//! well on a machine that is set up.

mod installer;
mod mariadb;
mod sweep;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::cargo::cargo;
use crate::files;

/// The names that `integration-tests/databases/src/postgres.rs` knows.
const URL_VARIABLE: &str = "UNANIMITY_TEST_DATABASE_URL";
const REQUIRE_CONTAINERS_VARIABLE: &str = "UNANIMITY_TEST_REQUIRE_CONTAINERS";
const RUN_VARIABLE: &str = "UNANIMITY_TEST_RUN";

/// Runs the tests and says whether they passed.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    set_up()?;
    mariadb::set_up()?;
    if installer::may_install() {
        // Standbys and poolers run from binaries, whatever the rest runs on.
        installer::install(&["postgresql", "pgbouncer"])?;
    }
    let mut command = cargo();
    command.args(["test", "--workspace"]).args(arguments).current_dir(files::root());
    swept(&mut command).context("running cargo test")
}

/// Runs tests, says whether they passed, and removes what they left.
pub(crate) fn swept(command: &mut Command) -> anyhow::Result<bool> {
    let run = run_id();
    let status = command.env(RUN_VARIABLE, &run).status();
    sweep::sweep(&run);
    Ok(status?.success())
}

/// Unlike every other run's, and fit for a file's name.
fn run_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}x{}", std::process::id(), now.as_millis())
}

/// Where a server for the tests will come from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Url,
    Docker,
    Binaries,
    /// Debian's package is installed first.
    Apt,
}

fn set_up() -> anyhow::Result<()> {
    let requires_docker = std::env::var_os(REQUIRE_CONTAINERS_VARIABLE).is_some_and(|value| value == "1");
    let has_docker = succeeds("docker", &["info"]);
    if requires_docker && !has_docker {
        bail!("{REQUIRE_CONTAINERS_VARIABLE} is 1, and no Docker engine answers to `docker info`");
    }
    let source = choose(
        std::env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty()),
        has_docker,
        binaries().is_some(),
        installer::may_install(),
    )?;
    match source {
        Source::Url => println!("PostgreSQL for the tests: the server in {URL_VARIABLE}"),
        Source::Docker => println!("PostgreSQL for the tests: containers"),
        Source::Binaries => println!("PostgreSQL for the tests: the binaries of this machine"),
        Source::Apt => {
            println!("PostgreSQL for the tests: installing Debian's package");
            installer::install(&["postgresql"])?;
        }
    }
    Ok(())
}

fn choose(has_url: bool, has_docker: bool, has_binaries: bool, may_install: bool) -> anyhow::Result<Source> {
    Ok(match (has_url, has_docker, has_binaries, may_install) {
        (true, ..) => Source::Url,
        (_, true, ..) => Source::Docker,
        (_, _, true, _) => Source::Binaries,
        (_, _, _, true) => Source::Apt,
        _ => bail!(
            "the tests need a PostgreSQL. One of these helps: set {URL_VARIABLE} to a server on which they may create \
             databases; start a Docker engine; install PostgreSQL (initdb and postgres in PATH or in \
             /usr/lib/postgresql/*/bin)"
        ),
    })
}

/// The folder with `initdb` and `postgres`, looked for as the tests do it.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(debian.map(|version| version.path().join("bin")))
        .find(|bin| ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file()))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_first_of_url_docker_binaries_package() {
        assert_eq!(choose(true, true, true, true).unwrap(), Source::Url);
        assert_eq!(choose(false, true, true, true).unwrap(), Source::Docker);
        assert_eq!(choose(false, false, true, true).unwrap(), Source::Binaries);
        assert_eq!(choose(false, false, false, true).unwrap(), Source::Apt);
        let error = choose(false, false, false, false).unwrap_err().to_string();
        assert!(error.contains(URL_VARIABLE), "{error}");
    }
}
