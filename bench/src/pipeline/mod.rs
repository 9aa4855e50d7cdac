//! `ringfs bench pipeline`: blocks written to and read from datanodes over DataTransferProtocol, with
//! no client's streamer and no namenode in the way of the bytes. Works against any datanodes.
//!
//! | noun | |
//! |---|---|
//! | `block_source` | the blocks, had from a namenode before the clock runs, or invented |
//! | `write_stream`, `read_stream` | one stream of blocks each, as a state machine that never blocks |
//! | `event_loop` | the thread that carries many of them |
//! | `idle_writers` | writers that stay open beside the streams, and what each costs a datanode |
//!
//! The clock runs from the moment all streams are connected (and writers have their first pipeline)
//! to the last ack or byte; the change from one block to the next is within it.

mod block_source;
mod connection;
mod event_loop;
mod idle_writers;
pub mod limits;
mod options;
mod payload;
mod progress;
mod read_stream;
mod write_stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::block_source::{BlockSource, PipelineBlock};
use self::event_loop::{EventLoop, Stream};
use self::idle_writers::IdleWriters;
use self::limits::IDLE_HEARTBEAT;
use self::options::resolve;
use self::progress::{Plan, Progress};
use self::read_stream::{ReadRules, ReadStream};
use self::write_stream::{WriteRules, WriteStream};
use crate::file_system::local_listener;
use crate::meter::Timeline;
use crate::processes::{CpuSpan, NamedProcess};
use crate::prometheus::Samples;
use crate::report::{Latency, Measurement, Run, Side};
use crate::{BenchError, Session};

pub use options::{Durability, Mode, PipelineOptions};

#[derive(Debug, Args)]
pub struct PipelineCommand {
    #[command(flatten)]
    options: PipelineOptions,
}

impl PipelineCommand {
    pub fn run(self, session: &mut Session) -> Result<(), BenchError> {
        self.options.check()?;
        let mut measurement = measurement(&self.options)?;
        for number in 1..=session.options.runs {
            let (name, runs) = (&measurement.name, session.options.runs);
            session.progress(&format!("pipeline, {name}: run {number} of {runs}"));
            let run = run_once(&self.options)?;
            session.progress(&format!("{name}: {:.3} GB/s", run.gb_per_s()));
            measurement.runs.push(run);
        }
        session.add(measurement);
        Ok(())
    }
}

/// Connects, measures once and gives the blocks back.
pub fn run_once(options: &PipelineOptions) -> Result<Run, BenchError> {
    options.check()?;
    raise_descriptor_limit();
    let mut source = BlockSource::open(options)?;
    let run = measure(options, &mut source);
    let closed = source.close();
    let run = run?;
    closed.map(|()| run)
}

/// Without its runs.
pub fn measurement(options: &PipelineOptions) -> Result<Measurement, BenchError> {
    let side = match options.pool {
        // Nobody was asked whose datanodes they are.
        Some(_) => Side::Ours,
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::Runtime)?
            .block_on(options.file_system.connect()?.side())?,
    };
    let (mode, streams) = (options.mode.name(), options.streams);
    let mut name = format!("{mode}, {streams} {}", if streams == 1 { "stream" } else { "streams" });
    if options.mode == Mode::Write {
        name.push_str(&format!(
            ", {} replicas, {}",
            options.replication,
            options.durability.name()
        ));
    }
    if let Some(rate) = options.rate {
        name.push_str(&format!(", {:.3} GB/s planned", rate as f64 / 1e9));
    }
    let parameters = parameters(options);
    Ok(Measurement { group: "pipeline".to_owned(), name, side, parameters, runs: Vec::new() })
}

fn measure(options: &PipelineOptions, source: &mut BlockSource) -> Result<Run, BenchError> {
    let rules = Arc::new(WriteRules::new(options));
    let mut blocks = Vec::with_capacity(options.streams);
    for _ in 0..options.streams {
        let stream = options.block_lengths().map(|len| source.allocate(len));
        blocks.push(stream.collect::<Result<Vec<_>, _>>()?);
    }
    let datanodes = datanodes(&blocks);
    let processes = processes(options, source, &datanodes)?;
    let mut idle = IdleWriters::open(options, &rules, source, &processes)?;
    if options.mode == Mode::Read {
        write_for_readers(options, &rules, &blocks)?;
    }
    let metrics: Vec<SocketAddr> =
        options.metrics.iter().map(|address| resolve(address)).collect::<Result<_, _>>()?;
    let before = Samples::fetch(&metrics)?;
    let progress = Arc::new(Progress::new(options.streams));
    let mut run = match options.mode {
        Mode::Write => {
            let open = |(index, blocks)| {
                let plan = plan(options, index, options.packet_data_bytes() as u64);
                WriteStream::open(index, &rules, &progress, plan, blocks)
            };
            let streams = blocks.into_iter().enumerate().map(open).collect::<Result<_, _>>()?;
            time(options, streams, &progress, &processes, &mut idle)?
        }
        Mode::Read => {
            let rules = Arc::new(ReadRules::new(options.read_bytes(), !options.no_verify));
            let open = |(index, blocks)| {
                let plan = plan(options, index, options.read_bytes());
                ReadStream::open(index, &rules, &progress, plan, blocks)
            };
            let streams = blocks.into_iter().enumerate().map(open).collect::<Result<_, _>>()?;
            time(options, streams, &progress, &processes, &mut idle)?
        }
    };
    run.counters.extend(Samples::fetch(&metrics)?.since(&before));
    run.counters.extend(idle.counters.clone());
    idle.close()?;
    Ok(run)
}

/// What the measurement needs of both kinds of streams.
trait Timed: Stream + Send {
    fn start(&mut self, at: Instant);
    fn is_open(&self) -> bool;
    fn is_done(&self) -> bool;
    fn latency(&self) -> &Latency;
    /// Figures of the stream, summed up over all.
    fn times(&self) -> Vec<(&'static str, Duration)>;
}

/// Opens all streams, starts the clock, and carries them to their ends.
fn time<S: Timed>(
    options: &PipelineOptions,
    streams: Vec<S>,
    progress: &Arc<Progress>,
    processes: &[NamedProcess],
    idle: &mut IdleWriters,
) -> Result<Run, BenchError> {
    let mut loops = spread(streams, options.threads)?;
    loops.iter_mut().try_for_each(|carrier| carrier.run_until(S::is_open))?;
    let cpu = CpuSpan::start(processes)?;
    let timeline = Timeline::start(progress.meter.clone());
    let started = Instant::now();
    for stream in loops.iter_mut().flat_map(|carrier| &mut carrier.streams) {
        stream.start(started);
    }
    let outcome = carry(&mut loops, idle);
    let elapsed = started.elapsed();
    let timeline = timeline.finish();
    let cpu = cpu.so_far()?;
    outcome?;
    let mut run = Run {
        bytes: progress.meter.bytes(),
        operations: progress.meter.operations(),
        elapsed,
        cpu,
        timeline,
        ..Run::default()
    };
    let mut latency: Option<Latency> = None;
    for stream in loops.iter().flat_map(|carrier| &carrier.streams) {
        let all = latency.get_or_insert_with(|| Latency::new(&stream.latency().of));
        all.histogram_us.add(&stream.latency().histogram_us).expect("of the same bounds");
        for (name, time) in stream.times() {
            let mean = time.as_secs_f64() * 1e3 / options.streams as f64;
            *run.counters.entry(name.to_owned()).or_default() += mean;
        }
    }
    run.latency = latency;
    if let Some(evenness) = progress.slowest_to_mean().filter(|_| options.streams > 1) {
        run.counters.insert("slowest_stream_to_mean".to_owned(), evenness);
    }
    Ok(run)
}

/// Each loop on a thread of its own; this one keeps the idle writers alive meanwhile.
fn carry<S: Timed>(loops: &mut [EventLoop<S>], idle: &mut IdleWriters) -> Result<(), BenchError> {
    let mut missing = loops.len();
    let (outcomes, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for carrier in loops {
            let outcomes = outcomes.clone();
            // Nobody listens any more when another carrier has failed.
            scope.spawn(move || drop(outcomes.send(carrier.run_until(S::is_done))));
        }
        drop(outcomes);
        while missing > 0 {
            match ended.recv_timeout(IDLE_HEARTBEAT) {
                Ok(outcome) => outcome?,
                Err(RecvTimeoutError::Timeout) => {
                    idle.send_heartbeats()?;
                    continue;
                }
                // One has panicked, which the scope passes on.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            missing -= 1;
        }
        Ok(())
    })
}

fn spread<S: Stream>(streams: Vec<S>, threads: usize) -> Result<Vec<EventLoop<S>>, BenchError> {
    let mut shares: Vec<Vec<S>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, stream) in streams.into_iter().enumerate() {
        shares[index % threads].push(stream);
    }
    shares.into_iter().map(EventLoop::new).collect()
}

fn write_for_readers(
    options: &PipelineOptions,
    rules: &Arc<WriteRules>,
    blocks: &[Vec<PipelineBlock>],
) -> Result<(), BenchError> {
    let progress = Arc::new(Progress::new(options.streams));
    let open = |(index, blocks): (usize, &Vec<PipelineBlock>)| {
        let mut stream = WriteStream::open(index, rules, &progress, None, blocks.iter().cloned())?;
        stream.start(Instant::now());
        Ok::<_, BenchError>(stream)
    };
    let streams = blocks.iter().enumerate().map(open).collect::<Result<_, _>>()?;
    EventLoop::new(streams)?.run_until(WriteStream::is_done)
}

fn plan(options: &PipelineOptions, index: usize, unit_bytes: u64) -> Option<Plan> {
    Some(Plan::new(options.rate?, index, options.streams, unit_bytes))
}

fn datanodes(blocks: &[Vec<PipelineBlock>]) -> BTreeSet<SocketAddr> {
    let nodes = blocks.iter().flatten().flat_map(|block| &block.nodes);
    nodes.map(|node| node.address).collect()
}

/// This process, and of the servers those on this machine.
fn processes(
    options: &PipelineOptions,
    source: &BlockSource,
    datanodes: &BTreeSet<SocketAddr>,
) -> Result<Vec<NamedProcess>, BenchError> {
    if let Some(processes) = source.processes(options)? {
        return Ok(processes);
    }
    let mut processes = vec![NamedProcess::this("client")];
    for address in datanodes {
        let name = format!("datanode{}", processes.len() - 1);
        processes.extend(local_listener(name, &address.to_string()));
    }
    Ok(processes)
}

/// As far as the hard limit goes: every stream is a descriptor, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Without it, the connection that is one too many says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn parameters(options: &PipelineOptions) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    let mut put = |name: &str, value: String| parameters.insert(name.to_owned(), value);
    put("replication", options.replication.to_string());
    put("streams", options.streams.to_string());
    put("packet_size", options.packet_size.to_string());
    put("block_size", options.block_size.to_string());
    put("bytes_per_stream", options.bytes.to_string());
    match options.mode {
        Mode::Write => {
            put("durability", options.durability.name().to_owned());
            put("window_packets", options.window_packets().to_string());
        }
        Mode::Read => {
            put("read_size", options.read_bytes().to_string());
            put("verify", (!options.no_verify).to_string());
        }
    }
    if let Some(rate) = options.rate {
        put("rate_bytes_per_s", rate.to_string());
    }
    if options.idle_writers > 0 {
        put("idle_writers", options.idle_writers.to_string());
    }
    parameters
}

impl Timed for WriteStream {
    fn start(&mut self, at: Instant) {
        self.start(at);
    }

    fn is_open(&self) -> bool {
        self.is_set_up()
    }

    fn is_done(&self) -> bool {
        self.is_done()
    }

    fn latency(&self) -> &Latency {
        &self.latency
    }

    fn times(&self) -> Vec<(&'static str, Duration)> {
        vec![
            ("blocks_opening_ms_per_stream", self.opening),
            ("blocks_closing_ms_per_stream", self.closing),
        ]
    }
}

impl Timed for ReadStream {
    fn start(&mut self, at: Instant) {
        self.start(at);
    }

    /// Connected by the first request, at the latest.
    fn is_open(&self) -> bool {
        true
    }

    fn is_done(&self) -> bool {
        self.is_done()
    }

    fn latency(&self) -> &Latency {
        &self.latency
    }

    fn times(&self) -> Vec<(&'static str, Duration)> {
        Vec::new()
    }
}
