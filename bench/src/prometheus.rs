//! A server's counters, read from its `/metrics` before and after a run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::BenchError;

/// Bounds of fetching, and of the text: a datanode's is some 10 KiB.
const TIMEOUT: Duration = Duration::from_secs(5);
const TEXT_MAX_BYTES: u64 = 4 << 20;

/// Samples by name and labels, of several servers together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// The sums over `addresses`.
    pub fn fetch(addresses: &[SocketAddr]) -> Result<Self, BenchError> {
        let mut sums = Self::default();
        for address in addresses {
            sums.add(
                &get(*address)
                    .map_err(|source| BenchError::Metrics { address: *address, source })?,
            );
        }
        Ok(sums)
    }

    /// How much each has grown since `before`; those that have not only if they are our own, where
    /// a zero is a finding.
    pub fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let growth = self.0.iter().map(|(name, value)| {
            (name.clone(), value - before.0.get(name).copied().unwrap_or_default())
        });
        growth.filter(|(name, growth)| *growth != 0.0 || name.starts_with("ringfs_")).collect()
    }

    /// Labels that only tell one server or thread from another are summed over.
    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // A value may be followed by a time.
            let name_end = line.find(['{', ' ']).unwrap_or(line.len());
            let after_labels = line.rfind('}').map_or(name_end, |at| at + 1);
            let value = line[after_labels..].split_ascii_whitespace().next();
            if let Some(value) = value.and_then(|value| value.parse::<f64>().ok()) {
                *self.0.entry(line[..name_end].to_owned()).or_default() += value;
            }
        }
    }
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // Of version 1.0, so that the answer ends with the connection and comes in one piece. The request
    // goes out in one piece too: a server that answers the first part would reset the rest.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.take(TEXT_MAX_BYTES).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default();
    match status.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!("it answers {status:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sums_servers_and_labels_and_takes_differences() {
        let (mut before, mut after) = (Samples::default(), Samples::default());
        before.add("# HELP x\nbytes_written{hostname=\"a b\"} 5\nringfs_copied 0\nsame 3\n");
        after.add("bytes_written{hostname=\"a b\"} 7 1700000000\nringfs_copied 0\nsame 3\n");
        after.add("bytes_written{hostname=\"c\"} 1e1\nnot a number\n");
        let growth = after.since(&before);
        let expected = [("bytes_written".to_owned(), 12.0), ("ringfs_copied".to_owned(), 0.0)];
        assert_eq!(growth, BTreeMap::from(expected));
    }

    #[test]
    fn fetches_over_http_and_says_who_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\nA: b\r\n\r\nx 4\n", "HTTP/1.1 404 Not Found\r\n\r\n"]
            {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let len = stream.read(&mut request).unwrap();
                assert!(request[..len].starts_with(b"GET /metrics "));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let samples = Samples::fetch(&[address]).unwrap();
        assert_eq!(samples.0, BTreeMap::from([("x".to_owned(), 4.0)]));
        let error = Samples::fetch(&[address]).unwrap_err().to_string();
        assert!(error.contains("404") && error.contains(&address.to_string()), "{error}");
        server.join().unwrap();
    }
}
