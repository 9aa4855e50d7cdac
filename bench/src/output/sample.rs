//! A small report with everything in it, for the tests of what is made of one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::machine::Machine;
use crate::report::{
    Bound, Latency, Measurement, ProcessCpu, Report, Run, SCHEMA_VERSION, Side, TimePoint, Verdict,
};

pub fn report() -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        bench: "pipeline".to_owned(),
        command: ["ringfs", "bench", "pipeline", "--name", "a b"].map(str::to_owned).to_vec(),
        started_unix_ms: 1_700_000_000_000,
        elapsed_s: 3.5,
        machine: Machine::describe(),
        steal_share: 0.01,
        measurements: vec![
            measurement("the floor", Side::Limit, 0.4),
            measurement("ours & <theirs>", Side::Ours, 0.5),
            operations("create"),
        ],
        verdicts: vec![Verdict::new(
            "write-3",
            "ours & floor, GB/s",
            0.95,
            Some(2.0),
            Bound::AtLeast(0.5),
        )],
        findings: vec!["Ours is at 80 % of the \"floor\" <here>.".to_owned()],
    }
}

fn measurement(name: &str, side: Side, elapsed_s: f64) -> Measurement {
    let run = |slower: f64| {
        let mut latency = Latency::new("packet ack");
        (1..=100).for_each(|step| latency.record(Duration::from_micros(step * 10)));
        Run {
            bytes: 1 << 30,
            operations: 0,
            elapsed: Duration::from_secs_f64(elapsed_s * slower),
            cpu: [("client", 0.125), ("datanode0", 0.25), ("datanode1", 0.5)]
                .map(|(process, cpu_s)| ProcessCpu { process: process.to_owned(), cpu_s })
                .to_vec(),
            latency: Some(latency),
            timeline: (0..5)
                .map(|at| TimePoint {
                    at_s: f64::from(at) / 10.0,
                    bytes: at as u64 * 200_000_000,
                    operations: 0,
                })
                .collect(),
            counters: BTreeMap::from([("payload_bytes_copied".to_owned(), 0.0)]),
        }
    };
    Measurement {
        group: "three replicas".to_owned(),
        name: name.to_owned(),
        side,
        parameters: BTreeMap::from([("packet_bytes".to_owned(), "65536".to_owned())]),
        runs: vec![run(1.0), run(1.25), run(1.0)],
    }
}

fn operations(name: &str) -> Measurement {
    let run = Run {
        operations: 25_000,
        elapsed: Duration::from_secs(2),
        cpu: vec![ProcessCpu { process: "namenode".to_owned(), cpu_s: 0.5 }],
        ..Run::default()
    };
    Measurement {
        group: "namespace".to_owned(),
        name: name.to_owned(),
        side: Side::Peer,
        parameters: BTreeMap::new(),
        runs: vec![run],
    }
}
