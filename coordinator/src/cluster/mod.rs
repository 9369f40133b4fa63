//! Several nodes over one log: who lives, who owns what and who is to own it, and the way of a call to the owner of
//! its partition.
//!
//! ```text
//!   every node: beat ──▶ the log's database ──▶ view ──plan──▶ assignments ──▶ partitions
//!                (lives until then)    (all nodes, all leases)        take, keep or hand over
//! ```
//! A partition changes hands without a call that fails: its owner hands it over only when the node that it is
//! planned for has looked at the cluster since, and so waits for it. Nobody is asked to agree on anything: whoever
//! sees the same, plans the same.
//!
//! # Invariants
//! - Liveness and leases are by the database's clock. No node's clock counts.
//! - Nothing here is needed for safety. A node that believes what is not true tries, and loses at the log.
//! - A node whose beat cannot be written keeps what it has.

mod balance;
mod census;
mod failure;
mod gates;
mod home;
mod news;
mod nodes;
mod pool;
mod remote;
mod route;
mod tidings;
mod view;

pub use balance::plan;
pub use census::{Census, NodeState, OwnerSays, PartitionPlace};
pub(crate) use failure::Failure;
pub use home::MemberHome;
pub use news::TopologyNews;
pub use nodes::{Cluster, ClusterConfig};
pub(crate) use pool::Lane;
pub use route::Router;
pub(crate) use route::{By, Call, Carried, closing};
pub use tidings::Tidings;
pub use view::View;
