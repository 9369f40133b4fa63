//! Unanimity by its SDK.

use std::fmt::Display;
use std::time::Duration;

use futures::future::try_join_all;
use unanimity_sdk::{
    Client, ClientError, CommitError, GlobalTransaction, NewBranch, Saga, SendInTransaction as _, StepTarget,
    TransactionError, WaitFor,
};

use crate::clock::now_us;
use crate::driver::{Driver, Shot};
use crate::error::Error;
use crate::measure::{End, Outcome};
use crate::options::{Options, Workload};
use crate::places::Places;
use crate::stamp::Stamp;

/// How long a saga is waited for: as long as transactions last by default, and a little.
const SAGA_WAIT_MAX: Duration = Duration::from_secs(90);

/// Runs the workload of the options.
pub(crate) struct Unanimity {
    clients: Vec<Client>,
    options: Options,
    places: Places,
    http: reqwest::Client,
}

impl Unanimity {
    /// Connects when the first transaction begins. Must be called inside a tokio runtime.
    pub(crate) fn new(options: Options, places: Places) -> Result<Self, Error> {
        let client = |_| Client::connect(options.coordinator.clone());
        let clients = (0..options.connections).map(client).collect::<Result<_, ClientError>>()?;
        // There is nothing to encrypt on the way to the bench's own services; reqwest wants a provider all
        // the same. That there is one already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().tcp_nodelay(true).build();
        let http = http.map_err(|error| Error::Participants(format!("no HTTP client: {error}")))?;
        Ok(Self { clients, options, places, http })
    }

    fn client(&self, shot: Shot) -> &Client {
        let place = shot.number % u64::from(self.options.connections);
        &self.clients[usize::try_from(place).unwrap_or(0)]
    }

    /// Begin, branches, commit or abort.
    async fn branches(&self, shot: Shot) -> Result<End, String> {
        let client = self.client(shot);
        let stamp = Stamp { intended_us: shot.intended_us, refuse: false };
        let name = stamp.name(self.options.payload_bytes());
        let transaction = match self.options.mode {
            Workload::TwoPhase => client.two_phase(name),
            _ => client.transaction(name),
        };
        let transaction = transaction.begin().await.map_err(failed("begin"))?;
        if self.options.sequential {
            for branch in 0..self.options.branches {
                self.branch(&transaction, branch, stamp).await?;
            }
        } else {
            try_join_all((0..self.options.branches).map(|branch| self.branch(&transaction, branch, stamp)))
                .await?;
        }
        if shot.abort {
            return transaction.abort().await.map(|()| End::Aborted).map_err(failed("abort"));
        }
        decided(transaction.commit().await)
    }

    /// Registers a branch whose try does nothing, here; or calls the service that registers it.
    async fn branch(&self, transaction: &GlobalTransaction, branch: u32, stamp: Stamp) -> Result<(), String> {
        if let Some(url) = self.places.try_url(branch) {
            let payload = stamp.payload(self.options.payload_bytes());
            let answer =
                self.http.post(url).body(payload).send_in(transaction).await.map_err(failed("try"))?;
            return match answer.status().is_success() {
                true => Ok(()),
                false => Err(format!("try: {} {}", answer.status(), answer.text().await.unwrap_or_default())),
            };
        }
        let target = self.places.target(branch);
        let branch = match self.options.mode {
            Workload::TwoPhase => NewBranch::two_phase(target.clone(), target),
            _ => NewBranch::tcc(target.clone(), target),
        };
        let branch = branch.payload_bytes(stamp.payload(self.options.payload_bytes()));
        let key = transaction.register(branch).await.map_err(failed("register"))?;
        transaction.vote(key);
        Ok(())
    }

    async fn saga(&self, shot: Shot) -> Result<End, String> {
        let stamp = Stamp { intended_us: shot.intended_us, refuse: false };
        let last = self.options.branches - 1;
        let refusing = Stamp { refuse: shot.abort, ..stamp };
        let bytes = self.options.payload_bytes();
        // The name is every step's: where the stamp stands there, the first step refuses.
        let mut saga = Saga::new(refusing.name(bytes));
        for step in 0..self.options.branches {
            let target: StepTarget = self.places.target(step);
            let stamp = if step == last { refusing } else { stamp };
            saga = saga
                .step(format!("step-{}", step + 1))
                .action(target.clone())
                .compensate(target)
                .payload_bytes(stamp.payload(bytes));
        }
        let saga = saga.wait(WaitFor::Finished).wait_at_most(SAGA_WAIT_MAX);
        decided(saga.run(self.client(shot)).await.map(|_| ()))
    }

    /// A message whose local transaction is none: prepared, and submitted or given up.
    async fn message(&self, shot: Shot) -> Result<End, String> {
        let stamp = Stamp { intended_us: shot.intended_us, refuse: false };
        let bytes = self.options.payload_bytes();
        let mut message = self.client(shot).message(stamp.name(bytes)).check_back("bench-1", "sender");
        for receiver in 0..self.options.branches {
            message = message.deliver_bytes(self.places.target(receiver), stamp.payload(bytes));
        }
        let message = message.prepare().await.map_err(failed("prepare"))?;
        if shot.abort {
            return message.abort().await.map(|()| End::Aborted).map_err(failed("abort"));
        }
        decided(message.submit().await)
    }
}

impl Driver for Unanimity {
    async fn run(&self, shot: Shot) -> Outcome {
        let end = match self.options.mode {
            Workload::Tcc | Workload::TwoPhase => self.branches(shot).await,
            Workload::Saga => self.saga(shot).await,
            Workload::Message => self.message(shot).await,
        };
        let decided_us = now_us();
        let end = end.unwrap_or_else(End::Failed);
        // A saga is waited for to its end, and nobody hears of a message that was given up. Of the others
        // the participants know when the end came.
        let is_over = match self.options.mode {
            Workload::Saga => true,
            Workload::Message => end == End::Aborted,
            Workload::Tcc | Workload::TwoPhase => false,
        };
        Outcome { end, decided_us, finished_us: is_over.then_some(decided_us) }
    }
}

fn decided(answer: Result<(), CommitError>) -> Result<End, String> {
    match answer {
        Ok(()) => Ok(End::Committed),
        Err(TransactionError::Aborted { .. }) => Ok(End::Aborted),
        Err(error) => Err(format!("commit: {error}")),
    }
}

fn failed<E: Display>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}
