//! A proxy before a cluster, between it and a store, that does to connections what networks do: it cuts them anywhere, it delays what is
//! said, and it lets nothing through. All randomness is from one seed, which is printed; `BLUETRACE_TEST_SEED` sets it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{RngExt as _, SeedableRng as _, TryRng as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::sleep;

/// A proxy that is there until it is dropped, and with it all its connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    manner: watch::Sender<Manner>,
    counts: Arc<Counts>,
    _runtime: Runtime,
}

/// What it does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Passes everything on at once.
    Honest,
    /// Cuts each connection when so many bytes have gone one way or the other, and a random number more: often few, and up to 128 KiB.
    Cutting(usize),
    /// Lets whatever comes wait for this long, between so many milliseconds.
    Delaying(u64, u64),
    /// Passes nothing on, not even that the cluster has hung up, and keeps what it is given until it passes things on again.
    Stalling,
    /// The same, in a connection in which the store has said this.
    StallingAt(&'static str),
    /// Cuts a connection in which the store has said this when the answer comes, which is not passed on.
    CuttingAnswerTo(&'static str),
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    cut: AtomicUsize,
}

impl Proxy {
    /// Before the cluster whose socket file is in this folder.
    pub(crate) fn before(folder: &Path) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let manner = watch::Sender::new(Manner::Honest);
        let counts = Arc::<Counts>::default();
        let shared = Shared {
            manner: manner.subscribe(),
            counts: Arc::clone(&counts),
            generator: Arc::new(Mutex::new(generator())),
        };
        let socket = folder.join(".s.PGSQL.5432");
        runtime.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(shared.clone().serve(client, socket.clone()));
            }
        });
        Self { address, manner, counts, _runtime: runtime }
    }

    /// The URL of a database through it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://bluetrace@{}/{database}", self.address)
    }

    /// What it does from now on, to all connections.
    pub(crate) fn set(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// How many it has cut so far.
    pub(crate) fn cut(&self) -> usize {
        self.counts.cut.load(Ordering::Relaxed)
    }
}

/// What all connections have in common.
#[derive(Clone)]
struct Shared {
    manner: watch::Receiver<Manner>,
    counts: Arc<Counts>,
    generator: Arc<Mutex<ChaCha12Rng>>,
}

impl Shared {
    async fn serve(self, client: tokio::net::TcpStream, socket: PathBuf) {
        let _open = Open::count(&self.counts);
        // where there is no cluster, the connection is closed
        let Ok(server) = UnixStream::connect(socket).await else { return };
        client.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (marked, [up, down]) = (Arc::new(AtomicBool::new(false)), self.draw_cut());
        let way = |is_up, cut_at| Way { shared: self.clone(), is_up, cut_at, passed: 0, marked: Arc::clone(&marked) };
        // whichever ends first, ends both
        tokio::select! {
            () = way(true, up).pass(from_client, to_server) => {}
            () = way(false, down).pass(from_server, to_client) => {}
        }
    }

    /// After how many bytes each way is cut, where any is.
    fn draw_cut(&self) -> [usize; 2] {
        let mut generator = self.generator.lock().unwrap();
        let most = 1 << generator.random_range(6..=17);
        let cut_at = generator.random_range(0..most);
        if generator.random() { [cut_at, usize::MAX] } else { [usize::MAX, cut_at] }
    }
}

/// One way of a connection.
struct Way {
    shared: Shared,
    is_up: bool,
    cut_at: usize,
    passed: usize,
    /// Whether the store has said what [`Manner::StallingAt`] or [`Manner::CuttingAnswerTo`] names.
    marked: Arc<AtomicBool>,
}

impl Way {
    /// Passes on what comes, until this way ends or is cut.
    async fn pass(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        // room for what is sent at once, or each piece of it would be delayed
        let (mut held, mut is_ended) = (Vec::with_capacity(64 << 10), false);
        while !is_ended && from.read_buf(&mut held).await.is_ok_and(|read| read > 0) {
            loop {
                let manner = *self.shared.manner.borrow_and_update();
                if self.is_up
                    && let Manner::StallingAt(text) | Manner::CuttingAnswerTo(text) = manner
                    && held.windows(text.len()).any(|window| window == text.as_bytes())
                {
                    self.marked.store(true, Ordering::Relaxed);
                }
                let is_marked = self.marked.load(Ordering::Relaxed);
                match manner {
                    Manner::Cutting(least) if self.passed + held.len() >= self.cut_at.saturating_add(least) => {
                        let rest = (self.cut_at + least).saturating_sub(self.passed);
                        _ = to.write_all(&held[..rest]).await;
                        return self.count_cut();
                    }
                    Manner::CuttingAnswerTo(_) if !self.is_up && is_marked => return self.count_cut(),
                    Manner::Delaying(least, most) => {
                        let pause_ms = self.shared.generator.lock().unwrap().random_range(least..=most);
                        sleep(Duration::from_millis(pause_ms)).await;
                        break;
                    }
                    Manner::Stalling => {}
                    Manner::StallingAt(_) if is_marked => {}
                    Manner::Honest | Manner::Cutting(_) | Manner::StallingAt(_) | Manner::CuttingAnswerTo(_) => break,
                }
                // a store that hangs up meanwhile is heard
                tokio::select! {
                    changed = self.shared.manner.changed() => changed.unwrap(),
                    read = from.read_buf(&mut held), if !is_ended => {
                        is_ended = !read.is_ok_and(|read| read > 0);
                        if is_ended && self.is_up {
                            return;
                        }
                    }
                }
            }
            self.passed += held.len();
            if to.write_all(&held).await.is_err() {
                return;
            }
            held.clear();
        }
    }

    fn count_cut(&self) {
        self.shared.counts.cut.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that counts as open.
struct Open(Arc<Counts>);

impl Open {
    fn count(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A generator whose seed is printed.
#[expect(clippy::print_stdout, reason = "a test that fails has to say how it is repeated")]
fn generator() -> ChaCha12Rng {
    let given = std::env::vars().find(|(name, _)| name == "BLUETRACE_TEST_SEED");
    let seed = given.map_or_else(|| SysRng.try_next_u64().unwrap(), |(_, seed)| seed.parse().unwrap());
    println!("BLUETRACE_TEST_SEED={seed}");
    ChaCha12Rng::seed_from_u64(seed)
}
