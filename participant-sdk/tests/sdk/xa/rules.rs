//! What the second phase answers, in every order and as often as it is asked.

use std::time::Duration;

use unanimity_sdk::LogId;
use unanimity_sdk::xa::{Alarm, LedgerState, OnePhase, Owner, Prepared, Settled, Worked, XaBranch, XaError};
use uuid::Uuid;

use super::conformance;
use super::support::{Bank, Xa, pay, pay_later};

conformance! {
    async fn a_prepared_branch_commits_once_however_often_it_is_told(bank) {
        let branch = bank.branch("pay#1");
        assert!(matches!(bank.pay(&branch, "a").await, Ok(Worked::Prepared(()))));
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 1));
        // A repeated call finds it prepared, a late one finds it committed.
        assert!(matches!(bank.pay(&branch, "a").await, Ok(Worked::Before)));
        let other = bank.instance().await;
        for _ in 0..3 {
            assert!(matches!(other.commit(&branch.gid()).await, Settled::Done));
        }
        assert!(matches!(bank.pay(&branch, "a").await, Ok(Worked::Before)));
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_001, 0));
        // Nothing turns it back.
        let rollback = bank.resource.rollback(&branch.gid()).await;
        assert!(matches!(rollback, Settled::Alarm(Alarm::CommittedInstead(gid)) if gid == branch.gid()), "{rollback:?}");
        assert_eq!(bank.cents("a").await, 1_001);
    }

    async fn p3_prepared_and_vote_lost_is_rolled_back_and_late_work_refused(bank) {
        let branch = bank.branch("pay#1");
        bank.pay(&branch, "a").await.unwrap();
        let other = bank.instance().await;
        for _ in 0..3 {
            assert!(matches!(other.rollback(&branch.gid()).await, Settled::Done));
        }
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 0));
        assert!(matches!(bank.pay(&branch, "a").await, Err(XaError::RolledBack)));
        let commit = bank.resource.commit(&branch.gid()).await;
        assert!(matches!(commit, Settled::Alarm(Alarm::RolledBackInstead(_))), "{commit:?}");
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_000, 0));
    }

    async fn a_rollback_before_any_work_leaves_a_tombstone(bank) {
        let branch = bank.branch("pay#1");
        assert!(matches!(bank.resource.rollback(&branch.gid()).await, Settled::Done));
        assert!(matches!(bank.pay(&branch, "a").await, Err(XaError::RolledBack)));
        assert!(matches!(pay_later(&bank.resource, &branch, "a").await, Err(XaError::RolledBack)));
        assert!(matches!(bank.resource.prepare(&branch.gid()).await, Prepared::Refused(_)));
        assert_eq!((bank.cents("a").await, bank.prepared().await, bank.resource.open()), (1_000, 0, 0));
    }

    async fn p5_a_commit_without_prepared_transaction_and_row_is_an_alarm(bank) {
        // Restored from an old backup: the row went with the effect.
        let branch = bank.branch("pay#1");
        bank.pay(&branch, "a").await.unwrap();
        assert!(matches!(bank.resource.commit(&branch.gid()).await, Settled::Done));
        DB::execute(bank.resource.pool(), "DELETE FROM unanimity_ledger").await;
        for _ in 0..2 {
            let commit = bank.resource.commit(&branch.gid()).await;
            assert!(matches!(commit, Settled::Alarm(Alarm::CommitLost(gid)) if gid == branch.gid()), "{commit:?}");
        }
    }

    async fn h4_one_phase_is_answered_by_a_write(bank) {
        let branch = bank.branch("pay#1");
        let gid = branch.gid();
        assert!(matches!(pay_later(&bank.resource, &branch, "a").await, Ok(Worked::Held(()))));
        assert_eq!(bank.prepared().await, 0);
        for _ in 0..2 {
            let outcome = bank.resource.commit_one_phase(&gid).await;
            assert!(matches!(outcome, OnePhase::Committed), "{outcome:?}");
        }
        // Any instance can repeat the answer.
        assert!(matches!(bank.instance().await.commit_one_phase(&gid).await, OnePhase::Committed));
        assert_eq!(bank.cents("a").await, 1_001);

        // Its instance is gone: refused, by a row that no late work gets past.
        let lost = bank.branch_of(gid.xid(), "pay#2");
        for _ in 0..2 {
            assert!(matches!(bank.resource.commit_one_phase(&lost.gid()).await, OnePhase::Refused(_)));
        }
        assert!(matches!(pay_later(&bank.resource, &lost, "a").await, Err(XaError::RolledBack)));
        assert_eq!(bank.cents("a").await, 1_001);

        // It had prepared by itself: delegated means that it decides.
        let early = bank.branch_of(gid.xid(), "pay#3");
        bank.pay(&early, "a").await.unwrap();
        assert!(matches!(bank.resource.commit_one_phase(&early.gid()).await, OnePhase::Committed));
        assert_eq!((bank.cents("a").await, bank.prepared().await), (1_002, 0));
    }

    async fn h11_a_held_branch_is_prepared_by_its_instance(bank) {
        let branch = bank.branch("pay#1");
        let gid = branch.gid();
        assert!(matches!(pay_later(&bank.resource, &branch, "a").await, Ok(Worked::Held(()))));
        // Another instance does not have it and cannot say that nobody has.
        let other = bank.instance().await;
        let elsewhere = other.prepare(&gid).await;
        assert!(matches!(elsewhere, Prepared::Unknown(XaError::StillOpen)), "{elsewhere:?}");
        assert!(matches!(bank.resource.prepare(&gid).await, Prepared::Yes));
        // From here on any instance will do.
        assert!(matches!(other.prepare(&gid).await, Prepared::Yes));
        assert!(matches!(other.commit(&gid).await, Settled::Done));
        assert!(matches!(other.prepare(&gid).await, Prepared::Yes));
        assert_eq!((bank.cents("a").await, bank.prepared().await, bank.resource.open()), (1_001, 0, 0));
    }

    async fn a_held_branch_is_bounded_in_number_and_time(bank) {
        let resource = bank.instance().await.hold(Duration::from_millis(300), 1);
        let (first, second) = (bank.branch("pay#1"), bank.branch("pay#2"));
        assert!(matches!(pay_later(&resource, &first, "a").await, Ok(Worked::Held(()))));
        assert!(matches!(pay_later(&resource, &second, "b").await, Err(XaError::TooManyHeld(1))));
        while resource.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Let go: refused for good, and its place is free.
        assert!(matches!(resource.prepare(&first.gid()).await, Prepared::Refused(_)));
        assert!(matches!(pay_later(&resource, &first, "a").await, Err(XaError::RolledBack)));
        assert!(matches!(pay_later(&resource, &second, "b").await, Ok(Worked::Held(()))));
        assert!(matches!(resource.rollback(&second.gid()).await, Settled::Done));
        assert_eq!((bank.cents("a").await, bank.cents("b").await), (1_000, 1_000));
    }

    async fn c8_only_our_own_prepared_transactions_are_ours(bank) {
        let ours = bank.branch("pay#1");
        let theirs = XaBranch { log_id: LogId(Uuid::from_u128(0xbad)), ..bank.branch("pay#2") };
        bank.pay(&ours, "a").await.unwrap();
        pay(&bank.resource, &theirs, "b").await.unwrap();
        let found = bank.resource.in_doubt(bank.log).await.unwrap();
        let gids: Vec<_> = found.ours.iter().map(|branch| branch.gid).collect();
        assert!(gids.contains(&ours.gid()) && !gids.contains(&theirs.gid()));
        assert!(found.others.iter().any(|other| other.owner == Owner::OtherLog(theirs.gid())), "{found:?}");
        // Ages only grow.
        let age = |found: &unanimity_sdk::xa::InDoubt| {
            found.ours.iter().find(|branch| branch.gid == ours.gid()).unwrap().age
        };
        let later = bank.resource.in_doubt(bank.log).await.unwrap();
        assert!(age(&later) > age(&found));
        assert!(matches!(bank.resource.commit(&ours.gid()).await, Settled::Done));
        assert!(matches!(bank.resource.rollback(&theirs.gid()).await, Settled::Done));
    }

    async fn another_database_of_the_server_does_not_take_it_for_its_own(bank) {
        let branch = bank.branch("pay#1");
        bank.pay(&branch, "a").await.unwrap();
        let elsewhere = Bank::<DB>::on(bank.port).await;
        let found = elsewhere.resource.in_doubt(bank.log).await.unwrap();
        assert!(found.ours.is_empty(), "{found:?}");
        assert!(found.others.iter().any(|other| other.owner == Owner::OtherDatabase(branch.gid())), "{found:?}");
        assert!(matches!(bank.resource.commit(&branch.gid()).await, Settled::Done));
    }

    async fn h9_rows_go_one_by_one_when_they_are_told_to(bank) {
        let (committed, rolled_back) = (bank.branch("pay#1"), bank.branch("pay#2"));
        bank.pay(&committed, "a").await.unwrap();
        bank.resource.commit(&committed.gid()).await;
        bank.resource.rollback(&rolled_back.gid()).await;
        let mut states = Vec::new();
        let mut after = None;
        loop {
            let page = bank.resource.settled(bank.log, i64::MAX, after, 1).await.unwrap();
            let Some(row) = page.last() else { break };
            states.push((row.gid, row.state));
            after = Some(row.clone());
        }
        assert_eq!(states.len(), 2);
        assert!(states.contains(&(committed.gid(), LedgerState::Committed)));
        assert!(states.contains(&(rolled_back.gid(), LedgerState::RolledBack)));
        assert!(bank.resource.settled(bank.log, 0, None, 9).await.unwrap().is_empty());
        assert!(bank.resource.settled(LogId(Uuid::from_u128(9)), i64::MAX, None, 9).await.unwrap().is_empty());
        assert!(bank.resource.forget(&committed.gid()).await.unwrap());
        assert!(!bank.resource.forget(&committed.gid()).await.unwrap());
        assert_eq!(bank.resource.settled(bank.log, i64::MAX, None, 9).await.unwrap().len(), 1);
    }
}
