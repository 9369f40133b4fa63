//! Where a database server for a test comes from.

use std::fmt;

/// Where a test's server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A server that somebody else runs. It cannot be paused, killed or configured.
    External,
    /// A container of its own.
    Container,
    /// One of its own with a throw-away data directory, run by the binaries of this machine.
    Binaries,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::External => "external",
            Self::Container => "container",
            Self::Binaries => "binaries",
        })
    }
}
