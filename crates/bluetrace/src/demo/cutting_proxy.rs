//! Owns the bad line between a device and the authority: a TCP proxy that can be told to cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Carries connections to the authority, and cuts one of them when told to. Gone when dropped.
#[derive(Debug)]
pub(crate) struct CuttingProxy {
    pub(crate) address: SocketAddr,
    /// Bytes that may still pass towards the authority before the cut; `NEVER` while no cut is planned.
    budget: Arc<AtomicU64>,
    task: AbortHandle,
}

const NEVER: u64 = u64::MAX;

impl CuttingProxy {
    pub(crate) async fn start(authority: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot open the bad line")?;
        let address = listener.local_addr().context("cannot learn the bad line's port")?;
        let budget = Arc::new(AtomicU64::new(NEVER));
        let shared = Arc::clone(&budget);
        let task = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((device, _)) = listener.accept().await {
                let budget = Arc::clone(&shared);
                lines.spawn(async move {
                    if let Ok(onward) = TcpStream::connect(authority).await {
                        carry(device, onward, &budget).await;
                    }
                });
            }
        });
        Ok(Self { address, budget, task: task.abort_handle() })
    }

    /// Lets `bytes` more pass towards the authority, then cuts, once.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection until either side ends or the cut comes. What has passed before the cut still arrives.
async fn carry(mut device: TcpStream, mut authority: TcpStream, budget: &AtomicU64) {
    let (mut from_device, mut to_device) = device.split();
    let (mut from_authority, mut to_authority) = authority.split();
    tokio::select! {
        _ = carry_up(&mut from_device, &mut to_authority, budget) => {}
        _ = tokio::io::copy(&mut from_authority, &mut to_device) => {}
    }
    drop(device);
    // closing with bytes unread would take back what the authority has not read yet
    let farewell = async {
        authority.shutdown().await?;
        tokio::io::copy(&mut authority, &mut tokio::io::sink()).await
    };
    _ = timeout(Duration::from_secs(1), farewell).await;
}

/// Carries what a device says, until it ends or the budget is spent.
async fn carry_up(
    device: &mut (impl AsyncRead + Unpin),
    authority: &mut (impl AsyncWrite + Unpin),
    budget: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = [0; 4_096];
    loop {
        let read = device.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let left = budget.load(Ordering::SeqCst);
        let passing = usize::try_from(left).map_or(read, |left| left.min(read));
        authority.write_all(&buffer[..passing]).await?;
        if passing < read {
            // a cut is made once
            budget.store(NEVER, Ordering::SeqCst);
            return Ok(());
        }
        if left != NEVER {
            budget.store(left - passing as u64, Ordering::SeqCst);
        }
    }
}
