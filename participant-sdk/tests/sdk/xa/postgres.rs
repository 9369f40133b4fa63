//! What only PostgreSQL does.

use sqlx::{Connection as _, Postgres};
use unanimity_sdk::xa::{Alarm, Owner, PostgresResource, Settled, XaError};

use super::servers::Server;
use super::support::{Bank, Xa, admin};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swallowed_error_is_no_yes() {
    let Some(bank) = Bank::<Postgres>::fresh().await else {
        return;
    };
    let branch = bank.branch("pay#1");
    let lost = bank
        .resource
        .work(&branch, |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE accounts SET cents = 0").execute(&mut *tx).await?;
                // PREPARE TRANSACTION would answer ROLLBACK now, without an error.
                let _ = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
                Ok(())
            })
        })
        .await;
    assert!(matches!(lost, Err(XaError::TransactionLost)), "{lost:?}");
    assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_prepared_is_refused() {
    let Some(bank) = Bank::<Postgres>::fresh().await else {
        return;
    };
    let branch = bank.branch("pay#1");
    let refused = bank
        .resource
        .work(&branch, |tx| {
            Box::pin(async move {
                sqlx::query("CREATE TEMPORARY TABLE scratch (n int)").execute(tx).await?;
                Ok(())
            })
        })
        .await;
    assert!(matches!(&refused, Err(XaError::PrepareRefused(_))), "{refused:?}");
    assert!(refused.unwrap_err().is_refusal());
    // A deferred constraint speaks at the prepare.
    let sql = "ALTER TABLE accounts ADD CONSTRAINT apart UNIQUE (cents, name) DEFERRABLE INITIALLY DEFERRED;
               ALTER TABLE accounts DROP CONSTRAINT accounts_pkey";
    Postgres::execute(bank.resource.pool(), sql).await;
    let refused = bank
        .resource
        .work(&branch, |tx| {
            Box::pin(async move {
                sqlx::query("INSERT INTO accounts VALUES ('a', 1000)").execute(tx).await?;
                Ok(())
            })
        })
        .await;
    assert!(matches!(&refused, Err(XaError::PrepareRefused(_))), "{refused:?}");
    assert_eq!(bank.prepared().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_another_role_or_database_cannot_finish_it_and_says_so() {
    let Some(bank) = Bank::<Postgres>::fresh().await else {
        return;
    };
    let branch = bank.branch("pay#1");
    bank.pay(&branch, "a").await.unwrap();

    let elsewhere = Bank::<Postgres>::on(bank.port).await;
    let found = elsewhere.resource.in_doubt(bank.log).await.unwrap();
    assert!(found.others.iter().any(|other| other.owner == Owner::OtherDatabase(branch.gid())), "{found:?}");
    for settled in
        [elsewhere.resource.commit(&branch.gid()).await, elsewhere.resource.rollback(&branch.gid()).await]
    {
        assert!(matches!(settled, Settled::Alarm(Alarm::WrongDatabase(_))), "{settled:?}");
    }

    let role = format!("{}_clerk", bank.name);
    Postgres::execute(bank.resource.pool(), &format!("CREATE ROLE {role} LOGIN")).await;
    Postgres::execute(bank.resource.pool(), &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))
        .await;
    let options = (*bank.resource.pool().connect_options()).clone().username(&role);
    let clerk = PostgresResource::new(sqlx::PgPool::connect_with(options).await.unwrap());
    for settled in [clerk.commit(&branch.gid()).await, clerk.rollback(&branch.gid()).await] {
        assert!(matches!(settled, Settled::Alarm(Alarm::WrongRole(_))), "{settled:?}");
    }
    assert_eq!(bank.prepared().await, 1);
    assert!(matches!(bank.resource.commit(&branch.gid()).await, Settled::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gid_of_somebody_else_is_shown_and_never_touched() {
    let Some(bank) = Bank::<Postgres>::fresh().await else {
        return;
    };
    let mut connection = bank.resource.pool().acquire().await.unwrap().detach();
    let ours = bank.branch("x").gid().to_string();
    let hostile = [format!("dtm-{}", bank.name), ours.to_uppercase(), format!("{ours}; DROP TABLE accounts")];
    for gid in &hostile {
        let sql =
            format!("BEGIN; UPDATE accounts SET cents = cents WHERE name = 'z'; PREPARE TRANSACTION '{gid}'");
        Postgres::sql(&mut connection, &sql).await.unwrap();
    }
    let found = bank.resource.in_doubt(bank.log).await.unwrap();
    assert!(found.ours.is_empty(), "{found:?}");
    for gid in &hostile {
        assert!(found.others.iter().any(|other| other.name == *gid && other.owner == Owner::Foreign));
        Postgres::sql(&mut connection, &format!("ROLLBACK PREPARED '{gid}'")).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_forbid_or_hurt_are_told() {
    let off = tokio::task::spawn_blocking(|| Server::postgres("-c synchronous_commit=off")).await.unwrap();
    let Some(off) = off else { return };
    let pool = admin::<Postgres>(off.port).await;
    let resource = PostgresResource::new(pool);
    let error = resource.check().await.unwrap_err();
    assert!(matches!(error, XaError::PreparedTransactionsOff) && error.to_string().contains("restart"));
    // Without the check: refused, not wrong.
    let bank = Bank::<Postgres>::on(off.port).await;
    let refused = bank.pay(&bank.branch("pay#1"), "a").await;
    assert!(matches!(refused, Err(XaError::PrepareRefused(_))), "{refused:?}");

    let few = tokio::task::spawn_blocking(|| {
        Server::postgres("-c max_prepared_transactions=1 -c synchronous_commit=off")
    });
    let few = few.await.unwrap().unwrap();
    let found = PostgresResource::new(admin::<Postgres>(few.port).await).check().await.unwrap();
    let settings: Vec<_> = found.iter().map(|finding| (finding.setting, finding.loses_data)).collect();
    assert!(settings.contains(&("max_prepared_transactions", false)), "{settings:?}");
    assert!(settings.contains(&("synchronous_commit", true)), "{settings:?}");
}
