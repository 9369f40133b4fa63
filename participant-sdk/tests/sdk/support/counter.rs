//! A proxy in front of PostgreSQL that writes down what a client waits for: one line for each round
//! trip, in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The round trips of all connections through it.
#[derive(Clone, Default)]
pub(crate) struct Counter {
    trips: Arc<Mutex<Vec<String>>>,
}

impl Counter {
    /// Stands in front of a server; answers its own port.
    pub(crate) async fn before(server: u16) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counter = Self::default();
        let shared = counter.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (mut server_read, server_write) = server.into_split();
                let (client_read, mut client_write) = client.into_split();
                tokio::spawn(shared.clone().read(client_read, server_write));
                tokio::spawn(async move { tokio::io::copy(&mut server_read, &mut client_write).await });
            }
        });
        (counter, port)
    }

    /// What was asked since the last call, each by its first words. Without what a pool asks by
    /// itself: its pings, and the end of a transaction that has nothing left in it.
    pub(crate) fn take(&self) -> Vec<String> {
        let trips = std::mem::take(&mut *self.trips.lock().unwrap());
        trips.into_iter().filter(|trip| trip != "ping" && trip != "ROLLBACK").collect()
    }

    /// Passes the client's messages on and reads them: `Q` is a round trip, and `S` (sync) after others.
    async fn read(self, mut client: OwnedReadHalf, mut server: OwnedWriteHalf) -> std::io::Result<()> {
        // The start-up message has no letter.
        let length = client.read_u32().await?;
        let mut start = vec![0; length as usize - 4];
        client.read_exact(&mut start).await?;
        server.write_all(&[&length.to_be_bytes()[..], &start].concat()).await?;
        let mut texts: HashMap<Vec<u8>, String> = HashMap::new();
        let mut asked = String::from("ping");
        loop {
            let letter = client.read_u8().await?;
            let length = client.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            client.read_exact(&mut body).await?;
            let mut words = body.split(|byte| *byte == 0);
            let first = words.next().unwrap_or_default().to_vec();
            let second = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
            match letter {
                b'Q' => self.trips.lock().unwrap().push(shortened(&String::from_utf8_lossy(&first))),
                b'P' => {
                    asked = format!("prepare {}", shortened(&second));
                    texts.insert(first, second);
                }
                // The portal's name comes before the statement's.
                b'B' => asked = shortened(&texts[second.as_bytes()]),
                b'S' => {
                    let asked = std::mem::replace(&mut asked, "ping".into());
                    self.trips.lock().unwrap().push(asked);
                }
                _ => {}
            }
            let message = [&[letter][..], &length.to_be_bytes(), &body].concat();
            server.write_all(&message).await?;
        }
    }
}

/// The name that our statements have in a comment, or the first word of each statement.
fn shortened(sql: &str) -> String {
    if let Some(name) = sql.strip_prefix("-- unanimity fence: ") {
        return name.lines().next().unwrap_or_default().trim().to_owned();
    }
    let words = sql.split(';').filter_map(|statement| statement.split_whitespace().next());
    words.collect::<Vec<_>>().join("; ")
}
