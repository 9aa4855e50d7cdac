//! One TCP stream over loopback, 1 MiB writes into 1 MiB reads: what one hop of a write pipeline or
//! one block stream can reach here. Cubic is asked for, as the datanode does for local peers: BBR,
//! the default of some hosts, halves it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use crate::{BenchError, Rate};

const MESSAGE_BYTES: usize = 1 << 20;

pub fn one_hop(bytes: u64) -> Result<Rate, BenchError> {
    let fail = |what| move |source| BenchError::Loopback { what, source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(fail("listen"))?;
    let address = listener.local_addr().map_err(fail("listen"))?;
    let sender = TcpStream::connect(address).map_err(fail("connect"))?;
    let (receiver, _) = listener.accept().map_err(fail("accept"))?;
    for stream in [&sender, &receiver] {
        // A kernel without cubic measures its own default.
        let _ = rustix::net::sockopt::set_tcp_congestion(stream, "cubic");
        stream.set_nodelay(true).map_err(fail("set TCP_NODELAY"))?;
    }
    let mut received = vec![0_u8; MESSAGE_BYTES];
    let message = vec![0x5a_u8; MESSAGE_BYTES];
    let started = Instant::now();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(sender, &message, bytes));
        receive(receiver, &mut received, bytes).map_err(fail("receive"))?;
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.map_err(fail("send"))
    })?;
    Ok(Rate { bytes, elapsed: started.elapsed() })
}

fn send(mut stream: TcpStream, message: &[u8], bytes: u64) -> std::io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let len = left.min(message.len() as u64) as usize;
        stream.write_all(&message[..len])?;
        left -= len as u64;
    }
    Ok(())
}

fn receive(mut stream: TcpStream, buffer: &mut [u8], bytes: u64) -> std::io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        match stream.read(buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            len => left = left.saturating_sub(len as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_every_byte() {
        let rate = one_hop((3 << 20) + 5).unwrap();
        assert_eq!(rate.bytes, (3 << 20) + 5);
        assert!(rate.gb_per_s() > 0.0);
    }
}
