//! A coordinator: the whole node, with its servers, over a log that all share.

use std::sync::Arc;

use unanimity_coordinator::Node;
use unanimity_coordinator::config::Config;
use unanimity_coordinator::log::TransactionLog;

use crate::net::{COORDINATOR_PORT, connector, incoming, node_name};
use crate::record::Record;

/// Runs a node until its host dies.
pub(crate) async fn run(place: usize, log: Arc<dyn TransactionLog>, record: Arc<Record>) -> turmoil::Result {
    let name = node_name(place);
    let config = Config {
        advertise: Some(format!("http://{name}:{COORDINATOR_PORT}")),
        node: Some(name),
        ..Config::default()
    };
    let builder = Node::builder().log(log).config(config).connector(connector(&record));
    let _node = builder.incoming(incoming(COORDINATOR_PORT).await?).start().await?;
    std::future::pending().await
}
