//! Answers lost and servers killed between the steps of a branch.

use sqlx::{MySql, Postgres};
use unanimity_sdk::xa::{OnePhase, Prepared, Resource, Settled, Worked};

use super::conformance;
use super::proxy::Proxy;
use super::support::{Bank, Xa, admin, pay, pay_later};

conformance! {
    async fn p2_a_lost_answer_to_the_prepare_is_looked_up(bank) {
        for late in [false, true] {
            let proxy = Proxy::start(bank.port, DB::PREPARE).await;
            let resource = bank.instance_by(proxy.port).await;
            let branch = bank.branch("pay#1");
            if late {
                pay_later(&resource, &branch, "a").await.unwrap();
                let prepared = resource.prepare(&branch.gid()).await;
                assert!(matches!(prepared, Prepared::Yes), "{prepared:?}");
            } else {
                let worked = pay(&resource, &branch, "a").await;
                assert!(matches!(worked, Ok(Worked::Prepared(()))), "{worked:?}");
            }
            assert_eq!((proxy.losses(), bank.prepared().await), (1, 1));
            let commit = bank.resource.commit(&branch.gid()).await;
            assert!(matches!(commit, Settled::Done), "{commit:?}");
        }
        assert_eq!(bank.cents("a").await, 1_002);
    }

    async fn p5_a_lost_answer_to_the_commit_is_done_by_the_ledger(bank) {
        let proxy = Proxy::start(bank.port, DB::COMMIT).await;
        let resource = bank.instance_by(proxy.port).await;
        let branch = bank.branch("pay#1");
        pay(&resource, &branch, "a").await.unwrap();
        let commit = resource.commit(&branch.gid()).await;
        assert!(matches!(commit, Settled::Done), "{commit:?}");
        assert_eq!(proxy.losses(), 1);
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_001, 0));
    }

    async fn h4_a_lost_answer_to_the_one_phase_commit_is_read_from_the_ledger(bank) {
        let statement = if DB::PREPARE == Postgres::PREPARE { "COMMIT\0" } else { "ONE PHASE" };
        let proxy = Proxy::start(bank.port, statement).await;
        let resource = bank.instance_by(proxy.port).await;
        let branch = bank.branch("pay#1");
        pay_later(&resource, &branch, "a").await.unwrap();
        let outcome = resource.commit_one_phase(&branch.gid()).await;
        assert!(matches!(outcome, OnePhase::Committed), "{outcome:?}");
        assert_eq!((proxy.losses(), bank.cents("a").await), (1, 1_001));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m13_settings_of_mariadb_that_lose_votes_are_told() {
    let Some(server) = tokio::task::spawn_blocking(MySql::server).await.unwrap() else { return };
    let pool = admin::<MySql>(server.port).await;
    let resource = Resource::new(pool.clone());
    assert_eq!(resource.check().await.unwrap(), []);
    MySql::execute(&pool, "SET GLOBAL innodb_flush_log_at_trx_commit = 2").await;
    let found = resource.check().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].setting, found[0].loses_data), ("innodb_flush_log_at_trx_commit", true));
}

/// Kills the server at each step of a branch and starts it again; then on with the coordinator's word,
/// from an instance that knows nothing.
async fn p4_killed_between_the_steps<DB: Xa>() {
    let server = tokio::task::spawn_blocking(DB::server).await.unwrap();
    let Some(server) = server else {
        eprintln!("SKIPPED: no server for this database on this machine");
        return;
    };
    let bank = Bank::<DB>::on(server.port).await;
    let restart = async || {
        server.kill();
        server.restart();
        admin::<DB>(server.port).await.close().await;
        bank.instance().await
    };
    let (committed, rolled_back, held) = (bank.branch("pay#1"), bank.branch("pay#2"), bank.branch("pay#3"));
    bank.pay(&committed, "a").await.unwrap();
    bank.pay(&rolled_back, "b").await.unwrap();

    // Prepared, then killed: still prepared, with their locks.
    let instance = restart().await;
    let mut found: Vec<_> =
        instance.in_doubt(bank.log).await.unwrap().ours.iter().map(|one| one.gid).collect();
    found.sort();
    let mut expected = vec![committed.gid(), rolled_back.gid()];
    expected.sort();
    assert_eq!(found, expected);
    settled(&instance, &committed, true).await;

    // Committed, then killed, the other still prepared.
    let instance = restart().await;
    settled(&instance, &committed, true).await;
    settled(&instance, &rolled_back, false).await;

    // Rolled back, then killed: late work is refused all the same.
    let instance = restart().await;
    settled(&instance, &rolled_back, false).await;
    assert!(pay(&instance, &rolled_back, "b").await.is_err());

    // Held, then killed: nothing is left, and it is refused for good.
    pay_later(&instance, &held, "a").await.unwrap();
    let next = restart().await;
    let prepared = instance.prepare(&held.gid()).await;
    assert!(!matches!(prepared, Prepared::Yes), "{prepared:?}");
    assert!(matches!(next.prepare(&held.gid()).await, Prepared::Refused(_)));
    assert!(pay(&next, &held, "a").await.is_err());

    // Decided in one phase, then killed: it repeats its answer.
    let single = bank.branch("pay#4");
    pay_later(&next, &single, "b").await.unwrap();
    assert!(matches!(next.commit_one_phase(&single.gid()).await, OnePhase::Committed));
    let last = restart().await;
    assert!(matches!(last.commit_one_phase(&single.gid()).await, OnePhase::Committed));
    assert!(matches!(last.commit_one_phase(&held.gid()).await, OnePhase::Refused(_)));

    let cents = async |name: &str| {
        DB::number(last.pool(), &format!("SELECT cents FROM accounts WHERE name = '{name}'")).await
    };
    assert_eq!((cents("a").await, cents("b").await), (1_001, 1_001));
    assert!(last.in_doubt(bank.log).await.unwrap().ours.is_empty());
}

async fn settled<DB: Xa>(instance: &Resource<DB>, branch: &unanimity_sdk::xa::XaBranch, commit: bool) {
    let gid = branch.gid();
    let outcome = if commit { instance.commit(&gid).await } else { instance.rollback(&gid).await };
    assert!(matches!(outcome, Settled::Done), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_postgres_killed_between_the_steps() {
    p4_killed_between_the_steps::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_mariadb_killed_between_the_steps() {
    p4_killed_between_the_steps::<MySql>().await;
}
