//! A door: an address at which a coordinator answers, with its connection and its command stream.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::transport::Channel;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_types::Limits;

use crate::client::nodes::DoorEar;
use crate::client::stream::CommandStream;

/// One address. Connects when it is first used, and again whenever the connection is lost.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: Arc<str>,
    pub(super) channel: Channel,
    stream: CommandStream,
    wanted: watch::Sender<bool>,
}

impl Door {
    pub(super) fn new(address: Arc<str>, channel: Channel, ear: DoorEar) -> Self {
        let wanted = watch::Sender::new(false);
        let stream = CommandStream::new(service(channel.clone()), ear, wanted.subscribe());
        Self { address, channel, stream, wanted }
    }

    /// Whether its stream is kept open, asked or not.
    pub(super) fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
    }

    pub(crate) fn stream(&self) -> &CommandStream {
        &self.stream
    }

    /// For what is asked by calls.
    pub(crate) fn service(&self) -> CoordinatorClient<Channel> {
        service(self.channel.clone())
    }
}

fn service(channel: Channel) -> CoordinatorClient<Channel> {
    CoordinatorClient::new(channel)
        .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX)
}
