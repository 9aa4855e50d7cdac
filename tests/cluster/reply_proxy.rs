//! Between a client and the namenode: every second reply is lost, and the connection with it, once the
//! namenode has sent it. The client is left to ask again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What happens between a lost reply and the client's learning of it.
type OnLoss = Arc<dyn Fn() + Send + Sync>;

pub struct ReplyProxy {
    address: String,
    lost: Arc<AtomicU32>,
}

#[derive(Clone)]
struct Rules {
    /// Whether the next reply is to be lost.
    loses_next: Arc<Mutex<bool>>,
    lost: Arc<AtomicU32>,
    on_loss: OnLoss,
}

impl ReplyProxy {
    /// Serves until the process ends.
    pub fn start(server: String, on_loss: impl Fn() + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let lost = Arc::<AtomicU32>::default();
        let rules = Rules {
            loses_next: Arc::new(Mutex::new(true)),
            lost: lost.clone(),
            on_loss: Arc::new(on_loss),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (from_client, to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || forward(from_client, to_server));
                let rules = rules.clone();
                std::thread::spawn(move || return_replies(server, client, &rules));
            }
        });
        Self { address, lost }
    }

    pub fn uri(&self) -> String {
        format!("hdfs://{}", self.address)
    }

    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// Passes frames on, each a length and as many bytes; ends at the one that is lost.
fn return_replies(mut server: TcpStream, mut client: TcpStream, rules: &Rules) {
    while let Some(frame) = read_frame(&mut server) {
        let mut loses = rules.loses_next.lock().unwrap();
        *loses = !*loses;
        if !*loses {
            rules.lost.fetch_add(1, Ordering::Relaxed);
            (rules.on_loss)();
            break;
        }
        if client.write_all(&frame).is_err() {
            break;
        }
    }
    for stream in [server, client] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let mut frame = vec![0; 4 + u32::from_be_bytes(len) as usize];
    frame[..4].copy_from_slice(&len);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}
