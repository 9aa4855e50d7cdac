//! Runs seeds of the simulated world in bulk.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use ringfs_simulation::faults::Bias;
use ringfs_simulation::planted::{PLANTED, Planted, find_all};
use ringfs_simulation::{Options, run};

/// Lives through seeds of a simulated cluster, and says what was lost.
#[derive(Debug, Parser)]
#[command(name = "ringfs-simulation")]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds; by default as many as fit in the time.
    #[arg(long)]
    seeds: Option<u64>,
    /// For how long, in seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// What the worlds have more of than others: none, all-die, excess, failed-syncs,
    /// namenode-dies, one-dies, power, power-after-EVENT, retries, rot.
    #[arg(long, default_value = "none", value_parser = Bias::parse)]
    bias: Bias,
    /// Print what happens.
    #[arg(long)]
    log: bool,
    /// Look for each planted bug instead, or for the ones with this in their names.
    #[arg(long)]
    planted: Option<Option<String>>,
    /// Print a hash of all that happened to each seed.
    #[arg(long)]
    hashes: bool,
    /// Live through each seed twice and compare.
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .with_writer(std::io::stderr)
            .init();
    }
    if let Some(part) = &arguments.planted {
        return look_for_planted(part.as_deref().unwrap_or(""));
    }
    let started = Instant::now();
    let limit = Duration::from_secs(arguments.seconds.unwrap_or(u64::from(u32::MAX)));
    let count = arguments.seeds.unwrap_or(if arguments.seconds.is_some() { u64::MAX } else { 1 });
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut recoveries: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut seeds, mut failed, mut promised) = (0u64, Vec::new(), 0);
    let mut simulated = Duration::ZERO;
    let mut seed = arguments.from;
    while seeds < count && started.elapsed() < limit {
        let options = Options {
            bias: arguments.bias,
            with_log: arguments.twice,
            prints: arguments.log,
            ..Options::default()
        };
        let mut report = run(seed, options);
        if arguments.twice {
            let again = run(seed, options);
            if again.trace_hash != report.trace_hash {
                let differs =
                    report.log.iter().zip(&again.log).position(|(one, other)| one != other);
                let at = differs.unwrap_or(report.log.len().min(again.log.len()));
                let line = |log: &[String]| log.get(at).cloned().unwrap_or_default();
                report.violations.push(format!(
                    "two runs differ at line {at}:\n    {}\n    {}",
                    line(&report.log),
                    line(&again.log)
                ));
            }
        }
        if arguments.hashes {
            println!("seed {seed}: {:016x}", report.trace_hash);
        }
        seeds += 1;
        simulated += report.simulated;
        promised += report.bytes_promised;
        for (kind, times) in &report.faults {
            *faults.entry(kind).or_default() += times;
        }
        for (kind, times) in &report.recoveries {
            *recoveries.entry(kind).or_default() += times;
        }
        if !report.violations.is_empty() {
            println!("seed {seed}:");
            report.violations.iter().for_each(|what| println!("  {what}"));
            failed.push(seed);
        }
        seed += 1;
    }
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    let hours = simulated.as_secs_f64() / 3600.0;
    println!("seeds              {seeds} ({:.0} a minute)", seeds as f64 / minutes);
    println!("simulated hours    {hours:.1}");
    println!("bytes promised     {promised}");
    for (kind, times) in &faults {
        println!("fault              {kind}: {times}");
    }
    for (kind, times) in &recoveries {
        println!("recovery           {kind}: {times}");
    }
    println!("seeds with losses  {} {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn look_for_planted(part: &str) -> ExitCode {
    let chosen = PLANTED.iter().filter(|planted| planted.name.contains(part));
    let chosen: Vec<Planted> = chosen.copied().collect();
    let missed = AtomicU64::new(0);
    find_all(&chosen, |planted, found| match found {
        Ok(caught) => println!("{}: seed {}: {}", planted.name, caught.seed, caught.violation),
        Err(firings) => {
            missed.fetch_add(1, Ordering::Relaxed);
            println!("{}: NOT CAUGHT, reached {firings} times", planted.name);
        }
    });
    if missed.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
