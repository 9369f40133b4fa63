//! A gate in front of a server: shut, it is as a process that was killed; frozen, as one that was stopped with its
//! connections open.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) struct Gate {
    address: SocketAddr,
    server: u16,
    frozen: Arc<watch::Sender<bool>>,
    shut: CancellationToken,
}

impl Gate {
    /// An open gate at a port of its own.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Self {
            address,
            server,
            frozen: Arc::new(watch::Sender::new(false)),
            shut: CancellationToken::new(),
        };
        gate.serve(listener);
        gate
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts every connection, and takes none.
    pub(crate) fn shut(&mut self) {
        std::mem::take(&mut self.shut).cancel();
    }

    /// Opens again, at the same port.
    pub(crate) async fn open(&mut self) {
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(tokio::time::Instant::now() < end, "{}: {error}", self.address),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        self.serve(listener);
    }

    /// Lets nothing through, in either direction, until it is thawed.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    fn serve(&self, listener: TcpListener) {
        let (shut, frozen, server) = (self.shut.clone(), Arc::clone(&self.frozen), self.server);
        tokio::spawn(shut.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let (up, down) = (frozen.subscribe(), frozen.subscribe());
                let copies = async move {
                    tokio::select! {
                        () = copy(client_read, server_write, up) => {}
                        () = copy(server_read, client_write, down) => {}
                    }
                };
                tokio::spawn(shut.clone().run_until_cancelled_owned(copies));
            }
        }));
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if frozen.wait_for(|frozen| !frozen).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
