//! Which faults and situations the seeds really met (I12): what a scene claims and never does fails the run.

use std::collections::BTreeMap;

macro_rules! hits {
    ($($variant:ident = $words:literal),+ $(,)?) => {
        /// A fault that happened, or a situation that was met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Hit { $(#[doc = $words] $variant),+ }

        impl Hit {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// In words.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words),+ }
            }
        }
    };
}

hits! {
    TellerApart = "the teller and a node are cut off from each other",
    TellerOneWay = "the teller and a node are cut off in one direction",
    BankApart = "a bank and a node are cut off from each other",
    BankOneWay = "a bank and a node are cut off in one direction",
    NodesApart = "two nodes are cut off from each other",
    NodesOneWay = "two nodes are cut off in one direction",
    Held = "messages are held and then released",
    Loss = "messages are lost, and their connections with them",
    Slow = "messages are late",
    NodeCrash = "a node dies and comes back",
    NodeCrashInCommit = "a node dies while a commit is under way",
    BankCrash = "a bank dies and comes back",
    BankCrashPrepared = "a bank dies with something prepared",
    OnDuringCut = "a transfer is committed while the teller is cut off from a node",
    OnDuringCrash = "a transfer is committed while a node is dead",
    Committed = "a transfer is committed",
    Aborted = "a transfer is aborted",
    Unknown = "a commit's outcome is unknown, and asked about until it is not",
    Ticketed = "a transfer is begun without a call",
    ByCall = "a transfer is begun by a call, with an xid of the teller's own",
    BegunAgain = "the same transfer is begun again and told the same outcome",
    Refused = "a bank refuses",
    InDoubt = "a bank asks about what it has prepared",
    NameOfSeveral = "a name stands for several coordinators",
}

/// What was met, and how often.
#[derive(Debug, Clone, Default)]
pub struct Hits(BTreeMap<Hit, u64>);

impl Hits {
    /// Counts one.
    pub(crate) fn add(&mut self, hit: Hit) {
        *self.0.entry(hit).or_default() += 1;
    }

    /// Counts another run's.
    pub fn merge(&mut self, other: &Self) {
        for (hit, count) in &other.0 {
            *self.0.entry(*hit).or_default() += count;
        }
    }

    /// What was never met.
    #[must_use]
    pub fn missing(&self) -> Vec<Hit> {
        Hit::ALL.iter().copied().filter(|hit| !self.0.contains_key(hit)).collect()
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let line = |hit: &Hit| format!("{:>8}  {}\n", self.0.get(hit).unwrap_or(&0), hit.words());
        Hit::ALL.iter().map(line).collect()
    }
}
