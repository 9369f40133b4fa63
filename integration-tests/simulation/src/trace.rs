//! What happened, line by line: its hash tells whether two runs were the same, its lines tell why one failed.

use std::fmt;
use std::time::Duration;

use unanimity_types::Xid;

/// A line of a trace.
#[derive(Debug, Clone)]
pub struct Line {
    /// Simulated time since the run began.
    pub at: Duration,
    /// Where it happened.
    pub who: Box<str>,
    /// About which transaction.
    pub xid: Option<Xid>,
    /// What.
    pub what: Box<str>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} {:<5} ", self.at.as_secs_f64(), self.who)?;
        match self.xid {
            Some(xid) => write!(f, "{} ", short(xid))?,
            None => write!(f, "{:8} ", "")?,
        }
        f.write_str(&self.what)
    }
}

/// The first eight digits, which are enough for people within one run.
#[must_use]
pub fn short(xid: Xid) -> String {
    xid.to_string().chars().take(8).collect()
}

/// All lines of a run and their hash.
#[derive(Debug)]
pub(crate) struct Trace {
    lines: Vec<Line>,
    hash: u64,
    keep: bool,
}

impl Trace {
    pub(crate) const fn new(keep: bool) -> Self {
        // The offset of FNV-1a (Fowler, Noll, Vo).
        Self { lines: Vec::new(), hash: 0xcbf2_9ce4_8422_2325, keep }
    }

    pub(crate) fn add(&mut self, line: Line) {
        self.mix(&line.at.as_nanos().to_le_bytes());
        self.mix(line.who.as_bytes());
        if let Some(xid) = line.xid {
            self.mix(xid.as_bytes());
        }
        self.mix(line.what.as_bytes());
        if self.keep {
            self.lines.push(line);
        }
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }
}
