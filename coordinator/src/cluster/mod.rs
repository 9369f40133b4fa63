//! The cluster: which nodes live and who owns what, and the way of a call to the owner of its partition.

mod balance;
mod failure;
mod gates;
mod home;
mod news;
mod pool;
mod remote;
mod route;
mod view;

pub(crate) use failure::Failure;
pub use home::MemberHome;
pub use news::TopologyNews;
pub(crate) use pool::Lane;
pub use balance::plan;
pub use route::Router;
pub use view::View;
pub(crate) use route::{By, Call, Carried};
