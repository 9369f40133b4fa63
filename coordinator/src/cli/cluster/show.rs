//! `unanimity cluster` without an action: the nodes and the partitions.

use std::process::ExitCode;

use serde_json::json;
use unanimity_proto::v1;

use crate::cli::client::{Addr, explain};
use crate::cli::output::{Output, safe, table};

pub(super) async fn run(addr: &Addr, output: &Output) -> anyhow::Result<ExitCode> {
    let mut client = addr.connect().await?;
    let answer = client.get_cluster(v1::GetClusterRequest {}).await;
    let cluster = answer.map_err(|status| explain(&status))?.into_inner();
    let is_well = cluster.partitions.iter().all(|place| state(place) == "running");
    output.answer(|| text(&cluster), || value(&cluster));
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a partition does, as far as is known.
fn state(place: &v1::PartitionPlace) -> &str {
    match &place.info {
        Some(info) => &info.state,
        None if place.owner.is_empty() => "no owner",
        None => "not known",
    }
}

fn text(cluster: &v1::Cluster) -> String {
    let nodes: Vec<Vec<String>> = cluster
        .nodes
        .iter()
        .map(|node| {
            vec![
                safe(&node.node),
                safe(&node.address),
                safe(&node.version),
                node.state.clone(),
                format!("{:.1} s ago", node.silent_ms as f64 / 1_000.0),
                node.partitions.to_string(),
            ]
        })
        .collect();
    let partitions: Vec<Vec<String>> = cluster
        .partitions
        .iter()
        .map(|place| {
            let info = place.info.as_ref();
            let position = info.and_then(|info| info.position);
            let number =
                |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let why = match info.map_or("", |info| &info.detail) {
                "" if !place.unserved.is_empty() => place.unserved.clone(),
                "" if place.owner != place.planned && !place.planned.is_empty() => {
                    format!("goes to {}", place.planned)
                }
                detail => detail.to_owned(),
            };
            vec![
                place.partition.to_string(),
                state(place).to_owned(),
                safe(&place.owner),
                number(position.map(|position| position.epoch)),
                number(position.map(|position| position.seq)),
                number(info.map(|info| info.open_transactions)),
                number(info.map(|info| info.history_lag)),
                safe(&place.server),
                safe(&why),
            ]
        })
        .collect();
    let mut text = format!(
        "node     {}\nlog id   {}\nformat   {}\n\n{}\n{}",
        safe(&cluster.node),
        cluster.log_id,
        cluster.format,
        table(&["NODE", "ADDRESS", "VERSION", "STATE", "HEARD OF", "PARTITIONS"], &nodes),
        table(
            &["PARTITION", "STATE", "OWNER", "EPOCH", "BLOCK", "OPEN", "HISTORY LAG", "SERVER", "WHY"],
            &partitions
        )
    );
    if !cluster.missing_nodes.is_empty() {
        text.push_str(&format!("\nno answer from {}", safe(&cluster.missing_nodes.join(", "))));
    }
    if !cluster.stale.is_empty() {
        text.push_str(&format!(
            "\nas it was a while ago: {} has not seen its cluster for a lease ({})",
            safe(&cluster.node),
            safe(&cluster.stale)
        ));
    }
    text
}

fn value(cluster: &v1::Cluster) -> serde_json::Value {
    let nodes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| {
            json!({
                "node": node.node,
                "address": node.address,
                "version": node.version,
                "formats": node.formats,
                "servers": node.servers,
                "state": node.state,
                "silent_ms": node.silent_ms,
                "partitions": node.partitions,
            })
        })
        .collect();
    let partitions: Vec<_> = cluster
        .partitions
        .iter()
        .map(|place| {
            let info = place.info.as_ref();
            let position = info.and_then(|info| info.position);
            json!({
                "partition": place.partition,
                "state": state(place),
                "owner": place.owner,
                "planned": place.planned,
                "lease_ms": place.lease_ms,
                "server": place.server,
                "unserved": place.unserved,
                "detail": info.map(|info| info.detail.clone()),
                "epoch": position.map(|position| position.epoch),
                "seq": position.map(|position| position.seq),
                "open_transactions": info.map(|info| info.open_transactions),
                "history_lag": info.map(|info| info.history_lag),
            })
        })
        .collect();
    json!({
        "node": cluster.node,
        "log_id": cluster.log_id,
        "format": cluster.format,
        "nodes": nodes,
        "partitions": partitions,
        "missing_nodes": cluster.missing_nodes,
        "stale": cluster.stale,
    })
}
