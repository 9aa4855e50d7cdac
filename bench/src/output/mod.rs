//! A [`Report`] for people and programs: the table on standard output, JSON, one HTML page. All
//! three say the same figures; [`figures`] is where runs become them.

mod figures;
mod html;
mod plots;
mod table;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use crate::report::Report;
use crate::{BenchError, SessionOptions};

/// The table first: it is all that is left when a file cannot be written.
pub fn write(report: &Report, options: &SessionOptions) -> Result<(), BenchError> {
    match std::io::stdout().write_all(table::of(report).as_bytes()) {
        // `ringfs bench limit | head` still writes its files.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.map_err(BenchError::Output)?,
    }
    write_files(report, options)
}

fn write_files(report: &Report, options: &SessionOptions) -> Result<(), BenchError> {
    if let Some(path) = &options.json {
        write_json(report, path).map_err(BenchError::file("write", path))?;
    }
    if let Some(path) = &options.html {
        std::fs::write(path, html::of(report)).map_err(BenchError::file("write", path))?;
    }
    Ok(())
}

/// Exactly the types of [`crate::report`], on one line.
fn write_json(report: &Report, path: &Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer(&mut file, report)?;
    writeln!(file)?;
    file.flush()
}

#[cfg(test)]
mod sample;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_fields_of_the_types() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        let report = sample::report();
        write_json(&report, &path).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json, serde_json::to_value(&report).unwrap());
        assert_eq!(json["schema_version"], crate::report::SCHEMA_VERSION);
        assert_eq!(json["command"][1], "bench");
        assert_eq!(json["steal_share"], 0.01);
        assert_eq!(json["measurements"][0]["side"], "limit");
        let run = &json["measurements"][1]["runs"][0];
        assert_eq!(run["bytes"], 1_u64 << 30);
        assert_eq!(run["elapsed_s"], 0.5);
        assert_eq!(run["cpu"][1]["process"], "datanode0");
        assert_eq!(run["counters"]["payload_bytes_copied"], 0.0);
        assert_eq!(run["timeline"][1]["at_s"], 0.1);
        let spectrum = &run["latency"]["histogram_us"];
        assert_eq!(spectrum["count"], 100);
        assert!(spectrum["p99"].as_u64() > spectrum["p50"].as_u64());
        assert_eq!(spectrum["recorded"].as_array().unwrap().len(), 100);
        for fact in ["cpu", "kernel", "mitigations", "disks", "rustc", "locked_memory_limit_bytes"]
        {
            assert!(json["machine"].get(fact).is_some(), "{fact}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let options = SessionOptions {
            json: Some("/no/such/directory/report.json".into()),
            ..SessionOptions::default()
        };
        let error = write_files(&sample::report(), &options).unwrap_err().to_string();
        assert!(error.contains("/no/such/directory/report.json"), "{error}");
    }
}
