//! The compensation that fails on purpose, and the hand that mends it.
//!
//! A customer without money books the hotel that takes no cancellations. The charge says no, the trip turns back, the
//! car is given back; the hotel refuses. The coordinator **parks** that step and raises attention: no machine can know
//! what to do. The flight waits, since compensations go in reverse order. Then somebody talks to the hotel's manager,
//! and an operator asks the coordinator for a retry.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use unanimity_sdk::Xid;

use super::stack::Stack;
use crate::services::http_client;
use crate::world;

/// How long the coordinator may take to park it, and to finish it when it is mended.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The reason that the operator gives.
const REASON: &str = "the castle's manager takes the cancellation";

/// What happened to the trip whose compensation failed.
#[derive(Debug, Clone)]
pub struct Mended {
    /// The trip.
    pub xid: Xid,
    /// What the coordinator said of it: the attention's message.
    pub attention: String,
    /// The status of its steps while it was parked: name and status.
    pub steps: Vec<(String, String)>,
    /// What was done, as commands.
    pub commands: Vec<String>,
    /// Its status in the end.
    pub status: String,
}

/// Waits until the trip's compensation is parked, mends what is in its way, asks for a retry, waits for the end.
pub(super) async fn mend(stack: &Stack, xid: Xid) -> anyhow::Result<Mended> {
    let http = http_client()?;
    let trip_url = format!("{}/v1/transactions/{xid}", stack.coordinator_url());
    let parked = wait_for(&http, &trip_url, |trip| trip["attention"]["code"] == "parked").await;
    let parked = parked.context("the refused compensation was not parked")?;

    // What stands in the way is outside of the coordinator: a person changes the hotel's mind.
    let hotel_url = format!("{}/hotels/{}/take-cancellations", stack.hotels_url(), world::STRICT_HOTEL);
    http.post(&hotel_url).send().await?.error_for_status()?;
    // Then somebody takes the responsibility: name and reason are on record.
    let answer = http
        .post(format!("{trip_url}/retry"))
        .json(&json!({"operator": "story", "reason": REASON}))
        .send()
        .await?;
    let status = answer.status();
    ensure!(status.is_success(), "the retry was refused: {status}: {}", answer.text().await?);

    let finished = wait_for(&http, &trip_url, |trip| trip["finished_at"].is_string()).await;
    let finished = finished.context("the mended trip did not finish")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let branches = parked["branches"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(Mended {
        xid,
        attention: text(&parked["attention"]["message"]),
        steps: branches.iter().map(|step| (text(&step["key"]), text(&step["status"]))).collect(),
        commands: vec![
            "unanimity tx list --attention".to_owned(),
            format!("unanimity tx show {xid}"),
            format!("curl -X POST {hotel_url}"),
            format!("unanimity tx retry {xid} --reason \"{REASON}\""),
        ],
        status: text(&finished["status"]),
    })
}

/// Looks at a transaction until it is as it should be.
async fn wait_for(
    http: &reqwest::Client,
    url: &str,
    is_so: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let end = Instant::now() + WAIT_MAX;
    loop {
        let trip: Value = http.get(url).send().await?.json().await?;
        if is_so(&trip) {
            return Ok(trip);
        }
        ensure!(Instant::now() < end, "it is still {trip}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
