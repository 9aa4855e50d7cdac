//! Between a client and the namenode: of each method's replies the first, third, fifth, … is lost, and the
//! connection with it, once the namenode has sent it. The client is left to ask again.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringfs_protocol::messages::{
    RequestHeaderProto, RpcRequestHeaderProto, RpcResponseHeaderProto,
};
use ringfs_protocol::rpc::codec;

/// What happens between a lost reply and the client's learning of it.
type OnLoss = Arc<dyn Fn() + Send + Sync>;

/// Replies of each method that came by, and of each how many were lost.
type Replies = Arc<Mutex<BTreeMap<String, (u32, u32)>>>;

/// Methods of a connection's calls by their ids.
type Calls = Arc<Mutex<HashMap<i32, String>>>;

pub struct ReplyProxy {
    address: String,
    replies: Replies,
}

impl ReplyProxy {
    /// Serves until the process ends.
    pub fn start(server: String, on_loss: impl Fn() + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let replies = Replies::default();
        let counted = replies.clone();
        let on_loss: OnLoss = Arc::new(on_loss);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (from_client, to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                let calls = Calls::default();
                let known = calls.clone();
                std::thread::spawn(move || forward_calls(from_client, to_server, &known));
                let (counted, on_loss) = (counted.clone(), on_loss.clone());
                std::thread::spawn(move || {
                    return_replies(server, client, &calls, &counted, &on_loss);
                });
            }
        });
        Self { address, replies }
    }

    pub fn uri(&self) -> String {
        format!("hdfs://{}", self.address)
    }

    pub fn lost(&self) -> u32 {
        self.replies.lock().unwrap().values().map(|(_, lost)| lost).sum()
    }

    /// Methods of which a reply was lost.
    pub fn lost_methods(&self) -> Vec<String> {
        let replies = self.replies.lock().unwrap();
        replies.iter().filter(|(_, (_, lost))| *lost > 0).map(|(name, _)| name.clone()).collect()
    }
}

fn forward_calls(mut client: TcpStream, mut server: TcpStream, calls: &Calls) {
    let mut preamble = vec![0; codec::preamble_len()];
    let mut bytes = client.read_exact(&mut preamble).ok().map(|()| preamble);
    while let Some(passed) = bytes {
        if server.write_all(&passed).is_err() {
            break;
        }
        bytes = read_frame(&mut client);
        if let Some((id, method)) = bytes.as_deref().and_then(call_of) {
            calls.lock().unwrap().insert(id, method);
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

/// Passes frames on, and ends at the one that is lost.
fn return_replies(
    mut server: TcpStream,
    mut client: TcpStream,
    calls: &Calls,
    replies: &Replies,
    on_loss: &OnLoss,
) {
    while let Some(frame) = read_frame(&mut server) {
        let header = codec::take_message::<RpcResponseHeaderProto>("reply", &mut body(&frame));
        let id = header.map(|header| header.call_id as i32).unwrap_or(codec::INVALID_CALL_ID);
        if let Some(method) = calls.lock().unwrap().remove(&id) {
            let mut replies = replies.lock().unwrap();
            let (seen, lost) = replies.entry(method).or_default();
            *seen += 1;
            if *seen % 2 == 1 {
                *lost += 1;
                drop(replies);
                on_loss();
                break;
            }
        }
        if client.write_all(&frame).is_err() {
            break;
        }
    }
    for stream in [server, client] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Id and method of the call in a frame, unless it is one of the connection's own.
fn call_of(frame: &[u8]) -> Option<(i32, String)> {
    let mut rest = body(frame);
    let header = codec::take_message::<RpcRequestHeaderProto>("header", &mut rest).ok()?;
    if header.call_id < 0 {
        return None;
    }
    let request = codec::take_message::<RequestHeaderProto>("request", &mut rest).ok()?;
    Some((header.call_id, request.method_name))
}

/// What follows the length.
fn body(frame: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&frame[4..])
}

fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let mut frame = vec![0; 4 + u32::from_be_bytes(len) as usize];
    frame[..4].copy_from_slice(&len);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}
