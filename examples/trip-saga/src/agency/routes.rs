//! The agency over HTTP.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use unanimity_sdk::{Client, Xid};
use uuid::Uuid;

use super::book::{Answer, Outcome, ask, book, cancel};
use super::plan::PricedTrip;
use crate::database::Pools;
use crate::services::Failure;
use crate::world;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Agency {
    /// Submits sagas.
    pub client: Client,
    /// The agency's database.
    pub pools: Pools,
    /// Not charged by then, a trip turns back.
    pub trip_timeout: Duration,
}

/// The body of `POST /trips`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTrip {
    /// The trip's id. A customer who mints it can send the same trip again when no answer came, and travels
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Who travels.
    pub customer: String,
    /// Which flight.
    pub flight: String,
    /// Which hotel.
    pub hotel: String,
    /// Which class of cars.
    pub car: String,
}

/// The agency's routes.
pub(crate) fn routes(agency: Agency) -> Router {
    Router::new()
        .route("/trips", post(post_trip))
        .route("/trips/{id}", get(get_trip))
        .route("/trips/{id}/cancel", post(cancel_trip))
        .with_state(agency)
}

/// 201: booked. 409: turned back. 202: nobody knows yet, send the same again.
async fn post_trip(
    State(agency): State<Agency>,
    Json(trip): Json<NewTrip>,
) -> Result<(StatusCode, Json<Answer>), Failure> {
    let xid = Xid::new(trip.id.unwrap_or_else(Uuid::new_v4));
    let trip = priced(trip)?;
    let kept = keep(&agency, xid, &trip).await?;
    if kept != trip {
        return Err(Failure::bad_request(format!("the id {xid} is that of another trip")));
    }
    let answer = book(&agency, xid, &kept).await;
    let status = match answer.outcome {
        Outcome::Booked => StatusCode::CREATED,
        Outcome::TurnedBack => StatusCode::CONFLICT,
        Outcome::Unknown => StatusCode::ACCEPTED,
    };
    Ok((status, Json(answer)))
}

fn priced(trip: NewTrip) -> Result<PricedTrip, Failure> {
    let NewTrip { customer, flight, hotel, car, .. } = trip;
    let price = |list, name: &str| {
        world::price(list, name).ok_or_else(|| Failure::bad_request(format!("there is no {name}")))
    };
    let cents =
        price(&world::FLIGHTS, &flight)? + price(&world::HOTELS, &hotel)? + price(&world::CARS, &car)?;
    Ok(PricedTrip { customer, flight, hotel, car, cents })
}

/// Keeps what was asked for first under this id.
async fn keep(agency: &Agency, xid: Xid, trip: &PricedTrip) -> anyhow::Result<PricedTrip> {
    let xid = xid.to_string();
    let PricedTrip { customer, flight, hotel, car, cents } = trip;
    let sql = "INSERT OR IGNORE INTO trips (xid, customer, flight, hotel, car, cents) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    sqlx::query(sql)
        .bind(&xid)
        .bind(customer)
        .bind(flight)
        .bind(hotel)
        .bind(car)
        .bind(cents)
        .execute(&agency.pools.write)
        .await?;
    let sql = "SELECT customer, flight, hotel, car, cents FROM trips WHERE xid = ?1";
    let (customer, flight, hotel, car, cents) =
        sqlx::query_as(sql).bind(&xid).fetch_one(&agency.pools.write).await?;
    Ok(PricedTrip { customer, flight, hotel, car, cents })
}

async fn get_trip(State(agency): State<Agency>, Path(id): Path<Uuid>) -> Result<Json<Answer>, Failure> {
    let answer = ask(&agency, Xid::new(id)).await;
    answer.map(Json).ok_or_else(|| Failure::not_found("no such trip is known"))
}

async fn cancel_trip(State(agency): State<Agency>, Path(id): Path<Uuid>) -> Json<Answer> {
    Json(cancel(&agency, Xid::new(id)).await)
}
