//! One TCP stream from process to process, messages into buffers of the same size: what a hop of a
//! write pipeline or a block stream can reach here, or to a host that runs `--serve`.
//!
//! ```text
//! sender   -> engine, message size, bytes                  bytes ... ->
//! receiver <-                             ready (1 byte)   <- received, CPU
//! ```
//!
//! Both sides touch their buffers before the receiver says it is ready. What a sender asks for is
//! bounded by [`MESSAGE_BYTES_MAX`]; a receiver serves one sender after the other.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::child::{self, ChildProcess};
use super::ring::Ring;
use super::{Engine, connect_prepared, prepare_socket};
use crate::BenchError;
use crate::processes::cpu_time_of_this_thread;
use crate::report::{Measurement, ProcessCpu, Run, Side};

pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Copy, Debug)]
pub struct HopOptions {
    /// Of both sides.
    pub engine: Engine,
    pub message_bytes: usize,
    pub bytes: u64,
}

/// What a receiver has received.
#[derive(Clone, Copy, Debug)]
struct Received {
    bytes: u64,
    cpu: Duration,
}

/// A receiver in a process of its own, until it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    _child: ChildProcess,
}

impl Receiver {
    pub fn start() -> Result<Self, BenchError> {
        let mut child = ChildProcess::start(ChildProcess::command("hop-node")?)?;
        Ok(Self { address: child.line()?, _child: child })
    }
}

impl HopOptions {
    pub fn measurement(&self) -> Measurement {
        let engine = self.engine.name();
        let parameters =
            [("engine", engine.to_owned()), ("message_bytes", self.message_bytes.to_string())];
        Measurement {
            group: "TCP hop".to_owned(),
            name: format!("{engine}, messages of {} KiB", self.message_bytes >> 10),
            side: Side::Limit,
            parameters: parameters.map(|(name, value)| (name.to_owned(), value)).into(),
            runs: Vec::new(),
        }
    }

    pub fn run(&self, receiver: SocketAddr) -> Result<Run, BenchError> {
        self.send(receiver).map_err(BenchError::limit("send bytes over a TCP hop"))
    }

    fn send(&self, receiver: SocketAddr) -> io::Result<Run> {
        let mut control = connect_prepared(receiver)?;
        control.write_all(&[self.engine as u8])?;
        control.write_all(&(self.message_bytes as u64).to_le_bytes())?;
        control.write_all(&self.bytes.to_le_bytes())?;
        let (socket, mut ready) = (control.try_clone()?, control.try_clone()?);
        let mut began = (Instant::now(), Duration::ZERO);
        send(self, socket, || {
            ready.read_exact(&mut [0])?;
            began = (Instant::now(), cpu_time_of_this_thread());
            Ok(())
        })?;
        let cpu = cpu_time_of_this_thread() - began.1;
        let received = Received::read(&mut control)?;
        let elapsed = began.0.elapsed();
        if received.bytes != self.bytes {
            let (bytes, expected) = (received.bytes, self.bytes);
            return Err(io::Error::other(format!("{bytes} of {expected} bytes were received")));
        }
        let of = |process: &str, cpu: Duration| ProcessCpu {
            process: process.to_owned(),
            cpu_s: cpu.as_secs_f64(),
        };
        let operations = self.bytes.div_ceil(self.message_bytes as u64);
        let cpu = vec![of("sender", cpu), of("receiver", received.cpu)];
        Ok(Run { bytes: self.bytes, operations, elapsed, cpu, ..Run::default() })
    }
}

/// Within this process: what one hop reaches with blocking calls of 1 MiB.
pub fn one_hop(bytes: u64) -> Result<Run, BenchError> {
    let options = HopOptions { engine: Engine::Threads, message_bytes: 1 << 20, bytes };
    let listen = BenchError::limit("listen on loopback");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(&listen)?;
    let address = listener.local_addr().map_err(&listen)?;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| listener.accept().and_then(|(socket, _)| answer(socket)));
        let run = options.run(address)?;
        let received = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        received.map_err(BenchError::limit("receive bytes over a TCP hop"))?;
        Ok(run)
    })
}

/// Until the process is ended. A sender that fails is told of, and does not end it.
pub fn serve(listener: &TcpListener) -> Result<(), BenchError> {
    loop {
        let (socket, sender) = listener.accept().map_err(BenchError::limit("accept a sender"))?;
        if let Err(error) = answer(socket) {
            eprintln!("cannot receive from {sender}: {error}");
        }
    }
}

/// As the child process that [`Receiver::start`] starts.
pub fn serve_parent() -> Result<(), BenchError> {
    child::end_with_parent()?;
    let listen = BenchError::limit("listen on loopback");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(&listen)?;
    child::tell_parent(&listener.local_addr().map_err(&listen)?.to_string())?;
    serve(&listener)
}

fn answer(mut control: TcpStream) -> io::Result<()> {
    prepare_socket(&control)?;
    let options = HopOptions::read(&mut control)?;
    let (socket, mut ready) = (control.try_clone()?, control.try_clone()?);
    let mut began = Duration::ZERO;
    let bytes = receive(&options, socket, || {
        ready.write_all(&[1])?;
        began = cpu_time_of_this_thread();
        Ok(())
    })?;
    let cpu = cpu_time_of_this_thread() - began;
    control.write_all(&bytes.to_le_bytes())?;
    control.write_all(&(cpu.as_nanos() as u64).to_le_bytes())
}

impl HopOptions {
    fn read(control: &mut TcpStream) -> io::Result<Self> {
        let mut engine = [0];
        control.read_exact(&mut engine)?;
        let (message_bytes, bytes) = (read_u64(control)?, read_u64(control)?);
        let refuse = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let engine = Engine::ALL.into_iter().find(|known| *known as u8 == engine[0]);
        let engine = engine.ok_or_else(|| refuse("an engine that is not known here"))?;
        match usize::try_from(message_bytes) {
            Ok(message_bytes @ 1..=MESSAGE_BYTES_MAX) => Ok(Self { engine, message_bytes, bytes }),
            _ => Err(refuse("messages of a size that is not possible")),
        }
    }
}

impl Received {
    fn read(control: &mut TcpStream) -> io::Result<Self> {
        let (bytes, cpu) = (read_u64(control)?, read_u64(control)?);
        Ok(Self { bytes, cpu: Duration::from_nanos(cpu) })
    }
}

fn read_u64(control: &mut TcpStream) -> io::Result<u64> {
    let mut value = [0; 8];
    control.read_exact(&mut value)?;
    Ok(u64::from_le_bytes(value))
}

/// `ready` waits for the receiver.
fn send(
    options: &HopOptions,
    mut socket: TcpStream,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let (message_bytes, mut left) = (options.message_bytes, options.bytes);
    let mut next = || {
        let len = left.min(message_bytes as u64);
        left -= len;
        (len > 0).then_some(len as usize)
    };
    match options.engine {
        Engine::Uring => {
            let (mut ring, mut completions) = (Ring::new(message_bytes, 0)?, Vec::new());
            ready()?;
            while let Some(len) = next() {
                ring.send(&socket, 0..len, 0)?;
                ring.wait(&mut completions)?;
                if completions[0].bytes()? != len {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        }
        Engine::TokioUring => tokio_uring::start(async {
            let mut message = vec![0x5a_u8; message_bytes];
            let socket = tokio_uring::net::TcpStream::from_std(socket);
            ready()?;
            while let Some(len) = next() {
                message.truncate(len);
                let (sent, returned) = socket.write_all(message).await;
                message = returned;
                sent?;
            }
            Ok(())
        }),
        Engine::Threads => {
            let message = vec![0x5a_u8; message_bytes];
            ready()?;
            while let Some(len) = next() {
                socket.write_all(&message[..len])?;
            }
            Ok(())
        }
    }
}

/// `ready` tells the sender. Returns the bytes received.
fn receive(
    options: &HopOptions,
    mut socket: TcpStream,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<u64> {
    let (message_bytes, bytes) = (options.message_bytes, options.bytes);
    let mut received = 0;
    let mut count = |len: usize| {
        received += len as u64;
        if len == 0 { Err(io::ErrorKind::UnexpectedEof) } else { Ok(received < bytes) }
    };
    let mut more = bytes > 0;
    match options.engine {
        Engine::Uring => {
            let (mut ring, mut completions) = (Ring::new(message_bytes, 0)?, Vec::new());
            ready()?;
            while more {
                ring.receive(&socket, 0..message_bytes, 0)?;
                ring.wait(&mut completions)?;
                more = count(completions[0].bytes()?)?;
            }
        }
        Engine::TokioUring => tokio_uring::start(async {
            let mut buffer = vec![0_u8; message_bytes];
            let socket = tokio_uring::net::TcpStream::from_std(socket);
            ready()?;
            while more {
                let (len, returned) = socket.read(buffer).await;
                buffer = returned;
                more = count(len?)?;
            }
            io::Result::Ok(())
        })?,
        Engine::Threads => {
            let mut buffer = vec![1_u8; message_bytes];
            ready()?;
            while more {
                more = count(socket.read(&mut buffer)?)?;
            }
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_carries_every_byte() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let receiving = std::thread::spawn(move || {
            Engine::ALL.map(|_| answer(listener.accept().unwrap().0).unwrap()).len()
        });
        for engine in Engine::ALL {
            let bytes = (3 << 20) + 5;
            let run = HopOptions { engine, message_bytes: 64 << 10, bytes }.run(address).unwrap();
            assert_eq!((run.bytes, run.operations), (bytes, 49));
            assert_eq!(run.cpu.len(), 2);
        }
        assert_eq!(receiving.join().unwrap(), Engine::ALL.len());
        assert_eq!(one_hop((2 << 20) + 1).unwrap().bytes, (2 << 20) + 1);
    }

    #[test]
    fn refuses_what_a_stranger_asks_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut asked = [[0; 17], [0; 17]];
        asked[0][0] = 77;
        asked[0][1] = 1;
        asked[1][1..9].copy_from_slice(&u64::MAX.to_le_bytes());
        for asked in asked {
            let mut stranger = TcpStream::connect(address).unwrap();
            stranger.write_all(&asked).unwrap();
            let error = answer(listener.accept().unwrap().0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
