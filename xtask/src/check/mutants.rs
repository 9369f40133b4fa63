//! Planted bugs are for one chore: no build that anybody makes otherwise may have them.
//!
//! The `cfg` is named where it is declared, where it is asked for and where it is switched on. Anywhere else, in a
//! configuration of cargo above all, it is a violation; `proto/types/src/mutant.rs` refuses to be compiled with it
//! for a release.

use std::path::Path;

use crate::files;

pub(super) const REMEDY: &str =
    "take the cfg out: planted bugs are switched on by `cargo xtask mutants` alone";

/// What switches them on; in two parts, so that this file does not name it.
const CFG: [&str; 2] = ["unanimity", "mutants"];

/// Who may name it: the declaration, the switch, the chore, and what is written about it.
const MAY_NAME_IT: &[&str] = &["Cargo.toml", "proto/types/src/mutant.rs", "xtask/src/mutants.rs"];

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for path in files::all(root)? {
        if path.ends_with(".md") {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
            problems.extend(violation(&path, &text));
        }
    }
    Ok(problems)
}

fn violation(path: &str, text: &str) -> Option<String> {
    let cfg = CFG.join("_");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(&cfg)).collect();
    let declares = |line: &&str| line.contains("check-cfg");
    let fine = match path {
        "Cargo.toml" => lines.iter().all(declares),
        _ => lines.is_empty() || MAY_NAME_IT.contains(&path),
    };
    (!fine).then(|| format!("{path} names the cfg of planted bugs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chore_switches_them_on() {
        let cfg = CFG.join("_");
        let declared = format!("check-cfg = [\"cfg({cfg})\"]");
        let switched = format!("rustflags = [\"--cfg\", \"{cfg}\"]");
        assert_eq!(violation("Cargo.toml", &declared), None);
        assert_eq!(violation("xtask/src/mutants.rs", &switched), None);
        assert_eq!(violation("coordinator/src/lib.rs", "nothing"), None);
        for path in
            ["Cargo.toml", ".cargo/config.toml", ".ci/run", "coordinator/build.rs", "coordinator/src/lib.rs"]
        {
            assert!(violation(path, &switched).is_some(), "{path}");
        }
    }
}
