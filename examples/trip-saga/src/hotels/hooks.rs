//! Rooms that are booked and given back, where the hotel lets them.

use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, Transaction};
use unanimity_sdk::{HookError, Refused, StepCall, StepHooks};

use crate::flights::Seat;

/// What the step `hotel` is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stay {
    /// Which hotel.
    pub hotel: String,
    /// Who stays.
    pub guest: String,
}

/// What the step `hotel` brings.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Room {
    /// Which hotel.
    pub hotel: String,
    /// The room's number.
    pub room: i64,
}

/// The hooks of the step `hotel`.
#[derive(Debug, Clone, Copy)]
pub struct Book;

impl StepHooks<Sqlite> for Book {
    type Payload = Stay;
    type Output = Room;

    async fn action(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Stay>,
    ) -> Result<Room, HookError> {
        let (xid, Stay { hotel, guest }) = (call.xid.to_string(), &call.payload);
        // What the step before has brought.
        let seat: Option<Seat> = call.inputs.get("flight")?;
        let Some(Seat { flight, seat }) = seat else {
            return Err(HookError::failed("the step flight has brought nothing"));
        };
        let sql = "UPDATE rooms SET xid = ?1 WHERE hotel = ?2 AND room =
                   (SELECT min(room) FROM rooms WHERE hotel = ?2 AND xid IS NULL) RETURNING room";
        let room: Option<i64> =
            sqlx::query_scalar(sql).bind(&xid).bind(hotel).fetch_optional(&mut **tx).await?;
        let room = room.ok_or_else(|| Refused::new(format!("fully booked: {hotel}")))?;
        let sql = "INSERT INTO stays (xid, hotel, room, guest, flight, seat, status)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'booked')";
        sqlx::query(sql)
            .bind(&xid)
            .bind(hotel)
            .bind(room)
            .bind(guest)
            .bind(flight)
            .bind(seat)
            .execute(&mut **tx)
            .await?;
        Ok(Room { hotel: hotel.clone(), room })
    }

    /// A compensation that says no is **parked**: the coordinator stops asking and raises attention, until
    /// an operator has mended what is in its way and asks for a retry.
    async fn compensate(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Stay>,
        _: Option<Room>,
    ) -> Result<(), HookError> {
        let (xid, hotel) = (call.xid.to_string(), &call.payload.hotel);
        let sql = "SELECT takes_cancellations FROM hotels WHERE hotel = ?1";
        let takes: i64 = sqlx::query_scalar(sql).bind(hotel).fetch_one(&mut **tx).await?;
        if takes == 0 {
            return Err(Refused::new(format!("the {hotel} takes no cancellations")).into());
        }
        sqlx::query("UPDATE rooms SET xid = NULL WHERE xid = ?1").bind(&xid).execute(&mut **tx).await?;
        sqlx::query("UPDATE stays SET status = 'cancelled' WHERE xid = ?1")
            .bind(&xid)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}
