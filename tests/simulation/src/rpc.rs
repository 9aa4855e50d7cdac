//! Calls from host to host: whole messages, with delay, loss and repetition.
//!
//! A lost request was not carried out, a lost reply belongs to a call that was, and a late request is
//! carried out after its caller has given it up: all three look the same to the caller, whose
//! connection broke. What it does about that is what is tested.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use ringfs_protocol::RemoteError;
use ringfs_protocol::messages::ReportBadBlocksRequestProto;
use ringfs_protocol::rpc::server::{Call, CallError, Caller, RpcService};
use ringfs_protocol::simulation::{self, Answering, Checking, Connecting, Sight};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client_stream::ClientStream;
use crate::faults;
use crate::kernel::HANG_POLL;
use crate::world::{World, machine};

/// How long a call into a partition waits before its connection counts as lost.
const PARTITION_PATIENCE: Duration = Duration::from_secs(20);
const PARTITION_POLL: Duration = Duration::from_millis(250);

type Outcome = Result<Bytes, CallError>;
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One process's RPC port. Calls run as tasks of the process, and end with it.
#[derive(Clone)]
pub struct Service {
    answer: Arc<dyn Fn(Call) -> Running + Send + Sync>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

#[derive(Default)]
pub struct Services {
    by_address: BTreeMap<String, Service>,
    /// How likely a call is to suffer.
    pub loss: f64,
}

impl Service {
    /// A process of which `is_dead` says so answers no more, though its tasks live a little longer.
    pub fn new(
        service: Arc<impl RpcService>,
        is_dead: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let is_dead = Arc::new(is_dead);
        let answer = move |call: Call| -> Running {
            let (service, is_dead) = (service.clone(), is_dead.clone());
            Box::pin(async move {
                let outcome = service.call(call).await;
                if is_dead() {
                    return std::future::pending().await;
                }
                outcome
            })
        };
        Self { answer: Arc::new(answer), tasks: Arc::default() }
    }

    fn run(&self, call: Call) -> oneshot::Receiver<Outcome> {
        let (reply, answer) = oneshot::channel();
        let running = (self.answer)(call);
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _ = reply.send(running.await);
        });
        answer
    }
}

impl Services {
    pub fn add(&mut self, address: &str, service: Service) {
        self.by_address.insert(address.to_owned(), service);
    }

    /// The process behind it is gone, and with it the calls that it was about.
    pub fn remove(&mut self, address: &str) {
        if let Some(service) = self.by_address.remove(address) {
            service.tasks.lock().abort_all();
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    RequestLost,
    ReplyLost,
    Late,
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why.to_owned())
}

impl World {
    fn fate(&self, from: &str, call: &Call) -> (Fate, Duration) {
        let mut state = self.state();
        let loss = state.services.loss;
        let fate = match () {
            () if state.chance(loss) => Fate::RequestLost,
            () if state.chance(loss) => Fate::ReplyLost,
            () if state.chance(loss / 2.0) => Fate::Late,
            () => Fate::Fine,
        };
        match fate {
            Fate::Fine => {}
            Fate::RequestLost => state.fault("rpc: request lost"),
            Fate::ReplyLost => state.fault("rpc: reply lost"),
            Fate::Late => state.fault("rpc: request late"),
        }
        let method = &call.method;
        state.trace(|| format!("{from} calls {method}: {fate:?}"));
        let slow = state.chance(0.02);
        (fate, state.millis(if slow { 10..300 } else { 0..5 }))
    }

    async fn pass(&self, from: &str, to: &str) -> io::Result<()> {
        let mut waited = Duration::ZERO;
        while self.state().network.is_blocked(from, to) {
            if waited == Duration::ZERO {
                self.state().fault("network: call held back");
            }
            if waited >= PARTITION_PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(PARTITION_POLL).await;
            waited += PARTITION_POLL;
        }
        Ok(())
    }

    async fn exchange(
        self,
        address: String,
        mut call: Call,
    ) -> io::Result<Result<Bytes, RemoteError>> {
        let from = call.caller.user.clone();
        let (fate, delay) = self.fate(&from, &call);
        let parsed = address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let (to, own) = {
            let state = self.state();
            let to = state.network.machine_at(parsed);
            (to, state.network.addresses.get(machine(&from)).copied())
        };
        let (Some(to), Some(own)) = (to, own) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        call.caller = Arc::new(Caller { address: own, ..Caller::clone(&call.caller) });
        tokio::time::sleep(delay).await;
        self.pass(&from, &to).await?;
        let service = self.state().services.by_address.get(&address).cloned();
        let Some(service) = service else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        match fate {
            Fate::RequestLost => return Err(broken("the request was lost")),
            Fate::Late => {
                let later = self.state().millis(50..5_000);
                let method = call.method.clone();
                let process = Arc::downgrade(&service.tasks);
                drop(service);
                tokio::spawn(async move {
                    tokio::time::sleep(later).await;
                    let still = self.state().services.by_address.get(&address).cloned();
                    // Of the same process, or the connection that it came by is gone.
                    let is_same = |still: &Service| process.as_ptr() == Arc::as_ptr(&still.tasks);
                    if let Some(still) = still.filter(is_same) {
                        self.state().trace(|| format!("{method} of {from} comes late"));
                        drop(still.run(call).await);
                    }
                });
                return Err(broken("the request is late"));
            }
            Fate::Fine | Fate::ReplyLost => {}
        }
        let method = call.method.clone();
        let rot = (method == "reportBadBlocks").then(|| call.request.clone());
        let running = service.run(call);
        drop(service);
        let outcome = running.await.map_err(|_| broken("the server is gone"))?;
        let refusal = outcome.as_ref().err().map(|error| format!("{error:?}"));
        {
            let mut state = self.state();
            state.trace(|| format!("{to} answers {method} of {from}: {refusal:?}"));
            if refusal.is_none() {
                state.event(&method);
                if let Some(Ok(rot)) = rot.map(ReportBadBlocksRequestProto::decode) {
                    state.watch.told_of_rot(&from, &rot);
                }
                if let Some(recovery) = faults::recovery_of(&method) {
                    state.recovery(recovery);
                }
            }
        }
        self.pass(&to, &from).await?;
        if fate == Fate::ReplyLost {
            return Err(broken("the reply was lost"));
        }
        Ok(outcome.map_err(|error| match error {
            CallError::Application(error) => error,
            other => RemoteError::new("java.io.IOException", format!("{other:?}")),
        }))
    }
}

impl simulation::Network for World {
    fn call(&self, address: &str, call: Call) -> Answering {
        Box::pin(self.clone().exchange(address.to_owned(), call))
    }

    fn check_disk(&self, directory: &Path) -> Checking {
        let name = directory.file_name().unwrap_or_default();
        let (world, machine) = (self.clone(), name.to_string_lossy().into_owned());
        Box::pin(async move {
            let latency = world.state().disk_latency(&machine);
            tokio::time::sleep(latency).await;
            while world.state().hangs(&machine) {
                tokio::time::sleep(HANG_POLL).await;
            }
            let mut state = world.state();
            let checked = state.disks.entry(machine.clone()).or_default().check();
            state.trace(|| format!("{machine} is checked: {checked:?}"));
            checked
        })
    }

    fn see(&self, sight: Sight<'_>) {
        let watch = self.state().watch.clone();
        let wrong = match sight {
            Sight::Served { block, offset_bytes, bytes } => {
                watch.served(block, offset_bytes, bytes)
            }
            Sight::Deleted(block) => {
                self.state().trace(|| format!("a replica of {block} is deleted"));
                watch.deleted(block)
            }
            Sight::Cut(block) => {
                watch.cut(block);
                None
            }
        };
        if let Some(wrong) = wrong {
            self.state().violation(wrong);
        }
    }

    fn connect(&self, host: &str, address: &str) -> Connecting {
        let (world, host, address) = (self.clone(), host.to_owned(), address.to_owned());
        Box::pin(async move {
            let parsed = address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            let delay = world.state().millis(0..4);
            tokio::time::sleep(delay).await;
            let reached = world.state().reach(&host, parsed);
            world.touch();
            match reached {
                None => std::future::pending().await,
                Some(reached) => {
                    let stream = ClientStream::new(world, reached?);
                    Ok(Box::new(stream) as Box<dyn simulation::Stream>)
                }
            }
        })
    }
}
