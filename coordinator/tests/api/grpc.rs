//! The same over gRPC.

use unanimity_proto::v1;

use crate::support::{Callback, Fixture};

fn target(url: String) -> Option<v1::Target> {
    Some(v1::Target { kind: Some(v1::target::Kind::Url(url)) })
}

#[tokio::test]
async fn a_transaction_commits() {
    let fixture = Fixture::start().await;
    let stock = Callback::start().await;
    let mut client = fixture.grpc().await;
    let begin =
        v1::BeginRequest { mode: v1::Mode::Tcc as i32, name: "order".to_owned(), ..Default::default() };
    let begun = client.begin(begin).await.expect("begun").into_inner();
    assert_eq!(begun.log_id, fixture.node.coordinator().log_id().to_string());
    assert!(begun.position.is_some());

    let branch = v1::RegisterBranchRequest {
        xid: begun.xid.clone(),
        key: "stock".to_owned(),
        targets: Some(v1::BranchTargets {
            confirm: target(stock.url("confirm")),
            cancel: target(stock.url("cancel")),
            ..Default::default()
        }),
        payload: b"not json".as_slice().into(),
        log_id: begun.log_id.clone(),
        ..Default::default()
    };
    let registered = client.register_branch(branch).await.expect("registered").into_inner();
    assert_eq!((registered.branch_id, registered.key.as_str()), (1, "stock"));

    let commit = v1::CommitRequest {
        xid: begun.xid.clone(),
        votes: Some(v1::VoteSet { keys: vec!["stock".to_owned()] }),
        wait: v1::Wait::Finished as i32,
        ..Default::default()
    };
    let committed = client.commit(commit).await.expect("committed").into_inner();
    assert_eq!(committed.status, v1::Status::Committed as i32);
    assert_eq!(stock.calls().len(), 1);

    let get = v1::GetTransactionRequest { xid: begun.xid.clone(), ..Default::default() };
    let found = client.get_transaction(get).await.expect("found").into_inner();
    assert_eq!((found.decision.as_str(), found.branches[0].status.as_str()), ("commit", "confirmed"));
    assert!(found.finished_at_ms >= found.begun_at_ms && found.begun_at_ms > 0);

    let page =
        client.list_transactions(v1::ListTransactionsRequest::default()).await.expect("a page").into_inner();
    assert!(page.transactions.iter().any(|transaction| transaction.xid == begun.xid));
    let inquire = v1::InquireRequest { xids: vec![begun.xid], log_id: begun.log_id, ..Default::default() };
    let answers = client.inquire(inquire).await.expect("answers").into_inner();
    assert_eq!((answers.answers[0].answer.as_str(), answers.answers[0].settled), ("committed", true));
    let info = client.get_info(v1::GetInfoRequest {}).await.expect("info").into_inner();
    assert_eq!(info.partition_states.len(), 2);
}

#[tokio::test]
async fn reflection_and_health_answer() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

    let fixture = Fixture::start().await;
    let mut health = HealthClient::new(fixture.channel().await);
    for service in ["", "unanimity.v1.Coordinator", "unanimity.v1.Participants"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        // The reporter looks every 100 ms.
        let mut status = ServingStatus::Unknown;
        for _ in 0..50 {
            status = match health.check(request.clone()).await {
                Ok(answer) => answer.into_inner().status(),
                Err(_) => ServingStatus::Unknown,
            };
            if status == ServingStatus::Serving {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }

    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let mut reflection = ServerReflectionClient::new(fixture.channel().await);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .expect("a stream")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == "unanimity.v1.Coordinator"), "{names:?}");
}
