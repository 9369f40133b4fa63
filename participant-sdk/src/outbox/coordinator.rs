//! Handing over to the coordinator: a message is a global transaction of the mode `message` that is
//! submitted as it begins.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use tonic::transport::Channel;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_proto::{plan_to_wire, v1};
use unanimity_types::{BranchKey, Delivery, ErrorCode, InquiryAnswer, MessagePlan, Plan, Status, Xid};

use super::handover::{Handed, Handover, HandoverError, HandoverMessage, MessageStatus};
use crate::client::{Again, Client};
use crate::error::ClientError;

/// How long one call may take. A begin waits for one durable block.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks at single messages that are under way at once: whether they are parked stands in no batch.
const LOOKS_AT_ONCE: usize = 8;

impl Handover for Client {
    fn hand_over<'a>(&'a self, message: &'a HandoverMessage) -> BoxFuture<'a, Result<Handed, HandoverError>> {
        Box::pin(async move {
            let request = begin(message)?;
            let begun = self.called(Some(message.id), &request, CALL_TIMEOUT, |mut service: CoordinatorClient<Channel>, request| async move { service.begin(request).await });
            let answer = match begun.await {
                Ok(answer) => answer,
                // The id is a random UUID of ours: whoever began it was this row's relay, with
                // another version of this crate.
                Err(error) if error.code() == Some(ErrorCode::XidReused) => {
                    tracing::warn!(id = %message.id, "the message was handed over before, in another form");
                    return Ok(Handed { status: MessageStatus::Open });
                }
                Err(error) => return Err(error.into()),
            };
            self.witnesses().observe_wire(answer.position.as_ref());
            if let Some(log) = crate::client::parse_log_id(&answer.log_id) {
                // Another log than before: what it says of its own messages holds.
                let _ = self.witnesses().meet(log);
            }
            let status = match answer.status().to_domain() {
                Some(Status::Committed) => MessageStatus::Delivered,
                Some(Status::Aborting | Status::Aborted) => MessageStatus::Aborted,
                _ => MessageStatus::Open,
            };
            Ok(Handed { status })
        })
    }

    fn status<'a>(&'a self, ids: &'a [Xid]) -> BoxFuture<'a, Result<Vec<MessageStatus>, HandoverError>> {
        Box::pin(async move {
            // Young, for all that the coordinator is told: a relay asks about what it handed over lately.
            let asked = ids.iter().map(|id| (*id, 0)).collect();
            let answers = self.inquire(asked, self.log_id()).await?;
            let mut known = BTreeMap::new();
            for inquiry in answers {
                // Matched by xid, never by place; a word that we do not know is no answer.
                let (Ok(xid), Ok(answer)) = (inquiry.xid.parse::<Xid>(), inquiry.answer.parse()) else {
                    continue;
                };
                known.insert(xid, (answer, inquiry.settled));
            }
            let looks: Vec<_> = ids.iter().map(|id| said(self, *id, known.get(id).copied())).collect();
            Ok(futures::stream::iter(looks).buffered(LOOKS_AT_ONCE).collect().await)
        })
    }

    fn retry(&self, id: Xid) -> BoxFuture<'_, Result<(), HandoverError>> {
        Box::pin(async move {
            let request = v1::RetryTransactionRequest {
                xid: id.to_string(),
                operator: "outbox relay".into(),
                reason: "a dead letter is replayed".into(),
            };
            let call = |mut service: CoordinatorClient<Channel>, request| async move {
                service.retry_transaction(request).await
            };
            // Two of them are two actions of an operator.
            let answer = self.called_as(Again::Second, Some(id), &request, CALL_TIMEOUT, call).await?;
            self.witnesses().observe_wire(answer.position.as_ref());
            Ok(())
        })
    }
}

/// What an answer about a message means.
async fn said(client: &Client, id: Xid, answer: Option<(InquiryAnswer, bool)>) -> MessageStatus {
    match answer {
        Some((InquiryAnswer::Committed, true)) => MessageStatus::Delivered,
        Some((InquiryAnswer::Committed, false)) => look(client, id).await,
        Some((InquiryAnswer::Aborted, _)) => MessageStatus::Aborted,
        Some((InquiryAnswer::Forgotten, _)) => MessageStatus::Forgotten,
        Some((InquiryAnswer::NotMine, _)) => {
            tracing::warn!(%id, "the message belongs to another coordinator's log");
            MessageStatus::Open
        }
        Some((InquiryAnswer::Active, _)) | None => MessageStatus::Open,
    }
}

/// Whether a delivery of a message is parked. No answer, or another's, is none: it is asked again.
async fn look(client: &Client, id: Xid) -> MessageStatus {
    let request = v1::GetTransactionRequest { xid: id.to_string(), ..Default::default() };
    let call = |mut service: CoordinatorClient<Channel>, request| async move {
        service.get_transaction(request).await
    };
    match client.called(Some(id), &request, CALL_TIMEOUT, call).await {
        Ok(answer) if answer.branches.iter().any(|branch| branch.parked) => MessageStatus::Parked,
        Ok(_) => MessageStatus::Open,
        Err(error) => {
            tracing::debug!(%id, %error, "the message could not be looked at");
            MessageStatus::Open
        }
    }
}

fn begin(message: &HandoverMessage) -> Result<v1::BeginRequest, HandoverError> {
    let refused = |message: String| HandoverError { retryable: false, retry_after: None, message };
    let delivery = |(place, target): (usize, &unanimity_types::Target)| {
        Ok(Delivery {
            // The receiver's place: the same each time, which is what receivers dedupe by.
            key: BranchKey::new(format!("to-{place}")).map_err(|error| refused(error.to_string()))?,
            target: target.clone(),
            payload: message.payload.clone(),
            policy: message.policy,
        })
    };
    let plan = Plan::Message(MessagePlan {
        check_back: None,
        check_back_payload: bytes::Bytes::new(),
        deliveries: message.targets.iter().enumerate().map(delivery).collect::<Result<_, HandoverError>>()?,
        // The local transaction committed: that is how the row came to be seen.
        submit: true,
    });
    let (saga, plan) = plan_to_wire(&plan);
    Ok(v1::BeginRequest {
        mode: v1::Mode::Message.into(),
        name: message.name.clone(),
        xid: message.id.to_string(),
        timeout_ms: 0,
        saga,
        message: plan,
        // Minted with the row, perhaps long ago.
        ticket: None,
        wait: v1::Wait::Accepted.into(),
    })
}

impl From<ClientError> for HandoverError {
    fn from(error: ClientError) -> Self {
        // Only what speaks about this message condemns it. A bug of the coordinator's, a proxy that
        // knows no such path, a log that stopped: these pass, or somebody mends them.
        let condemned = error.code().is_some_and(|code| {
            matches!(
                code,
                ErrorCode::InvalidRequest
                    | ErrorCode::InvalidName
                    | ErrorCode::InvalidTarget
                    | ErrorCode::InvalidPlan
                    | ErrorCode::InvalidTimeout
                    | ErrorCode::TargetNotAllowed
                    | ErrorCode::MessageTooLarge
                    | ErrorCode::PayloadTooLarge
                    | ErrorCode::TooManyBranches
                    | ErrorCode::AlreadyDecided
                    | ErrorCode::IllegalTransition
            )
        });
        Self { retryable: !condemned, retry_after: error.retry_after(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> HandoverMessage {
        HandoverMessage {
            id: Xid::new(uuid::Uuid::from_u128(7)),
            name: "order-placed".into(),
            key: Some("order-7".into()),
            payload: bytes::Bytes::from_static(b"7"),
            targets: vec![
                unanimity_types::Target::Http("http://a.example/x".into()),
                unanimity_types::Target::Http("http://a.example/x".into()),
            ],
            policy: unanimity_types::CallPolicy::default(),
        }
    }

    #[test]
    fn o3_the_same_message_has_the_same_body_and_keys_each_time() {
        let request = begin(&message()).expect("valid");
        assert_eq!(request, begin(&message()).expect("valid"));
        assert_eq!(request.xid, message().id.to_string());
        let plan = request.message.expect("a plan");
        assert!(plan.submit);
        let keys: Vec<_> = plan.deliveries.iter().map(|delivery| delivery.key.as_str()).collect();
        assert_eq!(keys, ["to-0", "to-1"], "one receiver twice is two deliveries");
    }

    #[test]
    fn only_what_speaks_about_the_message_condemns_it() {
        let error = |code| {
            HandoverError::from(ClientError::Refused {
                code,
                message: String::new(),
                status: None,
                abort_reason: None,
                retry_after: None,
            })
        };
        for code in [ErrorCode::InvalidPlan, ErrorCode::TargetNotAllowed, ErrorCode::MessageTooLarge] {
            assert!(!error(code).retryable, "{code}");
        }
        for code in [ErrorCode::Unavailable, ErrorCode::Internal, ErrorCode::RouteNotFound] {
            assert!(error(code).retryable, "{code}");
        }
        assert!(HandoverError::from(ClientError::no_answer("down")).retryable);
    }
}
