//! What the figures come from: cores, model, kernel, file system.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::{Value, json};

/// Describes this machine; `directory` is where the databases lie. What cannot be found out is left out.
pub(super) fn describe(directory: &Path) -> Value {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let date = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "model": field(&cpus, "model name"),
        "memory": field(&memory, "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "file_system": file_system(directory).ok(),
        "load_before": read("/proc/loadavg"),
        "unix_seconds": date.as_secs(),
        "commit": git(&["rev-parse", "--short", "HEAD"]),
        "uncommitted_changes": git(&["status", "--porcelain", "--untracked-files=no"]).map(|changes| !changes.is_empty()),
    })
}

fn read(file: &str) -> Option<String> {
    Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(crate::files::root())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The kind of the file system that a directory lies in.
pub(super) fn file_system(directory: &Path) -> anyhow::Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/mounts").context("reading the table of mounts")?;
    kind_in(&mounts, &directory).with_context(|| format!("nothing is mounted above {}", directory.display()))
}

/// The last of the longest: a later mount hides an earlier one.
fn kind_in(mounts: &str, directory: &Path) -> Option<String> {
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (Path::new(fields.next()?), fields.next()?);
        directory.starts_with(place).then(|| (place.components().count(), kind))
    });
    Some(above.max_by_key(|(depth, _)| *depth)?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/disk xfs rw 0 0\n";
        assert_eq!(kind_in(mounts, Path::new("/home/x")).as_deref(), Some("ext4"));
        assert_eq!(kind_in(mounts, Path::new("/tmp/x")).as_deref(), Some("tmpfs"));
        assert_eq!(kind_in(mounts, Path::new("/tmp/disk/x")).as_deref(), Some("xfs"));
        assert_eq!(kind_in(mounts, Path::new("/tmpfoo")).as_deref(), Some("ext4"));
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(field("a : 1\nmodel name\t: Some CPU\n", "model name").as_deref(), Some("Some CPU"));
        assert_eq!(field("models : 1\n", "model name"), None);
    }
}
