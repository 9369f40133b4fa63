//! Random orders of everything that can happen to a branch, by two instances at once.

use std::collections::BTreeMap;

use unanimity_sdk::xa::{Prepared, Resource, Settled, Worked, XaBranch};

use super::conformance;
use super::support::{Bank, Xa, pay, pay_later};

/// Branches in one run; each has several tasks.
const BRANCHES: usize = 40;

conformance! {
    async fn whatever_the_order_a_branch_ends_as_it_was_decided(bank) {
        let seed = std::env::var("UNANIMITY_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
        eprintln!("UNANIMITY_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let instances = [bank.instance().await, bank.instance().await];
        let mut outcomes: BTreeMap<bool, usize> = BTreeMap::new();
        for _ in 0..BRANCHES {
            let branch = bank.branch("pay#1");
            let committed = play(&instances, &branch, random.fork()).await;
            *outcomes.entry(committed).or_default() += 1;
        }
        let committed = outcomes.get(&true).copied().unwrap_or_default();
        eprintln!("{committed} of {BRANCHES} committed");
        assert!(committed > 0 && committed < BRANCHES, "both outcomes must be seen: {outcomes:?}");
        assert_eq!(bank.cents("a").await, 1_000 + i64::try_from(committed).unwrap());
    }
}

/// Plays a branch: work on one instance, repeated and late calls on both, a coordinator that decides by
/// the first vote it gets. Answers what was decided.
async fn play<DB: Xa>(instances: &[Resource<DB>; 2], branch: &XaBranch, mut random: fastrand::Rng) -> bool {
    let gid = branch.gid();
    let late = random.bool();
    let home = random.usize(..2);
    let disturbed = random.u8(..3) == 0;
    let disturbance = tokio::spawn({
        let (other, branch) = (instances[1 - home].clone(), branch.clone());
        let rolls_back = random.bool();
        async move {
            if !disturbed {
                return;
            }
            // A rollback that overtakes the work, or a second attempt of the work.
            if rolls_back {
                let _ = other.rollback(&branch.gid()).await;
            } else {
                let _ = pay(&other, &branch, "a").await;
            }
        }
    });
    let vote = if late {
        match pay_later(&instances[home], branch, "a").await {
            Ok(Worked::Held(())) => matches!(instances[home].prepare(&gid).await, Prepared::Yes),
            Ok(_) => true,
            Err(_) => false,
        }
    } else {
        matches!(pay(&instances[home], branch, "a").await, Ok(Worked::Prepared(()) | Worked::Before))
    };
    disturbance.await.unwrap();
    // Whoever was overtaken by a rollback may hold a vote that is void: only the coordinator rolls back,
    // so after one the decision is to abort.
    let commit = vote && !disturbed && random.u8(..4) > 0;
    let tasks: Vec<_> = (0..3)
        .map(|n| {
            let (instance, late_work) = (instances[random.usize(..2)].clone(), n == 2);
            let branch = branch.clone();
            tokio::spawn(async move {
                if late_work {
                    let _ = pay(&instance, &branch, "a").await;
                }
                for _ in 0..20 {
                    let settled =
                        if commit { instance.commit(&gid).await } else { instance.rollback(&gid).await };
                    match settled {
                        Settled::Done => return,
                        Settled::Unknown(_) => {}
                        settled => panic!("{settled:?}"),
                    }
                }
                panic!("{gid} was not settled");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let found = instances[home].in_doubt(branch.log_id).await.unwrap();
    assert!(!found.ours.iter().any(|one| one.gid == gid), "{gid} stays prepared");
    commit
}
