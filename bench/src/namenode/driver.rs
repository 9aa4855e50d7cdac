//! Callers of a namenode, as cheap as they can be, so that the namenode is what is measured: each
//! connection has one thread, on which all its callers run, and requests that are ready together go
//! out in one write. A caller is a closed loop: it has one call in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfs_protocol::messages::{
    GetServerDefaultsRequestProto, GetServerDefaultsResponseProto, VersionRequestProto,
    VersionResponseProto,
};
use ringfs_protocol::rpc::client::RpcClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::BenchError;
use crate::file_system::FileSystem;
use crate::meter::{Meter, Timeline};
use crate::processes::{CpuSpan, NamedProcess};
use crate::report::{Latency, Run};

pub struct Driver {
    file_system: FileSystem,
    processes: Vec<NamedProcess>,
    connections: u32,
}

/// Whose calls are made.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    Client,
    Datanode,
}

/// What a caller is given.
pub struct Caller {
    /// From 0.
    pub number: u32,
    pub rpc: RpcClient,
    pub meter: Arc<Meter>,
    pub latency: Latency,
}

/// A connection with its callers' runtime; connected.
struct Connection {
    runtime: Runtime,
    rpc: RpcClient,
}

impl Driver {
    pub fn new(file_system: FileSystem, processes: Vec<NamedProcess>, connections: u32) -> Self {
        Self { file_system, processes, connections }
    }

    /// Has `callers` callers do their work at once, and says how that went.
    pub fn drive<W, F>(
        &self,
        protocol: Protocol,
        what: &str,
        callers: u32,
        work: W,
    ) -> Result<Run, BenchError>
    where
        W: Fn(Caller) -> F + Sync,
        F: Future<Output = Result<Latency, BenchError>> + Send + 'static,
    {
        let connections = self.connections.min(callers).max(1);
        let connected: Vec<Connection> =
            (0..connections).map(|_| self.connect(protocol)).collect::<Result<_, _>>()?;
        let meter = Arc::new(Meter::default());
        let timeline = Timeline::start(meter.clone());
        let cpu = CpuSpan::start(&self.processes)?;
        let started = Instant::now();
        let outcomes: Vec<Result<Latency, BenchError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections)
                .zip(connected)
                .map(|(first, connection)| {
                    let numbers = (first..callers).step_by(connections as usize);
                    let (work, meter) = (&work, meter.clone());
                    scope.spawn(move || connection.run(what, numbers, meter, work))
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let elapsed = started.elapsed();
        let cpu = cpu.so_far()?;
        let timeline = timeline.finish();
        let mut latency = Latency::new(what);
        for outcome in outcomes {
            latency.histogram_us += &outcome?.histogram_us;
        }
        let operations = meter.operations();
        let mut run =
            Run { operations, elapsed, cpu, timeline, latency: Some(latency), ..Run::default() };
        let namenode = run.cpu.iter().find(|cpu| cpu.process == "namenode");
        if let Some(namenode) = namenode {
            let per_1000 = namenode.cpu_s / (operations as f64 / 1000.0).max(f64::MIN_POSITIVE);
            run.counters.insert("namenode_cpu_s_per_1000_operations".to_owned(), per_1000);
        }
        Ok(run)
    }

    /// The first call is not one of those that are measured.
    fn connect(&self, protocol: Protocol) -> Result<Connection, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::Runtime)?;
        let rpc = runtime.block_on(async {
            match protocol {
                Protocol::Client => {
                    let rpc = self.file_system.namenode();
                    let request = GetServerDefaultsRequestProto {};
                    let _: GetServerDefaultsResponseProto =
                        rpc.call("getServerDefaults", &request).await?;
                    Ok::<_, BenchError>(rpc)
                }
                Protocol::Datanode => {
                    let rpc = self.file_system.datanode_service();
                    let _: VersionResponseProto =
                        rpc.call("versionRequest", &VersionRequestProto {}).await?;
                    Ok(rpc)
                }
            }
        })?;
        Ok(Connection { runtime, rpc })
    }
}

impl Connection {
    fn run<W, F>(
        self,
        what: &str,
        numbers: impl Iterator<Item = u32>,
        meter: Arc<Meter>,
        work: &W,
    ) -> Result<Latency, BenchError>
    where
        W: Fn(Caller) -> F,
        F: Future<Output = Result<Latency, BenchError>> + Send + 'static,
    {
        let Self { runtime, rpc } = self;
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            for number in numbers {
                let latency = Latency::new(what);
                callers.spawn(work(Caller {
                    number,
                    rpc: rpc.clone(),
                    meter: meter.clone(),
                    latency,
                }));
            }
            let mut all = Latency::new(what);
            while let Some(ended) = callers.join_next().await {
                let ended =
                    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
                all.histogram_us += &ended.histogram_us;
            }
            Ok(all)
        })
    }
}

impl Caller {
    /// Takes an operation's time and counts it.
    pub fn done(&mut self, took: Duration) {
        self.latency.record(took);
        self.meter.add(0, 1);
    }
}

/// Of `total` operations those that caller `number` of `callers` does: the same for all, or one more.
pub fn share(total: u64, number: u32, callers: u32) -> u64 {
    total / u64::from(callers) + u64::from(u64::from(number) < total % u64::from(callers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_differ_by_one_at_most() {
        let shares: Vec<u64> = (0..3).map(|number| share(11, number, 3)).collect();
        assert_eq!(shares, [4, 4, 3]);
        assert_eq!(share(2, 2, 3), 0);
    }
}
