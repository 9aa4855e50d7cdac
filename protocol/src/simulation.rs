//! The network of a simulated world, in place of sockets: RPC calls travel whole, data connections
//! as streams of bytes. A world that runs on a thread enters its network there; what that thread
//! then connects or calls goes through it. Hosts are known by the user that calls.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::RemoteError;
use crate::block::Block;
use crate::rpc::server::Call;

pub type Answering = Pin<Box<dyn Future<Output = io::Result<Result<Bytes, RemoteError>>> + Send>>;
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

pub type Checking = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

pub trait Network: Send + Sync {
    /// An error of the outer kind says that the connection failed: the call may have run or not.
    fn call(&self, address: &str, call: Call) -> Answering;
    /// Connects `host` to a datanode's data port.
    fn connect(&self, host: &str, address: &str) -> Connecting;
    /// Asks the disk below the directory to take bytes and to give them back; resolves when it answers.
    fn check_disk(&self, directory: &Path) -> Checking;
    /// What is seen happens on the thread that sees it: the world must not be locked there.
    fn see(&self, sight: Sight<'_>);
}

/// What a world is told of, to hold it against what must never happen.
#[derive(Clone, Copy, Debug)]
pub enum Sight<'a> {
    /// A reader was given these bytes, verified, as the block's from `offset_bytes` on.
    Served { block: Block, offset_bytes: u64, bytes: &'a [u8] },
    /// A datanode has deleted its replica.
    Deleted(Block),
    /// A recovery has cut a datanode's replica to this length, under this new stamp.
    Cut(Block),
}

/// A connected stream; as a socket that does not block.
pub trait Stream: Debug + Send + Sync {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()>;
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()>;
    fn try_read(&self, out: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

thread_local! {
    static CHOICES: Cell<Option<u64>> = const { Cell::new(None) };
    static NETWORK: RefCell<Option<Arc<dyn Network>>> = const { RefCell::new(None) };
}

/// Makes `network` this thread's, until [`leave`].
pub fn enter(network: Arc<dyn Network>) {
    NETWORK.set(Some(network));
}

/// Begins the choices of this thread anew, until [`leave`].
pub fn seed(seed: u64) {
    CHOICES.set(Some(seed));
}

/// The next choice of the seed (SplitMix64); `None` in a thread without.
pub fn choice() -> Option<u64> {
    let state = CHOICES.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    CHOICES.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(mixed ^ (mixed >> 31))
}

/// A choice from 0 to 1.
pub fn random() -> Option<f64> {
    choice().map(|choice| (choice >> 11) as f64 / (1u64 << 53) as f64)
}

pub fn leave() {
    NETWORK.set(None);
    CHOICES.set(None);
}

/// `None` outside of a simulated world.
pub fn network() -> Option<Arc<dyn Network>> {
    NETWORK.with_borrow(Option::clone)
}

/// Tells the world of it, where there is one.
pub fn see(sight: Sight<'_>) {
    if let Some(network) = network() {
        network.see(sight);
    }
}

pub fn is_entered() -> bool {
    NETWORK.with_borrow(Option::is_some)
}
