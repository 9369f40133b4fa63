//! CPU time of processes, as Linux tells it; nothing elsewhere.

use std::collections::HashMap;

/// `USER_HZ`: what the kernel counts in towards programs, on every architecture that Unanimity runs on.
const TICK_US: u64 = 10_000;

/// The CPU time of a process and all of its children, living and waited for, in microseconds. `None` if
/// there is no such process or the system does not tell.
pub(crate) fn of_process_and_children(pid: u32) -> Option<u64> {
    let processes = all();
    let root = processes.get(&pid)?;
    let mut total = root.own + root.ended_children;
    let mut parents = vec![pid];
    // A tree has no way back, but a table that is read row by row while it changes may.
    let mut seen = vec![pid];
    while let Some(parent) = parents.pop() {
        for (child, found) in processes.iter().filter(|(_, found)| found.parent == parent) {
            if !seen.contains(child) {
                seen.push(*child);
                parents.push(*child);
                total += found.own + found.ended_children;
            }
        }
    }
    Some(total)
}

/// The CPU time of a process alone, in microseconds.
pub(crate) fn of_process(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&stat).map(|found| found.own)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    parent: u32,
    own: u64,
    ended_children: u64,
}

fn all() -> HashMap<u32, Found> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let read = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, parse(&stat)?))
    };
    entries.filter_map(|entry| read(entry.ok()?)).collect()
}

/// The line of `/proc/PID/stat`: see proc_pid_stat(5).
fn parse(stat: &str) -> Option<Found> {
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Found {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(11)? + ticks(12)?) * TICK_US,
        ended_children: (ticks(13)? + ticks(14)?) * TICK_US,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read_whatever_the_name_is() {
        let stat = "42 (a) b (c) S 7 1 1 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 55 66";
        assert_eq!(parse(stat), Some(Found { parent: 7, own: 1_200_000, ended_children: 70_000 }));
        assert_eq!(parse("42 (x"), None);
        assert_eq!(parse("42 (x) S 7"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_found_and_no_other_makes_it_less() {
        let pid = std::process::id();
        let alone = of_process(pid).expect("it runs");
        assert!(of_process_and_children(pid).expect("it runs") >= alone);
        assert_eq!(of_process_and_children(u32::MAX), None);
    }
}
