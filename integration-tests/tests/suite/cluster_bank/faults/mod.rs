//! What goes wrong: to the coordinators and their ways ([`cluster`]), to the banks and the databases ([`stores`]).

pub(super) mod cluster;
pub(super) mod lanes;
pub(super) mod stores;

use std::collections::BTreeMap;
use std::fmt;

use self::cluster::ClusterFault;
use self::stores::StoreFault;

/// What goes wrong. Where it happens, and for how long, chance says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Cluster(ClusterFault),
    Store(StoreFault),
}

impl Fault {
    /// Every kind.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let cluster = ClusterFault::ALL.into_iter().map(Self::Cluster);
        cluster.chain(StoreFault::ALL.into_iter().map(Self::Store))
    }

    /// How often it happens in a round. What visits every coordinator takes its time.
    fn times(self) -> usize {
        match self {
            Self::Cluster(ClusterFault::RollingRestart | ClusterFault::Drain) => 1,
            _ => 2,
        }
    }

    fn is_of_databases(self) -> bool {
        matches!(self, Self::Store(StoreFault::KillBankDatabase | StoreFault::KillLogDatabase))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(fault) => fault.fmt(f),
            Self::Store(fault) => fault.fmt(f),
        }
    }
}

impl From<ClusterFault> for Fault {
    fn from(fault: ClusterFault) -> Self {
        Self::Cluster(fault)
    }
}

impl From<StoreFault> for Fault {
    fn from(fault: StoreFault) -> Self {
        Self::Store(fault)
    }
}

/// How often each happened and hit something.
pub(super) type Happened = BTreeMap<Fault, usize>;
