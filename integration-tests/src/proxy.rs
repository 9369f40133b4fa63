//! A way between processes on which a test makes the weather: what one side says is lost, held up or late, while the
//! other side is heard as ever. Connections can be cut.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What is read at a time.
const CHUNK_BYTES: usize = 16_384;
/// Chunks that are on their way when the weather makes them late: the sender waits beyond.
const UNDER_WAY_MAX: usize = 256;

/// Whose words the weather is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who opened the connection.
    Caller = 0,
    /// Who accepted it.
    Listener = 1,
}

/// What happens to words on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weather {
    /// They arrive.
    #[default]
    Clear,
    /// They vanish. A connection that lost some is closed as soon as it could say more.
    Lost,
    /// They wait, as TCP repeats them while a network is cut; cut the connection and they are lost.
    Held,
    /// They arrive later by so much, in their order.
    Late(Duration),
}

/// Callers that are told apart: those of kind 1 from everybody else.
type Sky = [[Weather; 2]; 2];

/// Tells callers apart by their address: answers whether one is of kind 1.
pub type Tell = Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>;

struct Shared {
    sky: watch::Sender<Sky>,
    /// Bytes that were lost, held or late.
    touched: AtomicU64,
    lost: AtomicU64,
    /// Changes when every connection is cut.
    cuts: watch::Sender<u64>,
}

/// A listener that forwards, at an address that stays the same while what is behind it comes and goes.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Forwards what comes in to `to`; all callers are alike.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        Self::telling(to, Arc::new(|_| false)).await
    }

    /// Forwards what comes in to `to`, and tells callers apart.
    ///
    /// # Errors
    /// There is no port.
    pub async fn telling(to: SocketAddr, tell: Tell) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            sky: watch::Sender::default(),
            touched: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            cuts: watch::Sender::default(),
        });
        let all = Arc::clone(&shared);
        let listening = tokio::spawn(async move {
            while let Ok((caller, from)) = listener.accept().await {
                let (shared, kind) = (Arc::clone(&all), usize::from(tell(from)));
                tokio::spawn(async move {
                    // Nobody there: the caller hears it as it would without us.
                    if let Ok(there) = TcpStream::connect(to).await {
                        // As both ends would have it without us.
                        let _ = (caller.set_nodelay(true), there.set_nodelay(true));
                        shared.forward(kind, caller, there).await;
                    }
                });
            }
        });
        Ok(Self { address, shared, listening })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes the weather for the words of one side on connections of callers of this kind, also on those that are
    /// open.
    pub fn set(&self, is_told: bool, side: Side, weather: Weather) {
        self.shared.sky.send_modify(|sky| sky[usize::from(is_told)][side as usize] = weather);
    }

    /// Cuts every connection: what is on its way is lost.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Swallows what one side says for a while, then cuts every connection.
    pub async fn lose(&self, side: Side, how_long: Duration) {
        for is_told in [false, true] {
            self.set(is_told, side, Weather::Lost);
        }
        tokio::time::sleep(how_long).await;
        // Cut first: what follows on these connections would not fit to what was swallowed.
        self.cut();
        for is_told in [false, true] {
            self.set(is_told, side, Weather::Clear);
        }
    }

    /// Bytes that vanished.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Bytes that did not go through at once: lost, held or late.
    #[must_use]
    pub fn touched_bytes(&self) -> u64 {
        self.shared.touched.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

impl Shared {
    async fn forward(&self, kind: usize, caller: TcpStream, there: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let (from_caller, to_caller) = caller.into_split();
        let (from_there, to_there) = there.into_split();
        tokio::select! {
            _ = cuts.changed() => {}
            () = self.carry(kind, Side::Caller, from_caller, to_there) => {}
            () = self.carry(kind, Side::Listener, from_there, to_caller) => {}
        }
    }

    /// Carries the words of one side until it has no more, or the other one hears no more.
    async fn carry(
        &self,
        kind: usize,
        side: Side,
        from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) {
        let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
        let write = async move {
            while let Some((due, words)) = under_way.recv().await {
                tokio::time::sleep_until(due).await;
                if to.write_all(&words).await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        };
        let mut write = pin!(write);
        tokio::select! {
            () = self.read(kind, side, from, sender) => write.await,
            () = &mut write => {}
        }
    }

    async fn read(
        &self,
        kind: usize,
        side: Side,
        mut from: impl AsyncRead + Unpin,
        sender: mpsc::Sender<(Instant, Vec<u8>)>,
    ) {
        let mut sky = self.sky.subscribe();
        let mut has_lost = false;
        loop {
            let mut words = vec![0; CHUNK_BYTES];
            let Ok(read @ 1..) = from.read(&mut words).await else { return };
            words.truncate(read);
            let weather = sky.borrow_and_update()[kind][side as usize];
            if weather != Weather::Clear {
                self.touched.fetch_add(read as u64, Ordering::SeqCst);
            }
            let mut due = Instant::now();
            match weather {
                Weather::Clear => {}
                Weather::Late(by) => due += by,
                Weather::Held => {
                    // An error: the proxy is gone.
                    if sky.wait_for(|sky| sky[kind][side as usize] != Weather::Held).await.is_err() {
                        return;
                    }
                }
                Weather::Lost => {
                    self.lost.fetch_add(read as u64, Ordering::SeqCst);
                    has_lost = true;
                    continue;
                }
            }
            if has_lost || sender.send((due, words)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A connection through a proxy, both ends.
    async fn pair() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let caller = TcpStream::connect(proxy.address()).await.unwrap();
        let (there, _) = listener.accept().await.unwrap();
        (proxy, caller, there)
    }

    async fn hears(stream: &mut TcpStream, words: &[u8]) {
        let mut heard = vec![0; words.len()];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, words);
    }

    async fn hears_nothing(stream: &mut TcpStream) {
        let heard = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    #[tokio::test]
    async fn one_direction_is_held_and_the_other_goes_on() {
        let (proxy, mut caller, mut there) = pair().await;
        proxy.set(false, Side::Caller, Weather::Held);
        caller.write_all(b"ask").await.unwrap();
        there.write_all(b"tell").await.unwrap();
        hears(&mut caller, b"tell").await;
        hears_nothing(&mut there).await;
        proxy.set(false, Side::Caller, Weather::Clear);
        hears(&mut there, b"ask").await;
        assert_eq!((proxy.touched_bytes(), proxy.lost_bytes()), (3, 0));
    }

    #[tokio::test]
    async fn what_is_lost_never_arrives() {
        let (proxy, mut caller, mut there) = pair().await;
        proxy.set(false, Side::Listener, Weather::Lost);
        there.write_all(b"tell").await.unwrap();
        hears_nothing(&mut caller).await;
        proxy.set(false, Side::Listener, Weather::Clear);
        proxy.cut();
        let end = tokio::time::timeout(LIMIT, caller.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        assert_eq!(proxy.lost_bytes(), 4);
    }

    #[tokio::test]
    async fn late_words_arrive_in_their_order() {
        let (proxy, mut caller, mut there) = pair().await;
        proxy.set(false, Side::Caller, Weather::Late(Duration::from_millis(300)));
        let sent = Instant::now();
        for words in [&b"one "[..], b"two "] {
            caller.write_all(words).await.unwrap();
        }
        hears(&mut there, b"one two ").await;
        assert!(sent.elapsed() >= Duration::from_millis(300));
    }
}
