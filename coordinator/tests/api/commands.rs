//! The command stream: answers as the calls give them, bounds, and clients that misbehave.

use std::time::{Duration, Instant};

use axum::body::Body;
use http::StatusCode;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use unanimity_coordinator::config::{Config, Limits};
use unanimity_proto::v1;
use unanimity_proto::v1::answer::Kind as Answered;
use unanimity_proto::v1::command::Kind;

use crate::support::{Callback, Fixture, grpc_code, stop};

const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A stream in hand.
struct Stream {
    outgoing: mpsc::Sender<v1::CommandBatch>,
    incoming: Streaming<v1::AnswerBatch>,
    answers: Vec<v1::Answer>,
    tickets: Vec<v1::Tickets>,
}

impl Stream {
    async fn open(fixture: &Fixture) -> Result<Self, tonic::Status> {
        let (outgoing, body) = mpsc::channel(1);
        let incoming = fixture.grpc().await.commands(ReceiverStream::new(body)).await?.into_inner();
        Ok(Self { outgoing, incoming, answers: Vec::new(), tickets: Vec::new() })
    }

    async fn send(&self, commands: impl IntoIterator<Item = (u64, Kind)>) {
        let commands = commands
            .into_iter()
            .map(|(id, kind)| v1::Command { id, timeout_ms: 0, kind: Some(kind) })
            .collect();
        self.outgoing.send(v1::CommandBatch { commands }).await.expect("taken");
    }

    /// The next answer.
    async fn answer(&mut self) -> Result<Option<v1::Answer>, tonic::Status> {
        while self.answers.is_empty() {
            let next = tokio::time::timeout(ANSWER_MAX, self.incoming.message()).await;
            let Some(batch) = next.expect("in time")? else { return Ok(None) };
            self.answers.extend(batch.answers);
            self.tickets.extend(batch.tickets);
        }
        Ok(Some(self.answers.remove(0)))
    }

    async fn ask(&mut self, kind: Kind) -> Answered {
        self.send([(7, kind)]).await;
        let answer = self.answer().await.expect("no error").expect("an answer");
        assert_eq!(answer.id, 7);
        answer.kind.expect("a kind")
    }

    /// How it ended, after answers that are skipped.
    async fn end(&mut self) -> Option<tonic::Status> {
        loop {
            match self.answer().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

/// What the call answers, in the stream's words.
async fn call(fixture: &Fixture, kind: Kind) -> Answered {
    let mut client = fixture.grpc().await;
    let result = match kind {
        Kind::Begin(request) => {
            client.begin(request).await.map(|answer| Answered::Begun(answer.into_inner()))
        }
        Kind::Register(request) => {
            client.register_branch(request).await.map(|answer| Answered::Registered(answer.into_inner()))
        }
        Kind::Vote(request) => client.vote(request).await.map(|answer| Answered::Voted(answer.into_inner())),
        Kind::Commit(request) => {
            client.commit(request).await.map(|answer| Answered::Decided(answer.into_inner()))
        }
        Kind::Abort(request) => {
            client.abort(request).await.map(|answer| Answered::Decided(answer.into_inner()))
        }
        Kind::Get(request) => {
            client.get_transaction(request).await.map(|answer| Answered::Found(answer.into_inner()))
        }
    };
    result.unwrap_or_else(|status| {
        Answered::Error(v1::CommandError {
            status: (status.code() as i32).unsigned_abs(),
            message: status.message().to_owned(),
            detail: unanimity_proto::error_from_status(&status),
        })
    })
}

/// Without the place in the log, which grows from answer to answer, and without what is said in other words
/// when a transaction went from memory into history meanwhile.
fn placeless(mut answer: Answered) -> Answered {
    match &mut answer {
        Answered::Begun(answer) => answer.position = None,
        Answered::Registered(answer) => answer.position = None,
        Answered::Voted(answer) => answer.position = None,
        Answered::Decided(answer) => answer.position = None,
        Answered::Found(answer) => answer.position = None,
        Answered::Error(error) => {
            if error.detail.as_ref().is_some_and(|detail| detail.code == "already_decided") {
                error.message.clear();
            }
        }
    }
    answer
}

fn begin(xid: &str, name: &str) -> Kind {
    Kind::Begin(v1::BeginRequest {
        mode: v1::Mode::Tcc as i32,
        name: name.to_owned(),
        xid: xid.to_owned(),
        ..Default::default()
    })
}

fn register(xid: &str, key: &str, url: &str) -> v1::RegisterBranchRequest {
    let target = v1::Target { kind: Some(v1::target::Kind::Url(url.to_owned())) };
    v1::RegisterBranchRequest {
        xid: xid.to_owned(),
        key: key.to_owned(),
        targets: Some(v1::BranchTargets { one: Some(target), ..Default::default() }),
        ..Default::default()
    }
}

fn commit(xid: &str, wait: v1::Wait) -> Kind {
    Kind::Commit(v1::CommitRequest { xid: xid.to_owned(), wait: wait as i32, ..Default::default() })
}

fn abort(xid: &str) -> Kind {
    Kind::Abort(v1::AbortRequest { xid: xid.to_owned(), ..Default::default() })
}

fn get(xid: &str, wait: v1::Wait) -> Kind {
    Kind::Get(v1::GetTransactionRequest { xid: xid.to_owned(), wait: wait as i32, wait_ms: 10_000 })
}

fn vote(xid: &str, key: &str) -> Kind {
    Kind::Vote(v1::VoteRequest { xid: xid.to_owned(), key: key.to_owned(), vote: v1::Vote::Prepared as i32 })
}

/// A transaction that is committing and stays so.
async fn stuck(fixture: &Fixture, participant: &Callback) -> String {
    participant.answer_with(StatusCode::INTERNAL_SERVER_ERROR);
    let xid = fixture.begin().await;
    assert_eq!(fixture.branch(&xid, "stock", participant).await.status, 201);
    let committed = fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await;
    assert_eq!(committed.text("status"), "committing");
    xid
}

#[tokio::test]
async fn every_command_is_answered_as_its_call() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let (one, two, nobody) = (
        "0191e7a4-5c1b-7d3e-8f00-000000000001",
        "0191e7a4-5c1b-7d3e-8f00-000000000002",
        "0191e7a4-5c1b-7d3e-8f00-000000000003",
    );
    let large = v1::RegisterBranchRequest {
        payload: vec![0; 1024 * 1024 + 1].into(),
        ..register(one, "large", &stock.url("one"))
    };
    let foreign = v1::RegisterBranchRequest {
        log_id: "0191e7a4-5c1b-7d3e-8f00-000000000009".to_owned(),
        ..register(one, "foreign", &stock.url("one"))
    };
    let not_voted = v1::CommitRequest {
        xid: two.to_owned(),
        votes: Some(v1::VoteSet { keys: vec!["nobody's".to_owned()] }),
        ..Default::default()
    };
    let secret = v1::CommitRequest { secret: vec![1; 65].into(), xid: one.to_owned(), ..Default::default() };
    let by = v1::AbortRequest { xid: one.to_owned(), operator: "ada".to_owned(), ..Default::default() };
    let mut errors = 0;
    for kind in [
        begin(one, "order"),
        begin(one, "another order"),
        begin("no xid", "order"),
        begin("", "an\u{0}order"),
        Kind::Begin(v1::BeginRequest::default()),
        begin(two, "order"),
        get(one, v1::Wait::Unspecified),
        get(nobody, v1::Wait::Unspecified),
        get("no xid", v1::Wait::Unspecified),
        Kind::Register(register(one, "stock", &stock.url("one"))),
        Kind::Register(register(one, "stock", &stock.url("another"))),
        Kind::Register(register(one, "far", "http://192.0.2.1/confirm")),
        Kind::Register(v1::RegisterBranchRequest { xid: one.to_owned(), ..Default::default() }),
        Kind::Register(large),
        Kind::Register(foreign),
        vote(one, "nobody's"),
        vote(one, ""),
        Kind::Vote(v1::VoteRequest { xid: one.to_owned(), ..Default::default() }),
        Kind::Commit(secret),
        Kind::Abort(by),
        commit(one, v1::Wait::Finished),
        abort(one),
        Kind::Register(register(one, "late", &stock.url("one"))),
        Kind::Commit(not_voted),
        commit(two, v1::Wait::Decided),
        abort(two),
        commit(nobody, v1::Wait::Unspecified),
        commit("", v1::Wait::Unspecified),
        abort(nobody),
        begin(nobody, "order"),
    ] {
        // The first of the two may have an effect: the second is its repetition.
        let by_call = placeless(call(&fixture, kind.clone()).await);
        let by_stream = placeless(stream.ask(kind.clone()).await);
        if let Answered::Error(error) = &by_stream {
            assert!(error.detail.as_ref().is_some_and(|detail| !detail.code.is_empty()), "{error:?}");
            errors += 1;
        }
        assert_eq!(by_stream, by_call, "{kind:?}");
    }
    assert!(errors > 15, "{errors}");
    // And the other way round: what the stream did first.
    let three = "0191e7a4-5c1b-7d3e-8f00-000000000004";
    for kind in [
        begin(three, "order"),
        Kind::Register(register(three, "stock", &stock.url("one"))),
        commit(three, v1::Wait::Finished),
    ] {
        let by_stream = placeless(stream.ask(kind.clone()).await);
        assert!(!matches!(by_stream, Answered::Error(_)), "{by_stream:?}");
        assert_eq!(by_stream, placeless(call(&fixture, kind).await));
    }
    // Its first message told the tickets.
    let tickets = &stream.tickets[0];
    assert_eq!((tickets.partitions, tickets.tickets.len()), (2, 2));
    stop(fixture.node).await;
}

#[tokio::test]
async fn commands_that_make_no_sense_are_answered() {
    let fixture = Fixture::start().await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let none = |id| v1::Command { id, timeout_ms: 0, kind: None };
    stream.outgoing.send(v1::CommandBatch { commands: vec![none(0), none(u64::MAX)] }).await.expect("taken");
    for id in [0, u64::MAX] {
        let answer = stream.answer().await.expect("no error").expect("an answer");
        let Some(Answered::Error(error)) = answer.kind else { panic!("{answer:?}") };
        assert_eq!((answer.id, error.detail.expect("a detail").code.as_str()), (id, "invalid_request"));
    }
    // A number that is used twice at once is the client's own riddle: both are carried out and answered.
    stream.send((0..100).map(|_| (1, begin("", "order")))).await;
    let mut xids = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let answer = stream.answer().await.expect("no error").expect("an answer");
        let Some(Answered::Begun(begun)) = answer.kind else { panic!("{answer:?}") };
        xids.insert(begun.xid);
        assert_eq!(answer.id, 1);
    }
    assert_eq!(xids.len(), 100);
    // Nothing is no offence either.
    stream.send([]).await;
    assert!(matches!(stream.ask(begin("", "order")).await, Answered::Begun(_)));
    // A client that has nothing more to ask gets what is due, and a good end.
    stream.send([(9, begin("", "order"))]).await;
    let Stream { outgoing, incoming, .. } = stream;
    drop(outgoing);
    let mut rest =
        Stream { outgoing: mpsc::channel(1).0, incoming, answers: Vec::new(), tickets: Vec::new() };
    assert_eq!(rest.answer().await.expect("no error").expect("an answer").id, 9);
    assert!(rest.end().await.is_none());
}

#[tokio::test]
async fn too_large_messages_end_the_stream_and_what_came_before_is_answered() {
    let fixture = Fixture::start().await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    stream.send([(1, begin("", "order"))]).await;
    stream.send((0..1_001).map(|id| (id, begin("", "order")))).await;
    assert_eq!(stream.answer().await.expect("no error").expect("an answer").id, 1);
    assert_eq!(grpc_code(&stream.end().await.expect("a word")), "invalid_request");

    let mut stream = Stream::open(&fixture).await.expect("a stream");
    stream.send([(1, begin("", "order"))]).await;
    stream.send([(2, begin("", &"x".repeat(5 * 1024 * 1024)))]).await;
    assert_eq!(stream.answer().await.expect("no error").expect("an answer").id, 1);
    assert_eq!(grpc_code(&stream.end().await.expect("a word")), "message_too_large");
    assert_eq!(fixture.get("/v1/info").await.status, 200);
}

#[tokio::test]
async fn hostile_frames_end_their_stream_alone() {
    use tower::Service as _;

    let fixture = Fixture::start().await;
    let mut good = Stream::open(&fixture).await.expect("a stream");
    let frame = |flag: u8, length: u32, bytes: &[u8]| [&[flag][..], &length.to_be_bytes(), bytes].concat();
    for body in [
        frame(0, 2, &[0xff, 0xff]),
        frame(0, u32::MAX, &[]),
        frame(1, 2, &[0x0a, 0x00]),
        frame(9, 2, &[0x0a, 0x00]),
        frame(0, 100, &[0x0a]),
        // A command whose own length goes beyond the message's.
        frame(0, 2, &[0x0a, 0x7f]),
        vec![0; 3],
        frame(0, 0, &[]).repeat(10_000),
    ] {
        let request = http::Request::post(fixture.url("/unanimity.v1.Coordinator/Commands"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Body::from(body)))
            .expect("a request");
        let mut channel = fixture.channel().await;
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("ready");
        let response = channel.call(request).await.expect("an answer");
        let rest = axum::body::to_bytes(Body::new(response.into_body()), 1 << 20);
        tokio::time::timeout(ANSWER_MAX, rest).await.expect("it ends").expect("a body");
    }
    assert!(matches!(good.ask(begin("", "order")).await, Answered::Begun(_)));
}

#[tokio::test]
async fn a_client_that_never_reads_is_held_back_and_cut_off() {
    const BATCHES: usize = 400;
    let limits = Limits { connections_max: 4, ..Limits::default() };
    let fixture = Fixture::with(Config { limits, ..Config::default() }).await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let mut taken = 0;
    for _ in 0..BATCHES {
        let commands = (0..500).map(|id| v1::Command { id, timeout_ms: 0, kind: Some(begin("no xid", "")) });
        let batch = v1::CommandBatch { commands: commands.collect() };
        if tokio::time::timeout(Duration::from_secs(2), stream.outgoing.send(batch)).await.is_err() {
            break;
        }
        taken += 1;
    }
    assert!(taken < BATCHES, "nothing held it back");
    // Everybody else goes on.
    let mut good = Stream::open(&fixture).await.expect("a stream");
    assert!(matches!(good.ask(begin("", "order")).await, Answered::Begun(_)));
    // It is cut off after ten seconds: its place, the last of them, is free.
    let mut client = fixture.grpc().await;
    let mut open = Vec::new();
    let end = Instant::now() + Duration::from_secs(40);
    while open.len() < 3 {
        assert!(Instant::now() < end, "it was not cut off");
        let (outgoing, body) = mpsc::channel::<v1::CommandBatch>(1);
        match client.commands(ReceiverStream::new(body)).await {
            Ok(stream) => open.push((outgoing, stream)),
            Err(status) => assert_eq!(grpc_code(&status), "too_busy"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What had gone out by then can still be read; it is not all.
    let mut answers = 0;
    while let Ok(Some(_)) = stream.answer().await {
        answers += 1;
    }
    assert!(answers < taken * 500, "{answers} answers to {taken} messages");
}

#[tokio::test]
async fn commands_count_as_calls_in_hand() {
    let limits = Limits { in_flight_max: 2, ..Limits::default() };
    let fixture = Fixture::with(Config { limits, ..Config::default() }).await;
    let stock = Callback::start().await;
    let xid = stuck(&fixture, &stock).await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    stream.send((0..3).map(|id| (id, commit(&xid, v1::Wait::Finished)))).await;
    // Two wait, the third finds the node full, and so does a call.
    let answer = stream.answer().await.expect("no error").expect("an answer");
    let Some(Answered::Error(error)) = answer.kind else { panic!("{answer:?}") };
    let detail = error.detail.expect("a detail");
    assert_eq!((answer.id, detail.code.as_str(), detail.retry_after_ms), (2, "too_busy", 1_000));
    assert_eq!(fixture.post("/v1/transactions", &json!({ "mode": "tcc" })).await.code(), "too_busy");
    stock.answer_with(StatusCode::OK);
    for _ in 0..2 {
        let answer = stream.answer().await.expect("no error").expect("an answer");
        let Some(Answered::Decided(decided)) = answer.kind else { panic!("{answer:?}") };
        assert_eq!(decided.status, v1::Status::Committed as i32);
    }
    // Their places are free again.
    assert!(matches!(stream.ask(begin("", "order")).await, Answered::Begun(_)));
    assert_eq!(fixture.post("/v1/transactions", &json!({ "mode": "tcc" })).await.status, 201);
}

#[tokio::test]
async fn a_command_has_its_own_deadline() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let xid = stuck(&fixture, &stock).await;
    let holder = fixture.begin().await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let lock = |xid: &str| v1::RegisterBranchRequest {
        lock_keys: vec!["sku-7".to_owned()],
        lock_wait_ms: 30_000,
        ..register(xid, "lock", &stock.url("one"))
    };
    assert!(matches!(stream.ask(Kind::Register(lock(&holder))).await, Answered::Registered(_)));
    let second = fixture.begin().await;
    let commands = [commit(&xid, v1::Wait::Finished), Kind::Register(lock(&second))];
    let commands =
        commands.into_iter().zip(1..).map(|(kind, id)| v1::Command { id, timeout_ms: 300, kind: Some(kind) });
    stream.outgoing.send(v1::CommandBatch { commands: commands.collect() }).await.expect("taken");
    // The decision is told when the time for its branches is over; a lock has nothing to tell.
    let answer = stream.answer().await.expect("no error").expect("an answer");
    let Some(Answered::Decided(decided)) = &answer.kind else { panic!("{answer:?}") };
    assert_eq!((answer.id, decided.status), (1, v1::Status::Committing as i32));
    let answer = stream.answer().await.expect("no error").expect("an answer");
    let Some(Answered::Error(error)) = answer.kind else { panic!("{answer:?}") };
    assert_eq!((answer.id, error.status), (2, tonic::Code::DeadlineExceeded as u32));
    assert_eq!(error.detail.expect("a detail").code, "deadline_exceeded");
}

/// What a client asked for and did not wait for goes on, also where it has several steps.
#[tokio::test]
async fn a_command_whose_client_is_gone_is_not_stopped_half_way() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let (holder, second) = (fixture.begin().await, fixture.begin().await);
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let lock = |xid: &str| {
        Kind::Register(v1::RegisterBranchRequest {
            lock_keys: vec!["sku-7".to_owned()],
            lock_wait_ms: 30_000,
            ..register(xid, "lock", &stock.url("one"))
        })
    };
    assert!(matches!(stream.ask(lock(&holder)).await, Answered::Registered(_)));
    // The answer to the one says that the other was taken too.
    stream.send([(1, lock(&second)), (2, begin("", "order"))]).await;
    assert_eq!(stream.answer().await.expect("no error").expect("an answer").id, 2);
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let path = format!("/v1/transactions/{second}");
    assert_eq!(fixture.get(&path).await.body["branches"], json!([]));
    assert_eq!(fixture.post(&format!("/v1/transactions/{holder}/abort"), &json!({})).await.status, 200);
    let end = Instant::now() + ANSWER_MAX;
    while fixture.get(&path).await.body["branches"] == json!([]) {
        assert!(Instant::now() < end, "it stopped half-way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn streams_are_bounded() {
    let limits = Limits { connections_max: 5, ..Limits::default() };
    let fixture = Fixture::with(Config { limits, ..Config::default() }).await;
    let mut client = fixture.grpc().await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let (outgoing, body) = mpsc::channel::<v1::CommandBatch>(1);
        open.push((outgoing, client.commands(ReceiverStream::new(body)).await.expect("a stream")));
    }
    let (_outgoing, body) = mpsc::channel::<v1::CommandBatch>(1);
    let status = client.commands(ReceiverStream::new(body)).await.expect_err("one too many");
    assert_eq!(grpc_code(&status), "too_busy");
    drop(open);
    let end = Instant::now() + ANSWER_MAX;
    loop {
        let (_outgoing, body) = mpsc::channel::<v1::CommandBatch>(1);
        if client.commands(ReceiverStream::new(body)).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "their places stay taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_that_stops_answers_what_it_took() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let xid = stuck(&fixture, &stock).await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let mut idle = Stream::open(&fixture).await.expect("a stream");
    stream.send([(1, commit(&xid, v1::Wait::Finished)), (2, begin("", "order"))]).await;
    assert_eq!(stream.answer().await.expect("no error").expect("an answer").id, 2);
    let started = Instant::now();
    let reading = async {
        let answer = stream.answer().await.expect("no error").expect("an answer");
        let Some(Answered::Decided(decided)) = &answer.kind else { panic!("{answer:?}") };
        assert_eq!((answer.id, decided.status), (1, v1::Status::Committing as i32));
        for stream in [&mut stream, &mut idle] {
            assert_eq!(grpc_code(&stream.end().await.expect("a word")), "unavailable");
        }
    };
    tokio::join!(stop(fixture.node), reading);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_look_waits_for_the_end_on_a_stream_and_what_is_large_is_for_the_call() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let mut stream = Stream::open(&fixture).await.expect("a stream");
    let xid = fixture.begin().await;
    for branch in 0..150 {
        let key = format!("{branch:0120}");
        let registered = stream.ask(Kind::Register(register(&xid, &key, &stock.url("one")))).await;
        assert!(matches!(registered, Answered::Registered(_)), "{registered:?}");
    }
    let Answered::Error(error) = stream.ask(get(&xid, v1::Wait::Unspecified)).await else {
        panic!("a transaction of more than 16 KiB on the stream")
    };
    assert_eq!(error.detail.expect("a detail").code, "message_too_large");
    let found = call(&fixture, get(&xid, v1::Wait::Unspecified)).await;
    assert!(matches!(&found, Answered::Found(found) if found.branches.len() == 150));

    let xid = fixture.begin().await;
    assert_eq!(fixture.branch(&xid, "stock", &stock).await.status, 201);
    let waiting = stream.ask(get(&xid, v1::Wait::Finished));
    let ending = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        call(&fixture, commit(&xid, v1::Wait::Unspecified)).await
    };
    let (found, _) = tokio::join!(waiting, ending);
    let Answered::Found(found) = found else { panic!("{found:?}") };
    assert_eq!(found.status(), v1::Status::Committed);
}
