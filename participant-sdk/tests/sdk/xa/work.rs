//! What the work of a branch may do to it.

use std::time::Duration;

use tokio::sync::oneshot;
use unanimity_sdk::xa::{Alarm, Prepared, Settled, Worked, XaError};

use super::conformance;
use super::support::{Bank, Xa, pay_later};

/// Statements that are none of the work's business: end the transaction, keeping its effect or not.
fn ending<DB: Xa>(gid: &unanimity_sdk::xa::Gid, keep: bool) -> Vec<String> {
    if DB::PREPARE == "PREPARE TRANSACTION" {
        return vec![if keep { "COMMIT" } else { "ROLLBACK" }.to_owned(), "BEGIN".to_owned()];
    }
    let gid = gid.to_string();
    let (log, xid, key) = (&gid[5..37], &gid[38..70], &gid[71..]);
    let xid = format!("'{log}{xid}','una1:{key}',{}", 0x756e_6131);
    let end = if keep { format!("XA COMMIT {xid} ONE PHASE") } else { format!("XA ROLLBACK {xid}") };
    vec![format!("XA END {xid}"), end]
}

conformance! {
    async fn p1_work_that_fails_leaves_nothing_and_may_come_again(bank) {
        let branch = bank.branch("pay#1");
        let failed = bank.resource.work(&branch, |tx| Box::pin(async move {
            DB::sql(tx, "UPDATE accounts SET cents = 0").await?;
            Err::<(), _>("not today".into())
        })).await;
        assert!(matches!(&failed, Err(XaError::Work(error)) if error.to_string() == "not today"), "{failed:?}");
        let panicked = bank.resource.work(&branch, |tx| Box::pin(async move {
            DB::sql(tx, "UPDATE accounts SET cents = 0").await?;
            if true { panic!("the work had enough") }
            Ok(())
        })).await;
        assert!(matches!(panicked, Err(XaError::WorkPanicked)), "{panicked:?}");
        let resource = bank.instance().await.work_timeout(Duration::from_millis(100));
        let slow = resource.work(&branch, |tx| Box::pin(async move {
            DB::sql(tx, "UPDATE accounts SET cents = 0").await?;
            std::future::pending::<()>().await;
            Ok(())
        })).await;
        assert!(matches!(slow, Err(XaError::WorkTimeout(_))), "{slow:?}");
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 0));
        assert!(matches!(bank.pay(&branch, "a").await, Ok(Worked::Prepared(()))));
        assert!(matches!(bank.resource.commit(&branch.gid()).await, Settled::Done));
        assert_eq!(bank.cents("a").await, 1_001);
    }

    async fn p7_no_connection_goes_back_with_a_transaction_on_it(bank) {
        let pool = DB::pool(bank.port, &bank.name, 2).await.unwrap();
        let resource = unanimity_sdk::xa::Resource::new(pool).work_timeout(Duration::from_millis(50));
        for round in 0..6 {
            let branch = bank.branch("pay#1");
            let _ = resource.work(&branch, move |tx| Box::pin(async move {
                DB::sql(tx, "UPDATE accounts SET cents = 0 WHERE name = 'b'").await?;
                match round % 3 {
                    0 => panic!("the work had enough"),
                    1 => std::future::pending::<()>().await,
                    _ => return Err("no".into()),
                }
                Ok(())
            })).await;
            // On whatever connection comes: autocommit, no transaction, nothing of the work.
            for _ in 0..2 {
                DB::execute(resource.pool(), "UPDATE accounts SET cents = cents + 1 WHERE name = 'a'").await;
            }
        }
        assert_eq!((bank.cents("a").await, bank.cents("b").await), (1_012, 1_000));
    }

    async fn a_begin_in_the_work_is_a_savepoint(bank) {
        use sqlx::Connection as _;
        let branch = bank.branch("pay#1");
        bank.resource.work(&branch, |tx| Box::pin(async move {
            let mut inner = tx.begin().await?;
            DB::sql(&mut inner, "UPDATE accounts SET cents = 0 WHERE name = 'a'").await?;
            inner.rollback().await?;
            let mut inner = tx.begin().await?;
            DB::sql(&mut inner, "UPDATE accounts SET cents = 7 WHERE name = 'b'").await?;
            inner.commit().await?;
            Ok(())
        })).await.unwrap();
        assert_eq!((bank.cents("a").await, bank.cents("b").await), (1_000, 1_000));
        assert!(matches!(bank.resource.commit(&branch.gid()).await, Settled::Done));
        assert_eq!((bank.cents("a").await, bank.cents("b").await), (1_000, 7));
    }

    async fn work_that_rolls_back_by_itself_is_found(bank) {
        let branch = bank.branch("pay#1");
        let statements = ending::<DB>(&branch.gid(), false);
        let lost = bank.resource.work(&branch, move |tx| Box::pin(async move {
            for sql in statements {
                DB::sql(tx, &sql).await?;
            }
            DB::sql(tx, "UPDATE accounts SET cents = 0").await?;
            Ok(())
        })).await;
        assert!(matches!(lost, Err(XaError::TransactionLost)), "{lost:?}");
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 0));
        assert!(matches!(bank.resource.rollback(&branch.gid()).await, Settled::Done));
    }

    async fn work_that_commits_by_itself_is_an_alarm(bank) {
        let branch = bank.branch("pay#1");
        let statements = ending::<DB>(&branch.gid(), true);
        let lost = bank.resource.work(&branch, move |tx| Box::pin(async move {
            DB::sql(tx, "UPDATE accounts SET cents = 0 WHERE name = 'a'").await?;
            for sql in statements {
                DB::sql(tx, &sql).await?;
            }
            DB::sql(tx, "UPDATE accounts SET cents = 0 WHERE name = 'b'").await?;
            Ok(())
        })).await;
        assert!(matches!(lost, Err(XaError::TransactionLost)), "{lost:?}");
        assert_eq!((bank.cents("a").await, bank.cents("b").await), (0, 1_000));
        for _ in 0..2 {
            let rollback = bank.resource.rollback(&branch.gid()).await;
            assert!(matches!(rollback, Settled::Alarm(Alarm::CommittedByWork(_))), "{rollback:?}");
            let commit = bank.resource.commit(&branch.gid()).await;
            assert!(matches!(commit, Settled::Alarm(Alarm::CommittedByWork(_))), "{commit:?}");
        }
    }

    async fn h11_a_branch_that_waits_for_its_sibling_is_told_so(bank) {
        let first = bank.branch("pay#1");
        bank.pay(&first, "a").await.unwrap();
        let second = bank.branch_of(first.xid, "pay#2");
        let stuck = bank.instance().await;
        let error = super::support::pay(&stuck, &second, "a").await.unwrap_err();
        assert!(matches!(&error, XaError::SiblingHoldsLock { sibling, .. } if *sibling == first.gid()), "{error:?}");
        assert!(error.to_string().contains("in one branch"), "{error}");
        // Another transaction's lock is an error of the work, not of its sibling.
        let error = super::support::pay(&stuck, &bank.branch("pay#3"), "a").await.unwrap_err();
        assert!(matches!(error, XaError::Work(_)), "{error:?}");
        assert!(matches!(bank.resource.rollback(&second.gid()).await, Settled::Done));
        assert!(matches!(bank.resource.commit(&first.gid()).await, Settled::Done));
        assert_eq!(bank.cents("a").await, 1_001);
    }

    async fn a_rollback_ends_work_that_runs_here(bank) {
        let branch = bank.branch("pay#1");
        let (begun, has_begun) = oneshot::channel();
        let resource = bank.resource.clone();
        let attempt = branch.clone();
        let work = tokio::spawn(async move {
            resource.work(&attempt, |tx| Box::pin(async move {
                DB::sql(tx, "UPDATE accounts SET cents = 0").await?;
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
                Ok(())
            })).await
        });
        has_begun.await.unwrap();
        assert!(matches!(bank.pay(&branch, "a").await, Err(XaError::Busy)));
        assert!(matches!(bank.resource.rollback(&branch.gid()).await, Settled::Done));
        assert!(matches!(work.await.unwrap(), Err(XaError::RolledBack)));
        assert!(matches!(bank.pay(&branch, "a").await, Err(XaError::RolledBack)));
        assert_eq!((bank.cents("a").await, bank.prepared().await, bank.resource.open()), (1_000, 0, 0));
    }

    async fn a_rollback_waits_for_work_that_runs_elsewhere_and_finds_it_prepared(bank) {
        let branch = bank.branch("pay#1");
        let (begun, has_begun) = oneshot::channel();
        let (go, may_go) = oneshot::channel::<()>();
        let resource = bank.instance().await;
        let attempt = branch.clone();
        let work = tokio::spawn(async move {
            resource.work(&attempt, |tx| Box::pin(async move {
                DB::sql(tx, "UPDATE accounts SET cents = 0").await?;
                begun.send(()).unwrap();
                may_go.await.unwrap();
                Ok(())
            })).await
        });
        has_begun.await.unwrap();
        // Not known yet, and so never "done".
        let rollback = bank.resource.rollback(&branch.gid()).await;
        assert!(matches!(rollback, Settled::Unknown(XaError::StillOpen)), "{rollback:?}");
        // A second attempt at the same branch, elsewhere, does not run either.
        let again = bank.pay(&branch, "b").await;
        assert!(matches!(again, Err(XaError::Busy)), "{again:?}");
        go.send(()).unwrap();
        assert!(matches!(work.await.unwrap(), Ok(Worked::Prepared(()))));
        // The late prepare does not stay prepared for ever.
        assert!(matches!(bank.resource.rollback(&branch.gid()).await, Settled::Done));
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 0));
    }

    async fn a_rollback_ends_a_branch_that_is_held(bank) {
        let branch = bank.branch("pay#1");
        pay_later(&bank.resource, &branch, "a").await.unwrap();
        // On a busy machine the work's end may take longer than one call waits for it: asked again, as the
        // coordinator does.
        let rolled_back = async {
            while let Settled::Unknown(_) = bank.resource.rollback(&branch.gid()).await {}
            bank.resource.rollback(&branch.gid()).await
        };
        let rolled_back = tokio::time::timeout(Duration::from_secs(30), rolled_back).await.unwrap();
        assert!(matches!(rolled_back, Settled::Done), "{rolled_back:?}");
        assert!(matches!(bank.resource.prepare(&branch.gid()).await, Prepared::Refused(_)));
        assert_eq!((bank.cents("a").await, bank.prepared().await, bank.resource.open()), (1_000, 0, 0));
    }

    async fn a_dropped_caller_does_not_stop_the_branch(bank) {
        let branch = bank.branch("pay#1");
        let (begun, has_begun) = oneshot::channel();
        let (go, may_go) = oneshot::channel::<()>();
        let resource = bank.resource.clone();
        let attempt = branch.clone();
        let caller = tokio::spawn(async move {
            resource.work(&attempt, |tx| Box::pin(async move {
                begun.send(()).unwrap();
                may_go.await.unwrap();
                DB::sql(tx, "UPDATE accounts SET cents = cents + 1 WHERE name = 'a'").await?;
                Ok(())
            })).await
        });
        has_begun.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.send(()).unwrap();
        while bank.resource.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bank.prepared().await, 1);
        assert!(matches!(bank.resource.rollback(&branch.gid()).await, Settled::Done));
    }
}
