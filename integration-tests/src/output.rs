//! What a test says to people, and where its processes write.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// Lines of each log that a failed test shows: enough for the end of a life, little enough to read.
const TAIL_LINES: usize = 60;

pub use unanimity_test_databases::say;

/// A directory for the files and logs of one test. When the test fails, it prints the ends of the logs and keeps
/// them. Declare it before what writes into it: it must be dropped last.
#[derive(Debug)]
pub struct Scratch {
    directory: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// The system gives no temporary directory.
    pub fn new(test: &str) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("unanimity-{test}-"))
            .tempdir()
            .context("a directory for the test's files")?;
        let path = directory.path().to_owned();
        Ok(Self { directory: Some(directory), path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ends of all logs.
    fn tails(&self) -> String {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(&self.path)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        logs.iter().map(|path| format!("---- the end of {}\n{}\n", path.display(), tail(path))).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            let kept = directory.keep();
            say(&format!("{}---- all of it is kept in {}", self.tails(), kept.display()));
        }
    }
}

/// The last lines of a file.
#[must_use]
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
