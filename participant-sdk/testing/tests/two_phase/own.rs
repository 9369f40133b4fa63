//! Resource managers of the service's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimity_sdk::xa::{
    Gid, InDoubt, OnePhase, Prepared, PreparedBranch, ResourceManager, Settled, TwoPhaseCall, WorkError,
    XaError,
};
use unanimity_sdk::{Client, Context, HookError, LogId, NoFence, Participant, TransactionError, TryError};
use unanimity_testing::TestCoordinator;

use super::service::{attached, eventually, finished};

/// What a branch does, by its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Mood {
    Writes,
    Reads,
    Refuses,
    /// The first answer to each operation is lost.
    Stutters,
}

/// A box of letters in memory, which prepares. Its state outlives participants, as a disk does.
#[derive(Clone, Default)]
struct Letters {
    state: Arc<Mutex<HashMap<Gid, &'static str>>>,
    calls: Arc<Mutex<Vec<(&'static str, Mood)>>>,
}

impl Letters {
    /// Writes an operation down. `None`: its answer is lost.
    fn called(&self, operation: &'static str, call: &TwoPhaseCall) -> Option<Mood> {
        let mood = serde_json::from_slice(&call.payload).unwrap_or(Mood::Writes);
        let mut calls = self.calls.lock().unwrap();
        calls.push((operation, mood));
        let first = calls.iter().filter(|known| **known == (operation, mood)).count() == 1;
        (mood != Mood::Stutters || !first).then_some(mood)
    }

    fn set(&self, gid: Gid, state: &'static str) {
        self.state.lock().unwrap().insert(gid, state);
    }

    fn count(&self, state: &str) -> usize {
        self.state.lock().unwrap().values().filter(|known| **known == state).count()
    }

    fn was_called(&self, operation: &str, mood: Mood) -> usize {
        self.calls.lock().unwrap().iter().filter(|known| **known == (operation, mood)).count()
    }
}

fn lost() -> XaError {
    XaError::Manager(WorkError::from("no answer"))
}

impl ResourceManager for Letters {
    async fn prepare(&self, call: &TwoPhaseCall) -> Prepared {
        match self.called("prepare", call) {
            None => Prepared::Unknown(lost()),
            Some(Mood::Reads) => Prepared::ReadOnly,
            Some(Mood::Refuses) => Prepared::Refused("the box is full".to_owned()),
            Some(_) => {
                self.set(call.gid, "prepared");
                Prepared::Yes
            }
        }
    }

    async fn commit(&self, call: &TwoPhaseCall) -> Settled {
        if self.called("commit", call).is_none() {
            return Settled::Unknown(lost());
        }
        self.set(call.gid, "committed");
        Settled::Done
    }

    async fn rollback(&self, call: &TwoPhaseCall) -> Settled {
        self.called("rollback", call);
        self.set(call.gid, "rolled back");
        Settled::Done
    }

    async fn commit_one_phase(&self, call: &TwoPhaseCall) -> OnePhase {
        // The effect is there, and the first answer is lost.
        self.set(call.gid, "committed");
        match self.called("commit_one_phase", call) {
            None => OnePhase::Unknown(lost()),
            Some(_) => OnePhase::Committed,
        }
    }

    async fn in_doubt(&self, log_id: LogId) -> Result<InDoubt, XaError> {
        let mut found = InDoubt::default();
        for (gid, state) in self.state.lock().unwrap().iter() {
            if *state == "prepared" && gid.log_id() == log_id {
                found.ours.push(PreparedBranch::new(*gid, Duration::from_secs(60)));
            }
        }
        Ok(found)
    }
}

async fn post(client: &Client, letters: &Letters) -> Participant<NoFence> {
    let post = Participant::without_fence("post").two_phase("letters", letters.clone()).attach(client);
    let post = post.await.unwrap();
    attached(&post).await;
    post
}

async fn write(
    post: &Participant<NoFence>,
    transaction: &impl AsRef<Context>,
    mood: Mood,
    late: bool,
) -> Result<(), TryError> {
    let branch = post.two_phase_branch("letters");
    let branch = if late { branch.late() } else { branch };
    branch.own_work(transaction, mood, |_| async { Ok::<_, HookError>(()) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m11_read_only_is_a_vote_of_the_late_form_and_has_no_second_phase() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let (client, letters) = (coordinator.client(), Letters::default());
    let post = post(&client, &letters).await;
    let tx = client.two_phase("mail").wait_finished().begin().await.unwrap();
    write(&post, &tx, Mood::Reads, true).await.unwrap();
    write(&post, &tx, Mood::Writes, true).await.unwrap();
    tx.commit().await.unwrap();
    let info = finished(&client, tx.xid()).await;
    let statuses: Vec<_> = info.details.iter().map(|branch| branch.status.unwrap().to_string()).collect();
    assert_eq!(statuses, ["read_only", "committed"]);
    assert_eq!(
        (letters.was_called("commit", Mood::Reads), letters.was_called("commit", Mood::Writes)),
        (0, 1)
    );

    // Early it is none.
    let tx = client.two_phase("mail").begin().await.unwrap();
    let early = write(&post, &tx, Mood::Reads, false).await;
    assert!(matches!(early, Err(TryError::TwoPhase(XaError::EarlyReadOnly))), "{early:?}");
    tx.abort().await.unwrap();
    finished(&client, tx.xid()).await;
    post.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_ones_own_aborts_early_and_late() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let (client, letters) = (coordinator.client(), Letters::default());
    let post = post(&client, &letters).await;
    let tx = client.two_phase("mail").begin().await.unwrap();
    let early = write(&post, &tx, Mood::Refuses, false).await;
    assert!(matches!(&early, Err(TryError::Refused(why)) if why == "the box is full"), "{early:?}");
    tx.abort().await.unwrap();
    let tx = client.two_phase("mail").begin().await.unwrap();
    write(&post, &tx, Mood::Refuses, true).await.unwrap();
    write(&post, &tx, Mood::Writes, false).await.unwrap();
    let commit = tx.commit().await;
    assert!(matches!(commit, Err(TransactionError::Aborted { .. })), "{commit:?}");
    finished(&client, tx.xid()).await;
    assert_eq!((letters.count("prepared"), letters.count("committed")), (0, 0));
    post.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_a_delegate_without_an_answer_is_asked_again() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let (client, letters) = (coordinator.client(), Letters::default());
    let post = post(&client, &letters).await;
    let tx = client.two_phase("mail").begin().await.unwrap();
    let branch = post.two_phase_branch("letters").one_phase();
    branch.own_work(&tx, Mood::Stutters, |_| async { Ok::<_, HookError>(()) }).await.unwrap();
    tx.commit().await.unwrap();
    finished(&client, tx.xid()).await;
    assert!(letters.was_called("commit_one_phase", Mood::Stutters) > 1);
    assert_eq!((letters.was_called("prepare", Mood::Stutters), letters.count("committed")), (0, 1));

    // Prepare and commit as well.
    let tx = client.two_phase("mail").wait_finished().begin().await.unwrap();
    write(&post, &tx, Mood::Stutters, true).await.unwrap();
    write(&post, &tx, Mood::Writes, false).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(letters.count("committed"), 3);
    coordinator.crash().await;
    post.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_what_is_in_doubt_of_ones_own_is_asked_about() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let (client, letters) = (coordinator.client(), Letters::default());
    let first = post(&client, &letters).await;
    let tx = client.two_phase("mail").begin().await.unwrap();
    write(&first, &tx, Mood::Writes, false).await.unwrap();
    first.shutdown().await;
    tx.commit().await.unwrap();
    assert_eq!(letters.count("prepared"), 1);
    let builder = Participant::without_fence("post").two_phase("letters", letters.clone());
    let second = builder.called_at(&client, "http://127.0.0.1:9").await.unwrap();
    eventually("it is committed", async || letters.count("committed") == 1).await;
    second.shutdown().await;
}
