//! What killed tests leave behind: containers and servers that carry the run's id.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::succeeds;

const RUN_LABEL: &str = "unanimity-test-run";
/// Where a test's MariaDB writes its process id.
const MARIADB_PID: &str = "pid";

/// Removes the containers and servers of this run whose tests could not do it themselves. Best effort: the tests'
/// verdict stands whatever happens here.
pub(super) fn sweep(run: &str) {
    let filter = format!("label={RUN_LABEL}={run}");
    if let Ok(output) =
        Command::new("docker").args(["ps", "-aq", "--filter", &filter]).stderr(Stdio::null()).output()
    {
        let ids = String::from_utf8_lossy(&output.stdout).into_owned();
        for id in ids.split_whitespace() {
            println!("removing the container {id}, left by a test");
            succeeds("docker", &["rm", "-f", "-v", id]);
        }
    }
    for home in homes(&std::env::temp_dir(), run) {
        println!("removing {}, left by a test", home.display());
        if let Some(server) = server(&home) {
            // PostgreSQL's first process ends the others at QUIT; MariaDB would take its time over it.
            let signal = if home.join(MARIADB_PID).exists() { "-KILL" } else { "-QUIT" };
            succeeds("kill", &[signal, &server]);
        }
        std::fs::remove_dir_all(&home).ok();
    }
}

/// The directories of the servers that this run started.
fn homes(folder: &Path, run: &str) -> Vec<PathBuf> {
    let prefixes = ["postgres", "mariadb"].map(|server| format!("unanimity-{server}-{run}-"));
    let is_ours = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_ours(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
}

/// The process id of the server, if that process really runs in this directory.
fn server(home: &Path) -> Option<String> {
    let data = home.join("data");
    let file = ["data/postmaster.pid", MARIADB_PID]
        .iter()
        .find_map(|file| std::fs::read_to_string(home.join(file)).ok())?;
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&command).contains(data.to_str()?).then(|| pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_runs_servers_are_swept_and_no_foreign_process() {
        let folder = tempfile::tempdir().unwrap();
        let postgres = folder.path().join("unanimity-postgres-7x1-abc");
        let mariadb = folder.path().join("unanimity-mariadb-7x1-abc");
        std::fs::create_dir_all(postgres.join("data")).unwrap();
        std::fs::create_dir_all(&mariadb).unwrap();
        std::fs::create_dir(folder.path().join("unanimity-postgres-7x12-abc")).unwrap();
        let mut found = homes(folder.path(), "7x1");
        found.sort();
        assert_eq!(found, [mariadb.clone(), postgres.clone()]);

        // Stale files that name a process of somebody else: ourselves.
        let ours = format!("{}\n", std::process::id());
        std::fs::write(postgres.join("data/postmaster.pid"), &ours).unwrap();
        std::fs::write(mariadb.join(MARIADB_PID), &ours).unwrap();
        assert_eq!(server(&postgres), None);
        assert_eq!(server(&mariadb), None);
    }
}
