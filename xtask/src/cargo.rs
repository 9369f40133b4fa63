//! Cargo, called by a program that cargo runs.

use std::process::Command;

/// `cargo`, without what `cargo run` says to us of our own package: build scripts that look at such variables (`ring`'s)
/// would run again each time, and whatever depends on them would be built again.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}
