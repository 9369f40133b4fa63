//! Between the services and the coordinator: now and then it swallows what one side says, and then cuts every
//! connection. What was said meanwhile was done, and nobody hears that it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Whose words get lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The services': answers of actions and compensations, and what the agency asks for.
    Services = 1,
    /// The coordinator's: operations that it sends, and its answers to the agency.
    Coordinator = 2,
}

const NOBODY: u8 = 0;

#[derive(Debug)]
struct Shared {
    loses: AtomicU8,
    lost_bytes: AtomicU64,
    /// Changes when every connection is cut.
    cuts: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Forwards what comes in to `to`, which may come and go.
    pub(super) async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (loses, lost_bytes) = (AtomicU8::new(NOBODY), AtomicU64::new(0));
        let shared = Arc::new(Shared { loses, lost_bytes, cuts: watch::Sender::new(0) });
        let all = Arc::clone(&shared);
        let listening = tokio::spawn(async move {
            while let Ok((service, _)) = listener.accept().await {
                let shared = Arc::clone(&all);
                tokio::spawn(async move {
                    // Nobody there: the service hears it as it would without us.
                    if let Ok(coordinator) = TcpStream::connect(to).await {
                        shared.forward(service, coordinator).await;
                    }
                });
            }
        });
        Ok(Self { address, shared, listening })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Swallows what one side says for a while, then cuts every connection.
    pub(super) async fn lose(&self, side: Side, how_long: Duration) {
        self.shared.loses.store(side as u8, Ordering::SeqCst);
        tokio::time::sleep(how_long).await;
        // Cut first: what follows on these connections would not fit to what was swallowed.
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        self.shared.loses.store(NOBODY, Ordering::SeqCst);
    }

    pub(super) fn lost_bytes(&self) -> u64 {
        self.shared.lost_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Shared {
    async fn forward(&self, service: TcpStream, coordinator: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let (from_service, to_service) = service.into_split();
        let (from_coordinator, to_coordinator) = coordinator.into_split();
        tokio::select! {
            _ = cuts.changed() => {}
            () = self.copy(Side::Services, from_service, to_coordinator) => {}
            () = self.copy(Side::Coordinator, from_coordinator, to_service) => {}
        }
    }

    async fn copy(&self, side: Side, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; 65_536];
        let mut has_lost = false;
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
            if self.loses.load(Ordering::SeqCst) == side as u8 {
                self.lost_bytes.fetch_add(read as u64, Ordering::SeqCst);
                has_lost = true;
            } else if has_lost || to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
