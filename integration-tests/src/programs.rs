//! The binaries under test: `unanimity` and the services of the examples, as cargo built them.
//!
//! They lie beside the test executable. `cargo test --workspace` builds them with the tests; `cargo test -p
//! integration-tests` does not, so what a test asks for and is missing or older than its sources is built here, once for
//! all tests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};

/// The binaries that tests start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The coordinator.
    Unanimity,
    /// The order service.
    Order,
    /// The payment service.
    Payment,
    /// The inventory service.
    Inventory,
    /// A bank.
    Bank,
    /// The banks' teller.
    Teller,
    /// The services of the trips: which one, its first arguments say.
    Trips,
    /// The outbox's shop, relays and warehouse: which one, its first argument says.
    Outbox,
}

impl Program {
    const ALL: [Self; 8] = [
        Self::Unanimity,
        Self::Order,
        Self::Payment,
        Self::Inventory,
        Self::Bank,
        Self::Teller,
        Self::Trips,
        Self::Outbox,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Unanimity => "unanimity",
            Self::Order => "order-service",
            Self::Payment => "payment-service",
            Self::Inventory => "inventory-service",
            Self::Bank => "bank-service",
            Self::Teller => "teller-service",
            Self::Trips => "trip-saga",
            Self::Outbox => "outbox-example",
        }
    }

    /// The package that makes it.
    const fn package(self) -> &'static str {
        match self {
            Self::Unanimity => "unanimity-coordinator",
            Self::Order | Self::Payment | Self::Inventory => "order-payment",
            Self::Bank | Self::Teller => "bank-transfer",
            Self::Trips => "trip-saga",
            Self::Outbox => "outbox-example",
        }
    }

    fn file(self, directory: &Path) -> PathBuf {
        directory.join(format!("{}{}", self.name(), std::env::consts::EXE_SUFFIX))
    }

    /// Where it is; built if it is not there, or is old.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn path(self) -> anyhow::Result<PathBuf> {
        /// What became of each package; whoever needs one that is being built waits.
        static BUILT: Mutex<BTreeMap<&str, Result<(), String>>> = Mutex::new(BTreeMap::new());
        let directory = directory()?;
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        let package = built.entry(self.package()).or_insert_with(|| {
            let made = Self::ALL.into_iter().filter(|other| other.package() == self.package());
            prepare(self.package(), made, &directory).map_err(|error| format!("{error:#}"))
        });
        match package {
            Ok(()) => Ok(self.file(&directory)),
            Err(error) => bail!("there is no binary {} to test: {error}", self.name()),
        }
    }
}

/// Where the test and the binaries are.
fn directory() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("the test's own executable")?;
    // target/debug/deps/suite-…
    let directory = test
        .parent()
        .and_then(Path::parent)
        .with_context(|| format!("{} is not where cargo puts tests", test.display()))?;
    Ok(directory.to_owned())
}

/// Makes sure that a package's binaries are there and fresh.
fn prepare(package: &str, mut made: impl Iterator<Item = Program>, directory: &Path) -> anyhow::Result<()> {
    let all_good = made.try_fold(true, |good, program| {
        let binary = program.file(directory);
        let has_points = || if program == Program::Unanimity { has_failpoints(&binary) } else { Ok(true) };
        anyhow::Ok(good && is_fresh(&binary) && has_points()?)
    });
    if all_good? { Ok(()) } else { build(package, directory) }
}

/// Whether the binary is there, and no source that cargo noted for it is newer.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let Ok(built) = modified(binary) else { return false };
    // `BINARY: SOURCE SOURCE …`; a path with a blank in it is not found and does not count.
    let sources = std::fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map_or("", |(_, sources)| sources);
    !sources.split_whitespace().any(|source| modified(Path::new(source)).is_ok_and(|changed| changed > built))
}

/// Whether the binary was built with its failpoints: without them it refuses their variable.
fn has_failpoints(unanimity: &Path) -> anyhow::Result<bool> {
    // An impossible setting besides ends it before it does anything.
    let output = Command::new(unanimity)
        .arg("serve")
        .env_clear()
        .envs([("UNANIMITY_FAILPOINT", "recover.after_read"), ("UNANIMITY_RETRY_CAP_MS", "0")])
        .output()
        .context("running unanimity")?;
    Ok(!String::from_utf8_lossy(&output.stderr).contains("UNANIMITY_FAILPOINT"))
}

fn build(package: &str, directory: &Path) -> anyhow::Result<()> {
    let target = directory.parent().context("a target directory")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    // `cargo test` names itself. Without it, the one in PATH: it may be rustup's, which chooses the toolchain.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What `cargo test` says of this package would make build scripts that look at it run again, and all be built anew.
    let of_ours = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_ours(name)) {
        command.env_remove(name);
    }
    command
        .args(["build", "--bins", "--profile", profile])
        // With these packages, and what the test crates ask of them, the features are those of the test: else all would
        // be built a second time.
        .args(["-p", "integration-tests", "-p", "unanimity-coordinator", "-p", package])
        .args(["--features", "unanimity-coordinator/failpoints,unanimity-sdk/failpoints"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    crate::output::say(&format!(
        "building the binaries of {package}: `cargo test --workspace` has them at once"
    ));
    let output = command.output().context("running cargo build")?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_fresh_until_a_source_changes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert!(!is_fresh(&at("program")), "it is missing");
        std::fs::write(at("source"), "").unwrap();
        std::fs::write(at("program"), "").unwrap();
        let noted = format!("{}: {} /gone", at("program").display(), at("source").display());
        std::fs::write(at("program.d"), noted).unwrap();
        assert!(is_fresh(&at("program")));
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::open(at("source")).unwrap().set_modified(later).unwrap();
        assert!(!is_fresh(&at("program")));
    }
}
