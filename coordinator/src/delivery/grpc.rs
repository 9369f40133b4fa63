//! gRPC callbacks: `unanimity.v1.BranchCallback.Execute` at an address.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_callback_client::BranchCallbackClient;
use unanimity_types::{Limits, Operation, Vote};

use super::addresses::Address;
use super::config::DeliveryConfig;
use super::text::{chain, lock, printable};
use crate::engine::BranchCall;

/// Calls gRPC addresses, over one cached connection each.
#[derive(Debug)]
pub(super) struct GrpcCaller {
    /// By origin, with the time of the last use: the longest unused makes room.
    channels: Mutex<HashMap<String, (Channel, Instant)>>,
    channels_max: usize,
    connect_timeout: Duration,
}

impl GrpcCaller {
    pub(super) fn new(config: &DeliveryConfig) -> Self {
        Self {
            channels: Mutex::default(),
            channels_max: config.grpc_channels_max,
            connect_timeout: config.connect_timeout,
        }
    }

    /// Brings one operation to an address that the allow list has passed.
    pub(super) async fn call(
        &self,
        address: &Address,
        message: v1::BranchOperation,
        operation: Operation,
        timeout: Duration,
    ) -> ResultOutcome {
        if address.url.scheme() != "http" {
            let error = "gRPC callbacks over TLS are not supported yet: use http:// or an attached session";
            return ResultOutcome::Unusable { error: error.into() };
        }
        // From the parsed URL, not from its text: the allow list judged what the parser saw.
        let channel = match self.channel(&address.origin) {
            Ok(channel) => channel,
            Err(error) => return ResultOutcome::Unusable { error: chain(&error) },
        };
        let mut client = BranchCallbackClient::new(channel)
            // As in a session: a result that is too large is seen to be that.
            .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX);
        match tokio::time::timeout(timeout, client.execute(message)).await {
            Ok(Ok(response)) => outcome_of(operation, response.get_ref()),
            Ok(Err(status)) => outcome_of_status(&status),
            Err(_) => unknown(printable(&format!("no answer within {timeout:?}"))),
        }
    }

    fn channel(&self, origin: &str) -> Result<Channel, tonic::transport::Error> {
        let now = Instant::now();
        let mut channels = lock(&self.channels);
        if let Some((channel, used)) = channels.get_mut(origin) {
            *used = now;
            return Ok(channel.clone());
        }
        // Lazy: connects in the first call, inside its timeout, and again after a break.
        let channel = Endpoint::from_shared(origin.to_owned())?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_lazy();
        if channels.len() >= self.channels_max {
            // Calls that use it keep their clone; a scan of a few hundred is nothing beside a connect.
            let oldest = channels.iter().min_by_key(|(_, (_, used))| *used).map(|(origin, _)| origin.clone());
            if let Some(oldest) = oldest {
                channels.remove(&oldest);
            }
        }
        channels.insert(origin.to_owned(), (channel.clone(), now));
        Ok(channel)
    }
}

/// The operation for the wire. `name` is empty for callbacks: their address says it all.
pub(super) fn operation_to_wire(
    call: &BranchCall,
    call_id: u64,
    name: &str,
    log_id: &str,
    timeout: Duration,
) -> v1::BranchOperation {
    v1::BranchOperation {
        call_id,
        xid: call.xid.to_string(),
        branch_id: call.branch_id.0,
        key: call.key.as_str().to_owned(),
        operation: v1::Operation::from(call.operation).into(),
        name: name.to_owned(),
        payload: call.payload.clone(),
        attempt: call.attempt,
        position: Some(unanimity_proto::position_to_wire(call.position)),
        log_id: log_id.to_owned(),
        transaction_name: call.transaction_name.as_ref().map(ToString::to_string).unwrap_or_default(),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        inputs: call.inputs.iter().map(|(step, result)| (step.to_string(), result.clone())).collect(),
        result: call.result.clone().unwrap_or_default(),
        kind: v1::BranchKind::from(call.kind).into(),
        role: call.role.map_or(v1::StepRole::Unspecified, v1::StepRole::from).into(),
    }
}

/// A participant's answer to an operation.
pub(super) fn outcome_of(operation: Operation, result: &v1::BranchResult) -> ResultOutcome {
    use v1::branch_result::Outcome;
    let error = || printable(&result.error);
    match Outcome::try_from(result.outcome) {
        Ok(Outcome::Done) => done(operation, result),
        Ok(Outcome::Refused) => ResultOutcome::Refused { error: error() },
        Ok(Outcome::Sealed) => ResultOutcome::Sealed { error: error() },
        Ok(Outcome::NotYet) => ResultOutcome::NotYet { error: error() },
        Ok(Outcome::Unknown) => unknown(error()),
        // A newer participant's word that we do not know is no answer.
        Err(_) => {
            unknown(printable(&format!("outcome {} is unknown here: {}", result.outcome, result.error)))
        }
    }
}

/// What came with a "done".
fn done(operation: Operation, result: &v1::BranchResult) -> ResultOutcome {
    match operation {
        Operation::Action if !result.result.is_empty() => {
            // One byte more than it may have shows that it is too large; nobody needs the rest.
            let seen = result.result.len().min(Limits::RESULT_BYTES_MAX + 1);
            ResultOutcome::Result(result.result.slice(..seen))
        }
        Operation::Prepare => match v1::Vote::try_from(result.vote) {
            Ok(v1::Vote::Unspecified | v1::Vote::Prepared) => ResultOutcome::Voted(Vote::Prepared),
            Ok(v1::Vote::ReadOnly) => ResultOutcome::Voted(Vote::ReadOnly),
            Ok(v1::Vote::Refused) if result.error.is_empty() => {
                ResultOutcome::Refused { error: "it voted refused".into() }
            }
            Ok(v1::Vote::Refused) => ResultOutcome::Refused { error: printable(&result.error) },
            // A newer participant's word that we do not know is no vote.
            Err(_) => unknown(printable(&format!("vote {} is unknown here", result.vote))),
        },
        _ => ResultOutcome::Done,
    }
}

fn outcome_of_status(status: &Status) -> ResultOutcome {
    let error = printable(&format!("{:?}: {}", status.code(), chain(status)));
    match status.code() {
        // The server is there and does not know the service or the message.
        Code::Unimplemented | Code::NotFound | Code::InvalidArgument => ResultOutcome::Unusable { error },
        _ => unknown(error),
    }
}

fn unknown(error: Box<str>) -> ResultOutcome {
    ResultOutcome::Unknown { error, retry_after: None }
}
