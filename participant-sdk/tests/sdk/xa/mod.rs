//! XA branches against real servers. C8, H4 and H11 are rules of the protocol, P1 to P7 rows of the
//! crash matrix.
//!
//! The servers are throw-away ones of this machine's programs, since they must be able to prepare
//! transactions and to be killed.

mod crashes;
mod histories;
mod postgres;
mod proxy;
mod rules;
mod servers;
mod support;
mod work;

/// The same tests for every database.
macro_rules! conformance {
    ($($(#[$meta:meta])* async fn $name:ident($bank:ident) $body:block)+) => {
        $(async fn $name<DB: Xa>() {
            let Some($bank) = Bank::<DB>::fresh().await else { return };
            $body
        })+

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Postgres>().await; })+
        }

        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::MySql>().await; })+
        }
    };
}

use conformance;
