//! The Unanimity coordinator as a library.

pub mod api;
#[doc(hidden)]
pub mod cli;
pub mod cluster;
pub mod config;
pub mod delivery;
pub mod engine;
mod entropy;
mod failpoint;
pub mod log;
pub mod node;
mod participant_database;
mod process;
pub mod server;
pub mod shutdown;
#[cfg(feature = "simulation")]
pub mod simulation;
mod task;
pub mod telemetry;
mod wall_clock;

pub use node::Node;
pub use unanimity_proto::Connector;
