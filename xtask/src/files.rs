//! The repository's files, as git sees them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The repository's root: xtask lies right below it.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Paths, relative to the root and with `/`, of all files that are committed or could be: what git ignores is left out.
pub(crate) fn all(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("running git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut files: Vec<String> = String::from_utf8(output.stdout)
        .context("a file's name is not UTF-8")?
        .split_terminator('\0')
        // Removed in the work tree, but not yet in the index.
        .filter(|file| root.join(file).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Path and text of the files whose path passes `wanted`.
pub(crate) fn read(root: &Path, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<(String, String)>> {
    all(root)?
        .into_iter()
        .filter(|file| wanted(file))
        .map(|file| {
            let text =
                std::fs::read_to_string(root.join(&file)).with_context(|| format!("reading {file}"))?;
            Ok((file, text))
        })
        .collect()
}

/// What of a line of Rust is not a line comment. A `//` in a string ends it too early, which our checks can bear.
pub(crate) fn code_of(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_this_file_and_nothing_that_is_built() {
        let files = all(&root()).unwrap();
        assert!(files.iter().any(|file| file == "xtask/src/files.rs"));
        assert!(!files.iter().any(|file| file.starts_with("target/")));
    }

    #[test]
    fn a_comment_is_no_code() {
        assert_eq!(code_of("    /// Uses sqlx::Pool."), "    ");
        assert_eq!(code_of("let a = 1; // sqlx::query"), "let a = 1; ");
    }
}
