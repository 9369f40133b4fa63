//! Seats that are booked and given back, tickets that are printed.

use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, Transaction};
use unanimity_sdk::{HookError, Refused, StepCall, StepHooks};

use crate::cars::Car;
use crate::hotels::Room;

/// What the steps `flight` and `tickets` are given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flight {
    /// Which flight.
    pub flight: String,
    /// Who flies.
    pub passenger: String,
}

/// What the step `flight` brings: the later steps and the compensation get it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Seat {
    /// Which flight.
    pub flight: String,
    /// The seat's number.
    pub seat: i64,
}

/// The hooks of the step `flight`.
///
/// None of them asks whether it ran before, or in which order: the fence does, in the same local
/// transaction (`tx`). So each says only what it does.
#[derive(Debug, Clone, Copy)]
pub struct Book;

impl StepHooks<Sqlite> for Book {
    type Payload = Flight;
    type Output = Seat;

    async fn action(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Flight>,
    ) -> Result<Seat, HookError> {
        let (xid, Flight { flight, passenger }) = (call.xid.to_string(), &call.payload);
        // Look and take in one statement: nobody comes in between.
        let sql = "UPDATE seats SET xid = ?1 WHERE flight = ?2 AND seat =
                   (SELECT min(seat) FROM seats WHERE flight = ?2 AND xid IS NULL) RETURNING seat";
        let seat: Option<i64> =
            sqlx::query_scalar(sql).bind(&xid).bind(flight).fetch_optional(&mut **tx).await?;
        // An explicit no: the saga turns back. Any other error would mean "unknown", and is tried again.
        let seat = seat.ok_or_else(|| Refused::new(format!("sold out: {flight}")))?;
        sqlx::query(
            "INSERT INTO bookings (xid, flight, seat, passenger, status) VALUES (?1, ?2, ?3, ?4, 'booked')",
        )
        .bind(&xid)
        .bind(flight)
        .bind(seat)
        .bind(passenger)
        .execute(&mut **tx)
        .await?;
        Ok(Seat { flight: flight.clone(), seat })
    }

    async fn compensate(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Flight>,
        _: Option<Seat>,
    ) -> Result<(), HookError> {
        let xid = call.xid.to_string();
        sqlx::query("UPDATE seats SET xid = NULL WHERE xid = ?1").bind(&xid).execute(&mut **tx).await?;
        sqlx::query("UPDATE bookings SET status = 'cancelled' WHERE xid = ?1")
            .bind(&xid)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// The hooks of the step `tickets`. It is forward only: nothing undoes it.
#[derive(Debug, Clone, Copy)]
pub struct Print;

impl StepHooks<Sqlite> for Print {
    type Payload = Flight;
    type Output = ();

    async fn action(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Flight>,
    ) -> Result<(), HookError> {
        let missing = |what| HookError::failed(format!("the step {what} has brought nothing"));
        let seat: Seat = call.inputs.get("flight")?.ok_or_else(|| missing("flight"))?;
        let room: Room = call.inputs.get("hotel")?.ok_or_else(|| missing("hotel"))?;
        let car: Car = call.inputs.get("car")?.ok_or_else(|| missing("car"))?;
        let sql =
            "INSERT INTO tickets (xid, flight, seat, room, car, passenger) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        sqlx::query(sql)
            .bind(call.xid.to_string())
            .bind(&seat.flight)
            .bind(seat.seat)
            .bind(room.room)
            .bind(car.car)
            .bind(&call.payload.passenger)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn compensate(
        &self,
        _: &mut Transaction<'_, Sqlite>,
        _: &StepCall<Flight>,
        _: Option<()>,
    ) -> Result<(), HookError> {
        Err(Refused::new("printed tickets are not taken back").into())
    }
}
