//! The scripted coordinator's command streams: what comes on them is answered as the calls are.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use unanimity_proto::v1::answer::Kind as Answered;
use unanimity_proto::v1::command::Kind;
use unanimity_proto::v1::coordinator_server::Coordinator as _;
use unanimity_proto::{error_from_status, v1};

use crate::support::fake::Fake;

type Answers = ReceiverStream<Result<v1::AnswerBatch, Status>>;

impl Fake {
    /// Breaks every command stream that is open, whatever is in hand.
    pub(crate) fn break_streams(&self) {
        self.with(|state| std::mem::replace(&mut state.open_streams, CancellationToken::new())).cancel();
    }

    /// Tells on every stream that is open what is told on those that open.
    pub(crate) fn tell(&self) {
        self.with(|state| {
            let (tickets, topology) = (state.tickets.clone(), state.topology.clone());
            let batch = v1::AnswerBatch { answers: Vec::new(), tickets, topology };
            state.tellers.retain(|teller| teller.try_send(Ok(batch.clone())).is_ok());
        });
    }

    pub(crate) fn serve_commands(
        &self,
        mut incoming: Streaming<v1::CommandBatch>,
    ) -> Result<Response<Answers>, Status> {
        let opened = self.with(|state| {
            state.streams += 1;
            let told = (state.tickets.clone(), state.topology.clone());
            (!state.no_streams).then(|| (state.open_streams.clone(), told))
        });
        let Some((broken, (tickets, topology))) = opened else { return Err(Status::unimplemented("")) };
        let (outgoing, stream) = mpsc::channel(64);
        let fake = self.clone();
        self.with(|state| state.tellers.push(outgoing.clone()));
        tokio::spawn(async move {
            let _ = outgoing.send(Ok(v1::AnswerBatch { answers: Vec::new(), tickets, topology })).await;
            loop {
                let batch = tokio::select! {
                    batch = incoming.message() => batch,
                    () = broken.cancelled() => break,
                };
                let Ok(Some(batch)) = batch else { break };
                fake.with(|state| state.batches.push(batch.commands.len()));
                for command in batch.commands {
                    let (fake, outgoing, broken) = (fake.clone(), outgoing.clone(), broken.clone());
                    tokio::spawn(async move {
                        let kind = tokio::select! {
                            kind = fake.carry_out(command.kind.expect("a kind")) => kind,
                            () = broken.cancelled() => return,
                        };
                        let answers = vec![v1::Answer { id: command.id, kind: Some(kind) }];
                        let _ = outgoing
                            .send(Ok(v1::AnswerBatch { answers, tickets: None, topology: None }))
                            .await;
                    });
                }
            }
            let _ = outgoing.send(Err(Status::unavailable("broken"))).await;
            fake.with(|state| state.tellers.retain(|teller| !teller.same_channel(&outgoing)));
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn carry_out(&self, kind: Kind) -> Answered {
        let result = match kind {
            Kind::Begin(request) => {
                self.begin(Request::new(request)).await.map(|answer| Answered::Begun(answer.into_inner()))
            }
            Kind::Register(request) => self
                .register_branch(Request::new(request))
                .await
                .map(|answer| Answered::Registered(answer.into_inner())),
            Kind::Vote(request) => {
                self.vote(Request::new(request)).await.map(|answer| Answered::Voted(answer.into_inner()))
            }
            Kind::Commit(request) => {
                self.commit(Request::new(request)).await.map(|answer| Answered::Decided(answer.into_inner()))
            }
            Kind::Abort(request) => {
                self.abort(Request::new(request)).await.map(|answer| Answered::Decided(answer.into_inner()))
            }
            Kind::Get(request) => self
                .get_transaction(Request::new(request))
                .await
                .map(|answer| Answered::Found(answer.into_inner())),
        };
        result.unwrap_or_else(|status| {
            Answered::Error(v1::CommandError {
                status: (status.code() as i32).unsigned_abs(),
                message: status.message().to_owned(),
                detail: error_from_status(&status),
            })
        })
    }
}
