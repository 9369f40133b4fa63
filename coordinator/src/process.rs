//! What this process uses of its machine, as far as the system tells.

/// Processor time and memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProcessUse {
    /// Processor time since the start, user and system, in microseconds; 0 where it is not known.
    pub(crate) cpu_us: u64,
    /// Resident memory now, in bytes; 0 where it is not known.
    pub(crate) resident_bytes: u64,
}

/// The unit of processor times in `/proc`: a hundredth of a second on every Linux.
const TICK_US: u64 = 10_000;

impl ProcessUse {
    /// What it is now. Reads `/proc`; elsewhere than on Linux nothing is known.
    #[must_use]
    pub(crate) fn now() -> Self {
        let cpu_us = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_us);
        let resident_bytes =
            std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes);
        Self { cpu_us: cpu_us.unwrap_or(0), resident_bytes: resident_bytes.unwrap_or(0) }
    }
}

/// The fields 14 and 15 of `/proc/self/stat`. The name before them may hold anything, also brackets.
fn cpu_us(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_US)
}

/// The line `VmRSS: n kB` of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_us(stat), Some(420_000));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(cpu_us("nonsense"), None);
    }
}
