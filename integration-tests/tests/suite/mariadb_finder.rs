//! The finder of MariaDB servers, with every kind that this machine has. The first test fails where there is none: a run
//! that must cover XA on MariaDB cannot skip it unnoticed.

use std::time::Duration;

use anyhow::Context;
use integration_tests::mariadb::{Kind, Options, TestMariaDb, is_available};
use sqlx::{Connection, MySqlConnection};

/// What every kind does: a database of its own, empty, whose rows stay.
async fn creates_databases(kind: Kind) -> anyhow::Result<TestMariaDb> {
    let mariadb = TestMariaDb::start(Options::default().kind(kind)).await?;
    assert_eq!(mariadb.kind(), kind);
    let url = mariadb.create_database("orders").await?;
    assert_eq!(url, mariadb.url("orders"));

    let mut connection = MySqlConnection::connect(&url).await?;
    sqlx::query("CREATE TABLE kept (id bigint PRIMARY KEY)").execute(&mut connection).await?;
    sqlx::query("INSERT INTO kept VALUES (7)").execute(&mut connection).await?;
    connection.close().await?;

    let again = mariadb.create_database("orders").await;
    assert!(again.is_err(), "the same database twice");
    assert!(mariadb.create_database("bobby`; --").await.is_err(), "a name that breaks out of its quotes");
    Ok(mariadb)
}

/// What servers of our own do besides: freeze, die and come back with their data at the same address. What was prepared
/// before the kill is in doubt after it (P5).
async fn survives(mariadb: &TestMariaDb) -> anyhow::Result<()> {
    let url = mariadb.url("orders");
    let mut connection = MySqlConnection::connect(&url).await?;
    for statement in
        ["XA START 'killed'", "INSERT INTO kept VALUES (8)", "XA END 'killed'", "XA PREPARE 'killed'"]
    {
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }

    mariadb.pause().await?;
    let frozen = tokio::time::timeout(Duration::from_millis(500), connection.ping()).await;
    assert!(frozen.is_err(), "a paused server answered");
    mariadb.unpause().await?;
    let mut connection = MySqlConnection::connect(&url).await.context("after unpause")?;

    mariadb.kill().await?;
    assert!(connection.ping().await.is_err(), "a killed server answered");
    assert!(MySqlConnection::connect(&url).await.is_err(), "a killed server let us in");
    assert!(mariadb.kind() != Kind::Binaries || mariadb.kill().await.is_err(), "killed twice");
    mariadb.restart().await?;

    let mut connection = MySqlConnection::connect(&url).await.context("after restart")?;
    let in_doubt = sqlx::raw_sql("XA RECOVER").fetch_all(&mut connection).await?;
    assert_eq!(in_doubt.len(), 1, "what was prepared before the kill");
    sqlx::raw_sql("XA COMMIT 'killed'").execute(&mut connection).await?;
    let kept: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM kept ORDER BY id").fetch_all(&mut connection).await?;
    assert_eq!(kept, [7, 8]);
    Ok(())
}

#[tokio::test]
async fn the_default_is_a_durable_server_that_answers() -> anyhow::Result<()> {
    let mariadb = TestMariaDb::start(Options::default().setting("max-connections", "33")).await?;
    let mut connection = MySqlConnection::connect(&mariadb.admin_url()).await?;
    let settings: String = sqlx::query_scalar(
        "SELECT CAST(CONCAT_WS(' ', @@max_connections, @@innodb_flush_log_at_trx_commit, @@log_bin) AS CHAR)",
    )
    .fetch_one(&mut connection)
    .await?;
    if mariadb.kind() != Kind::External {
        assert_eq!(settings, "33 1 OFF");
    }
    Ok(())
}

#[tokio::test]
async fn a_container_survives_kill_and_restart() -> anyhow::Result<()> {
    if !is_available(Kind::Container).await {
        return Ok(());
    }
    survives(&creates_databases(Kind::Container).await?).await
}

#[tokio::test]
async fn a_server_of_binaries_survives_kill_and_restart() -> anyhow::Result<()> {
    if !is_available(Kind::Binaries).await {
        return Ok(());
    }
    let mariadb = creates_databases(Kind::Binaries).await?;
    survives(&mariadb).await?;
    let url = mariadb.admin_url();
    drop(mariadb);
    assert!(MySqlConnection::connect(&url).await.is_err(), "the server is still there");
    Ok(())
}

#[tokio::test]
async fn an_external_server_keeps_none_of_our_databases() -> anyhow::Result<()> {
    if !is_available(Kind::External).await {
        return Ok(());
    }
    let mariadb = creates_databases(Kind::External).await?;
    assert!(mariadb.kill().await.is_err(), "an external server is not ours to kill");
    let url = mariadb.url("orders");
    drop(mariadb);
    assert!(MySqlConnection::connect(&url).await.is_err(), "the database is still there");
    Ok(())
}
