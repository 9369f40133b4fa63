//! The hooks of the tests: stock that is reserved, sold or freed. Their mood can be set.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{Pool, Postgres, Sqlite, Transaction};
use unanimity_sdk::{
    Branch, HookError, MessageHooks, ReceivedMessage, Refused, StepCall, StepHooks, TccHooks,
};

use super::databases::TestDatabase;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    Panics,
    Fails,
    Refuses,
    /// Runs a statement that fails, and swallows its error.
    Swallows,
    /// Loses its local transaction in the middle, and swallows that.
    RollsBack,
    /// Writes more than the database has room for.
    Fills,
    /// Stays in the hook for a while.
    Slow(Duration),
}

#[derive(Clone, Default)]
pub(crate) struct Reserve {
    pub(crate) mood: Arc<Mutex<Mood>>,
    pub(crate) tries: Arc<AtomicU32>,
    pub(crate) confirms: Arc<AtomicU32>,
    pub(crate) cancels: Arc<AtomicU32>,
    /// What the last compensation was told that its action had brought.
    pub(crate) undone: Arc<Mutex<Option<i64>>>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Take {
    pub(crate) quantity: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ballast: String,
}

pub(crate) fn take(quantity: i64) -> Take {
    Take { quantity, ballast: String::new() }
}

impl Reserve {
    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn counts(&self) -> (u32, u32, u32) {
        let count = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
        (count(&self.tries), count(&self.confirms), count(&self.cancels))
    }
}

/// (free, held, sold)
pub(crate) async fn stock<DB: TestDatabase>(pool: &Pool<DB>) -> (i64, i64, i64) {
    (
        DB::number(pool, "SELECT free FROM stock").await,
        DB::number(pool, "SELECT held FROM stock").await,
        DB::number(pool, "SELECT sold FROM stock").await,
    )
}

macro_rules! hooks {
    ($db:ty, $name:ident) => {
        impl Reserve {
            async fn $name(&self, tx: &mut Transaction<'_, $db>) -> Result<(), HookError> {
                let mood = *self.mood.lock().unwrap();
                match mood {
                    Mood::Well => {}
                    Mood::Panics => panic!("the hook had enough"),
                    Mood::Fails => return Err(std::io::Error::other("disk on fire").into()),
                    Mood::Refuses => return Err(Refused::new("out of stock").into()),
                    Mood::Swallows => {
                        let _ =
                            sqlx::query("INSERT INTO stock VALUES ('a', 0, 0, 0)").execute(&mut **tx).await;
                    }
                    Mood::RollsBack => {
                        let sql = if stringify!($db) == "Sqlite" {
                            // As a full disk or a trigger's RAISE(ROLLBACK) does.
                            "INSERT OR ROLLBACK INTO stock VALUES ('a', 0, 0, 0)"
                        } else {
                            "ROLLBACK"
                        };
                        let _ = sqlx::raw_sql(sql).execute(&mut **tx).await;
                    }
                    Mood::Fills => {
                        sqlx::query("INSERT INTO ballast VALUES (zeroblob(50000000))")
                            .execute(&mut **tx)
                            .await?;
                    }
                    Mood::Slow(time) => tokio::time::sleep(time).await,
                }
                Ok(())
            }
        }
    };
}

macro_rules! tcc {
    ($db:ty, $module:ident) => {
        mod $module {
            use super::*;

            hooks!($db, $module);

            impl TccHooks<$db> for Reserve {
                type Payload = Take;
                type Output = i64;

                async fn try_(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    branch: &Branch<Take>,
                ) -> Result<i64, HookError> {
                    let n = self.tries.fetch_add(1, Ordering::SeqCst) + 1;
                    sqlx::query("UPDATE stock SET free = free - $1, held = held + $1")
                        .bind(branch.payload.quantity)
                        .execute(&mut **tx)
                        .await?;
                    self.$module(tx).await?;
                    Ok(i64::from(n) * 1_000 + branch.payload.quantity)
                }

                async fn confirm(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    branch: &Branch<Take>,
                ) -> Result<(), HookError> {
                    self.confirms.fetch_add(1, Ordering::SeqCst);
                    sqlx::query("UPDATE stock SET held = held - $1, sold = sold + $1")
                        .bind(branch.payload.quantity)
                        .execute(&mut **tx)
                        .await?;
                    self.$module(tx).await
                }

                async fn cancel(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    branch: &Branch<Take>,
                ) -> Result<(), HookError> {
                    self.cancels.fetch_add(1, Ordering::SeqCst);
                    sqlx::query("UPDATE stock SET held = held - $1, free = free + $1")
                        .bind(branch.payload.quantity)
                        .execute(&mut **tx)
                        .await?;
                    self.$module(tx).await
                }
            }

            /// The action reserves, the compensation frees.
            impl StepHooks<$db> for Reserve {
                type Payload = Take;
                type Output = i64;

                async fn action(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    call: &StepCall<Take>,
                ) -> Result<i64, HookError> {
                    let n = self.tries.fetch_add(1, Ordering::SeqCst) + 1;
                    sqlx::query("UPDATE stock SET free = free - $1, held = held + $1")
                        .bind(call.payload.quantity)
                        .execute(&mut **tx)
                        .await?;
                    self.$module(tx).await?;
                    let before = call.inputs.get::<i64>("before")?.unwrap_or_default();
                    Ok(i64::from(n) * 1_000 + call.payload.quantity + before)
                }

                async fn compensate(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    call: &StepCall<Take>,
                    result: Option<i64>,
                ) -> Result<(), HookError> {
                    self.cancels.fetch_add(1, Ordering::SeqCst);
                    *self.undone.lock().unwrap() = result;
                    sqlx::query("UPDATE stock SET held = held - $1, free = free + $1")
                        .bind(call.payload.quantity)
                        .execute(&mut **tx)
                        .await?;
                    self.$module(tx).await
                }
            }

            /// A message sells.
            impl MessageHooks<$db> for Reserve {
                type Payload = Take;

                async fn deliver(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    message: &ReceivedMessage<Take>,
                ) -> Result<(), HookError> {
                    self.tries.fetch_add(1, Ordering::SeqCst);
                    sqlx::query("UPDATE stock SET free = free - $1, sold = sold + $1")
                        .bind(message.payload.quantity)
                        .execute(&mut **tx)
                        .await?;
                    self.$module(tx).await
                }
            }
        }
    };
}

tcc!(Sqlite, sqlite);
tcc!(Postgres, postgres);
