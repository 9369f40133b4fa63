//! Cars that are rented and given back.

use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, Transaction};
use unanimity_sdk::{HookError, Refused, StepCall, StepHooks};

/// What the step `car` is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rental {
    /// Which class of cars.
    pub class: String,
    /// Who drives.
    pub driver: String,
}

/// What the step `car` brings.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Car {
    /// Its class.
    pub class: String,
    /// Its number.
    pub car: i64,
}

/// The hooks of the step `car`.
#[derive(Debug, Clone, Copy)]
pub struct Rent;

impl StepHooks<Sqlite> for Rent {
    type Payload = Rental;
    type Output = Car;

    async fn action(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Rental>,
    ) -> Result<Car, HookError> {
        let (xid, Rental { class, driver }) = (call.xid.to_string(), &call.payload);
        let sql = "UPDATE cars SET xid = ?1 WHERE class = ?2 AND car =
                   (SELECT min(car) FROM cars WHERE class = ?2 AND xid IS NULL) RETURNING car";
        let car: Option<i64> =
            sqlx::query_scalar(sql).bind(&xid).bind(class).fetch_optional(&mut **tx).await?;
        let car = car.ok_or_else(|| Refused::new(format!("no car left: {class}")))?;
        sqlx::query(
            "INSERT INTO rentals (xid, class, car, driver, status) VALUES (?1, ?2, ?3, ?4, 'booked')",
        )
        .bind(&xid)
        .bind(class)
        .bind(car)
        .bind(driver)
        .execute(&mut **tx)
        .await?;
        Ok(Car { class: class.clone(), car })
    }

    async fn compensate(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<Rental>,
        _: Option<Car>,
    ) -> Result<(), HookError> {
        let xid = call.xid.to_string();
        sqlx::query("UPDATE cars SET xid = NULL WHERE xid = ?1").bind(&xid).execute(&mut **tx).await?;
        sqlx::query("UPDATE rentals SET status = 'cancelled' WHERE xid = ?1")
            .bind(&xid)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}
