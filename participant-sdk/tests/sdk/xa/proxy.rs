//! A proxy that loses the answer to one statement: the server does it, the client never hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(super) struct Proxy {
    pub(super) port: u16,
    losses: Arc<AtomicU32>,
}

impl Proxy {
    /// Forwards to a port. The first connection on which a client sends `statement` is cut as soon as
    /// the server has answered it.
    pub(super) async fn start(server: u16, statement: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let losses = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&losses);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await;
                    if let Ok(server) = server {
                        let _ = forward(client, server, statement, &counter).await;
                    }
                });
            }
        });
        Self { port, losses }
    }

    /// How many answers were lost: a test that claims one looks here.
    pub(super) fn losses(&self) -> u32 {
        self.losses.load(Ordering::SeqCst)
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    statement: &str,
    losses: &AtomicU32,
) -> std::io::Result<()> {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut cut = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let sent = &up[..read?];
                if sent.is_empty() {
                    return Ok(());
                }
                let is_it = sent.windows(statement.len()).any(|part| part == statement.as_bytes());
                cut = is_it && losses.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                server.write_all(sent).await?;
            }
            read = server.read(&mut down) => {
                let answer = &down[..read?];
                if answer.is_empty() || cut {
                    return Ok(());
                }
                client.write_all(answer).await?;
            }
        }
    }
}
