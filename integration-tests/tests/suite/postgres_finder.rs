//! The finder of test databases, with every kind of server that this machine has.

use std::time::Duration;

use anyhow::Context;
use integration_tests::postgres::{Kind, Options, TestPostgres, URL_VARIABLE, is_available};
use sqlx::{Connection, PgConnection};

/// What every kind does: a database of its own, empty, whose rows stay.
async fn creates_databases(kind: Kind) -> anyhow::Result<TestPostgres> {
    let postgres = TestPostgres::start(Options::default().kind(kind)).await?;
    assert_eq!(postgres.kind(), kind);
    let url = postgres.create_database("orders").await?;
    assert_eq!(url, postgres.url("orders"));

    let mut connection = PgConnection::connect(&url).await?;
    sqlx::query("CREATE TABLE kept (id bigint PRIMARY KEY)").execute(&mut connection).await?;
    sqlx::query("INSERT INTO kept VALUES (7)").execute(&mut connection).await?;
    connection.close().await?;

    let again = postgres.create_database("orders").await;
    assert!(again.is_err(), "the same database twice");
    assert!(postgres.create_database("bobby\"; --").await.is_err(), "a name that breaks out of its quotes");
    Ok(postgres)
}

/// What servers of our own do besides: freeze, die and come back with their data at the same address.
async fn survives(postgres: &TestPostgres) -> anyhow::Result<()> {
    let url = postgres.url("orders");
    let mut connection = PgConnection::connect(&url).await?;

    postgres.pause().await?;
    let frozen = tokio::time::timeout(Duration::from_millis(500), connection.ping()).await;
    assert!(frozen.is_err(), "a paused server answered");
    postgres.unpause().await?;
    let mut connection = PgConnection::connect(&url).await.context("after unpause")?;

    postgres.kill().await?;
    assert!(connection.ping().await.is_err(), "a killed server answered");
    assert!(PgConnection::connect(&url).await.is_err(), "a killed server let us in");
    postgres.restart().await?;

    let mut connection = PgConnection::connect(&url).await.context("after restart")?;
    let kept: i64 = sqlx::query_scalar("SELECT id FROM kept").fetch_one(&mut connection).await?;
    assert_eq!(kept, 7);
    Ok(())
}

#[tokio::test]
async fn the_default_is_a_server_that_answers() -> anyhow::Result<()> {
    let options = Options::default().setting("max_prepared_transactions", "33");
    let postgres = TestPostgres::start(options).await?;
    let mut connection = PgConnection::connect(&postgres.admin_url()).await?;
    let setting: String =
        sqlx::query_scalar("SHOW max_prepared_transactions").fetch_one(&mut connection).await?;
    if postgres.kind() != Kind::External {
        assert_eq!(setting, "33");
    }
    Ok(())
}

#[tokio::test]
async fn a_container_survives_kill_and_restart() -> anyhow::Result<()> {
    // Where CI requires containers, this is an error rather than "no".
    if !is_available(Kind::Container).await? {
        return Ok(());
    }
    survives(&creates_databases(Kind::Container).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_container_is_cleaned_up() -> anyhow::Result<()> {
    if !is_available(Kind::Container).await? {
        return Ok(());
    }
    let postgres = TestPostgres::start(Options::default().kind(Kind::Container)).await?;
    let url = postgres.admin_url();
    postgres.pause().await?;
    drop(postgres);
    assert!(PgConnection::connect(&url).await.is_err(), "the container is still there");
    Ok(())
}

#[tokio::test]
async fn a_cluster_of_binaries_survives_kill_and_restart() -> anyhow::Result<()> {
    if !is_available(Kind::Binaries).await? {
        return Ok(());
    }
    let postgres = creates_databases(Kind::Binaries).await?;
    survives(&postgres).await?;
    let url = postgres.admin_url();
    drop(postgres);
    assert!(PgConnection::connect(&url).await.is_err(), "the server is still there");
    Ok(())
}

#[tokio::test]
async fn an_external_server_keeps_none_of_our_databases() -> anyhow::Result<()> {
    if !is_available(Kind::External).await? {
        return Ok(());
    }
    let postgres = creates_databases(Kind::External).await?;
    assert!(postgres.kill().await.is_err(), "{URL_VARIABLE} names a server that is not ours to kill");
    let url = postgres.url("orders");
    drop(postgres);
    assert!(PgConnection::connect(&url).await.is_err(), "the database is still there");
    Ok(())
}
