//! The cluster: which nodes live and who owns what, and the way of a call to the owner of its partition.

mod failure;
mod gates;
mod map;
mod news;
mod pool;
mod remote;
mod route;

pub(crate) use failure::Failure;
pub use map::{Map, Member};
pub use news::TopologyNews;
pub(crate) use pool::Lane;
pub use route::Router;
pub(crate) use route::{By, Call, Carried};
