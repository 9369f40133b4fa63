//! Debian's packages of servers that the tests start from binaries.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::{is_root, succeeds};
use crate::files;

pub(super) const INSTALLER: &str = "integration-tests/install-servers.sh";

/// Whether packages can be installed here.
pub(super) fn may_install() -> bool {
    is_root() && succeeds("apt-get", &["--version"])
}

/// Installs what is missing of these servers, by the names that the script knows.
pub(super) fn install(servers: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("bash")
        .arg(INSTALLER)
        .args(servers)
        .current_dir(files::root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("running {INSTALLER}"))?;
    if !status.success() {
        bail!("{INSTALLER} failed ({status})");
    }
    Ok(())
}
