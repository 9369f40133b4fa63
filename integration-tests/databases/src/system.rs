//! Accounts, signals and the table of processes, for servers that tests start, freeze and kill.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

/// An account to run a server as that refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// The first of these accounts that there is; none where we are not root and need none.
pub(crate) fn unprivileged_account(names: &[&str]) -> anyhow::Result<Option<Account>> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    names.iter().find_map(|name| account_in(&passwd, name)).map(Some).with_context(|| {
        format!("the server does not run as root, and there is none of the accounts {names:?}")
    })
}

fn account_in(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        Some(Account { user: fields.nth(1)?.parse().ok()?, group: fields.next()?.parse().ok()? })
    })
}

/// Sends a signal with the command `kill`: without unsafe code there is no other way to do it.
///
/// # Errors
/// There is none of the processes, or no such command.
pub fn signal(name: &str, pids: &[u32]) -> anyhow::Result<()> {
    if pids.is_empty() {
        return Ok(());
    }
    // A child may have ended meanwhile, which makes `kill` fail after it did the rest.
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status()
        .context("running kill")?;
    if !status.success() && pids.iter().all(|pid| !is_alive(*pid)) {
        bail!("no process to send {name} to");
    }
    Ok(())
}

/// Freezes a process and waits until each of its threads stands still: the signal alone returns before that.
pub(crate) fn stop(pid: u32) -> anyhow::Result<()> {
    signal("STOP", &[pid])?;
    for _ in 0..500 {
        if threads_stand_still(pid) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("process {pid} still runs 5 s after SIGSTOP")
}

fn threads_stand_still(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads
        .flatten()
        .filter_map(|thread| state_and_parent(&std::fs::read_to_string(thread.path().join("stat")).ok()?))
        .all(|(state, _)| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| process(*pid).is_some_and(|(_, its_parent)| its_parent == parent))
        .collect()
}

/// Whether the process exists and is more than an entry that nobody has collected.
pub(crate) fn is_alive(pid: u32) -> bool {
    process(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

fn process(pid: u32) -> Option<(char, u32)> {
    state_and_parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// State and parent of a process or thread. The name before them is in brackets and may hold anything.
fn state_and_parent(stat: &str) -> Option<(char, u32)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        let account = account_in(passwd, "nobody").unwrap();
        assert_eq!((account.user, account.group), (65_534, 65_534));
        assert!(account_in(passwd, "postgres").is_none());
    }

    #[test]
    fn we_are_alive_and_a_child_of_our_parent() {
        let ours = std::process::id();
        assert!(is_alive(ours));
        let (_, parent) = process(ours).unwrap();
        assert!(children(parent).contains(&ours));
    }
}
