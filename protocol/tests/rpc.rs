//! The IPC client and server against each other and against raw bytes, over loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use ringfs_protocol::RemoteError;
use ringfs_protocol::error::java;
use ringfs_protocol::messages::*;
use ringfs_protocol::rpc::client::{RpcClient, RpcClientOptions, RpcError};
use ringfs_protocol::rpc::codec::{self, CallIdentity, Outcome, Response};
use ringfs_protocol::rpc::protocol_name;
use ringfs_protocol::rpc::server::{Call, CallError, RpcServerOptions, RpcService, serve};
use ringfs_protocol::wire::encode_delimited;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

/// Every method takes and answers the messages of `getGroupsForUser`.
#[derive(Default)]
struct Service {
    waiting: Notify,
    released: Notify,
}

impl RpcService for Service {
    fn protocols(&self) -> &'static [&'static str] {
        &[protocol_name::GET_USER_MAPPINGS]
    }

    async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let asked = GetGroupsForUserRequestProto::decode(call.request).map_err(|error| {
            CallError::BadRequest { method: call.method.clone(), why: error.to_string() }
        })?;
        let groups = match call.method.as_str() {
            "getGroupsForUser" => vec![asked.user],
            "whoAmI" => vec![
                call.caller.user.clone(),
                call.call_id.to_string(),
                call.retry_count.to_string(),
                call.client_id.is_some().to_string(),
            ],
            "wait" => {
                self.waiting.notify_one();
                self.released.notified().await;
                vec!["released".to_owned()]
            }
            "throw" => {
                return Err(RemoteError::new(java::FILE_NOT_FOUND, "no such file").into());
            }
            "panic" => panic!("asked to"),
            method => {
                return Err(CallError::NoSuchMethod {
                    protocol: call.protocol,
                    method: method.to_owned(),
                });
            }
        };
        Ok(GetGroupsForUserResponseProto { groups }.encode_to_vec().into())
    }
}

struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn start(options: RpcServerOptions) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Arc::new(Service::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(serve(listener, service.clone(), options, async {
        let _ = stopped.await;
    }));
    Server { address, service, stop, served }
}

fn client(address: SocketAddr) -> RpcClient {
    let options = RpcClientOptions {
        call_timeout: Some(Duration::from_secs(20)),
        ..RpcClientOptions::default()
    };
    RpcClient::new(
        &address.to_string(),
        protocol_name::GET_USER_MAPPINGS,
        "alice/host@REALM",
        options,
    )
}

async fn groups(client: &RpcClient, method: &str, user: &str) -> Result<Vec<String>, RpcError> {
    let request = GetGroupsForUserRequestProto { user: user.to_owned() };
    let response: GetGroupsForUserResponseProto = client.call(method, &request).await?;
    Ok(response.groups)
}

fn remote(result: Result<Vec<String>, RpcError>) -> RemoteError {
    match result {
        Err(RpcError::Remote(error)) => error,
        other => panic!("expected the server's error, got {other:?}"),
    }
}

/// One frame, from its length on.
async fn read_response(stream: &mut TcpStream, client_id: &[u8]) -> Response {
    let len = stream.read_u32().await.unwrap();
    let mut frame = vec![0; len as usize];
    stream.read_exact(&mut frame).await.unwrap();
    codec::decode_response(frame.into(), client_id).unwrap()
}

/// Sends `bytes` on a connection of its own; everything that comes back until the server closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Bytes {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    back.into()
}

async fn refusal(address: SocketAddr, bytes: &[u8]) -> (i32, RemoteError) {
    let mut frame = exchange(address, bytes).await;
    let _ = frame.split_to(4);
    let response = codec::decode_response(frame, &[]).unwrap();
    match response.outcome {
        Outcome::Fatal(error) => (response.call_id, error),
        other => panic!("expected a fatal reply, got {other:?}"),
    }
}

fn connection_start() -> Bytes {
    codec::encode_connection_start(protocol_name::GET_USER_MAPPINGS, "bob", &[])
}

fn request_frame(header: &RpcRequestHeaderProto, rest: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u32(0);
    encode_delimited(header, &mut out);
    out.put_slice(rest);
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out.to_vec()
}

fn header(call_id: i32) -> RpcRequestHeaderProto {
    RpcRequestHeaderProto { rpc_kind: Some(2), rpc_op: Some(0), call_id, ..Default::default() }
}

#[tokio::test]
async fn calls_are_answered_with_the_callers_identity() {
    let server = start(RpcServerOptions::default()).await;
    let client = client(server.address);
    assert_eq!(groups(&client, "getGroupsForUser", "x").await.unwrap(), ["x"]);
    assert_eq!(groups(&client, "whoAmI", "").await.unwrap(), ["alice", "1", "0", "true"]);
    let request = GetGroupsForUserRequestProto { user: String::new() };
    let response: GetGroupsForUserResponseProto =
        client.call_as("whoAmI", &request, 77, 3).await.unwrap();
    assert_eq!(response.groups, ["alice", "77", "3", "true"]);
}

#[tokio::test]
async fn errors_carry_their_class_and_leave_the_connection_usable() {
    let server = start(RpcServerOptions::default()).await;
    let client = client(server.address);
    let thrown = remote(groups(&client, "throw", "").await);
    assert_eq!(thrown, RemoteError::new(java::FILE_NOT_FOUND, "no such file"));
    let unknown = remote(groups(&client, "fly", "").await);
    assert_eq!(unknown.class, java::RPC_NO_SUCH_METHOD);
    let panicked = remote(groups(&client, "panic", "").await);
    assert_eq!(panicked.class, java::RPC_SERVER);
    assert_eq!(groups(&client, "getGroupsForUser", "still").await.unwrap(), ["still"]);

    let other = RpcClient::new(
        &server.address.to_string(),
        protocol_name::CLIENT,
        "alice",
        RpcClientOptions::default(),
    );
    let unserved = remote(groups(&other, "getFileInfo", "").await);
    assert_eq!(unserved.class, java::RPC_NO_SUCH_PROTOCOL);
}

#[tokio::test]
async fn a_slow_call_does_not_hold_up_the_others_of_its_connection() {
    let server = start(RpcServerOptions::default()).await;
    let client = client(server.address);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { groups(&client, "wait", "").await.unwrap() }
    });
    let mut others = tokio::task::JoinSet::new();
    for number in 0..500 {
        let client = client.clone();
        others.spawn(async move {
            let user = number.to_string().repeat(number);
            assert_eq!(groups(&client, "getGroupsForUser", &user).await.unwrap(), [user]);
        });
    }
    others.join_all().await;
    assert!(!waiting.is_finished());
    server.service.released.notify_one();
    assert_eq!(waiting.await.unwrap(), ["released"]);
}

#[tokio::test]
async fn a_frame_of_many_megabytes_arrives_whole() {
    let server = start(RpcServerOptions::default()).await;
    let user = "u".repeat(40 << 20);
    let back = groups(&client(server.address), "getGroupsForUser", &user).await.unwrap();
    assert!(back == [user]);
}

#[tokio::test]
async fn a_client_connects_anew_after_its_server_came_back() {
    let server = start(RpcServerOptions::default()).await;
    let client = client(server.address);
    assert_eq!(groups(&client, "getGroupsForUser", "a").await.unwrap(), ["a"]);
    server.stop.send(()).unwrap();
    server.served.await.unwrap().unwrap();
    let lost = groups(&client, "getGroupsForUser", "b").await.unwrap_err();
    assert!(matches!(lost, RpcError::Io { .. }), "{lost}");

    let listener = TcpListener::bind(server.address).await.unwrap();
    let service = Arc::new(Service::default());
    tokio::spawn(serve(listener, service, RpcServerOptions::default(), std::future::pending()));
    assert_eq!(groups(&client, "getGroupsForUser", "c").await.unwrap(), ["c"]);
}

#[tokio::test]
async fn shutdown_lets_running_calls_answer() {
    let server = start(RpcServerOptions::default()).await;
    let client = client(server.address);
    let waiting = tokio::spawn(async move { groups(&client, "wait", "").await });
    server.service.waiting.notified().await;
    server.stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!server.served.is_finished());
    server.service.released.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap(), ["released"]);
    server.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_without_reply_times_out() {
    let server = start(RpcServerOptions::default()).await;
    let options = RpcClientOptions {
        call_timeout: Some(Duration::from_millis(50)),
        ping_interval: Duration::from_millis(10),
        ..RpcClientOptions::default()
    };
    let client = RpcClient::new(
        &server.address.to_string(),
        protocol_name::GET_USER_MAPPINGS,
        "alice",
        options,
    );
    let error = groups(&client, "wait", "").await.unwrap_err();
    assert!(matches!(error, RpcError::TimedOut { timeout_ms: 50, .. }), "{error}");
    assert_eq!(groups(&client, "getGroupsForUser", "x").await.unwrap(), ["x"]);
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_that_names_it() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = groups(&client(address), "getGroupsForUser", "x").await.unwrap_err();
    assert!(error.to_string().starts_with(&address.to_string()), "{error}");
}

#[tokio::test]
async fn strangers_get_the_reply_that_they_understand() {
    let server = start(RpcServerOptions::default()).await;
    let http = exchange(server.address, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(http.starts_with(b"HTTP/1.1 404 "), "{http:?}");

    let (call_id, error) = refusal(server.address, b"\x16\x03\x01\x02\x00\x01").await;
    assert_eq!((call_id, error.class.as_str()), (-1, java::RPC_VERSION_MISMATCH));
    let (call_id, error) = refusal(server.address, b"hrpc\x0a\0\0").await;
    assert_eq!((call_id, error.class.as_str()), (-1, java::RPC_VERSION_MISMATCH));
    let (call_id, error) = refusal(server.address, b"hrpc\x09\0\x50").await;
    assert_eq!((call_id, error.class.as_str()), (-1, java::IPC));
    assert!(exchange(server.address, b"hrpc\x07\0\0").await.is_empty(), "too old for a reply");
}

#[tokio::test]
async fn frames_out_of_place_end_the_connection_with_a_reason() {
    let server = start(RpcServerOptions::default()).await;
    let preamble = b"hrpc\x09\0\0".to_vec();
    let start = connection_start().to_vec();
    let op = RpcRequestHeaderProto { rpc_op: Some(1), ..header(5) };
    let no_kind = RpcRequestHeaderProto { rpc_kind: None, ..header(5) };
    let cases = [
        (&preamble, request_frame(&header(5), &[0, 0]), 5, "before the connection context"),
        (&preamble, request_frame(&header(-33), &[2, 8, 1]), -33, "SASL"),
        (&preamble, vec![0, 0, 0, 2, 0x7f, 0], -1, "RpcRequestHeaderProto"),
        (&start, request_frame(&header(-3), &[0]), -3, "second connection context"),
        (&start, request_frame(&header(-7), &[]), -7, "call id -7"),
        (&start, request_frame(&op, &[]), 5, "rpcOp 1"),
        (&start, request_frame(&no_kind, &[]), 5, "no rpcKind"),
        (&start, request_frame(&header(5), &[3, 1]), 5, "RequestHeaderProto"),
    ];
    for (opening, frame, call_id, told) in cases {
        let bytes = [&opening[..], &frame[..]].concat();
        let (replied_id, error) = refusal(server.address, &bytes).await;
        assert_eq!((replied_id, error.class.as_str()), (call_id, java::RPC_SERVER_FATAL), "{told}");
        assert!(error.message.contains(told), "{}", error.message);
    }
    for (length, told) in [([0xff; 4], "negative"), ([0x08, 0, 0, 1], "beyond the limit")] {
        let bytes = [&start[..], &length[..]].concat();
        assert!(exchange(server.address, &bytes).await.is_empty(), "{told}");
    }
    let early = [&preamble[..], &[0, 1, 0, 1][..]].concat();
    assert!(exchange(server.address, &early).await.is_empty(), "64 KiB before the context");
}

#[tokio::test]
async fn nobody_acts_for_another_user_unless_the_service_says_so() {
    let server = start(RpcServerOptions::default()).await;
    let context = IpcConnectionContextProto {
        user_info: Some(UserInformationProto {
            effective_user: Some("root".into()),
            real_user: Some("mallory".into()),
        }),
        protocol: None,
    };
    let frame = request_frame(&header(-3), &context.encode_length_delimited_to_vec());
    let (_, error) = refusal(server.address, &[b"hrpc\x09\0\0", &frame[..]].concat()).await;
    assert_eq!(error.class, java::AUTHORIZATION);
    assert_eq!(error.message, "User: mallory is not allowed to impersonate root");
}

#[tokio::test]
async fn a_client_that_asks_for_sasl_falls_back_to_simple() {
    let server = start(RpcServerOptions::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"hrpc\x09\0\xdf").await.unwrap();
    let negotiate = RpcSaslProto { state: SaslState::Negotiate as i32, ..Default::default() };
    let frame = request_frame(&header(-33), &negotiate.encode_length_delimited_to_vec());
    stream.write_all(&frame).await.unwrap();
    let response = read_response(&mut stream, &[]).await;
    assert_eq!(response.call_id, -33);
    let Outcome::Success(body) = response.outcome else { panic!("{response:?}") };
    let answer = RpcSaslProto::decode(body).unwrap();
    assert_eq!(answer, RpcSaslProto { state: SaslState::Success as i32, ..Default::default() });

    // The context without its preamble, a ping, then a call: only the call is answered.
    let identity = CallIdentity { call_id: 0, client_id: vec![9; 16], retry_count: 0 };
    let request = GetGroupsForUserRequestProto { user: "x".into() };
    let call =
        codec::encode_request(protocol_name::GET_USER_MAPPINGS, "whoAmI", &identity, &request)
            .unwrap();
    let frames = [&connection_start()[7..], &codec::encode_ping(&[9; 16])[..], &call[..]].concat();
    stream.write_all(&frames).await.unwrap();
    let response = read_response(&mut stream, &[9; 16]).await;
    let Outcome::Success(body) = response.outcome else { panic!("{response:?}") };
    let groups = GetGroupsForUserResponseProto::decode(body).unwrap().groups;
    assert_eq!(groups, ["bob", "0", "0", "true"]);
}

#[tokio::test]
async fn meta_information_is_answered_on_any_connection() {
    let server = start(RpcServerOptions::default()).await;
    let client = RpcClient::new(
        &server.address.to_string(),
        protocol_name::PROTOCOL_META_INFO,
        "alice",
        RpcClientOptions::default(),
    );
    let request =
        GetProtocolVersionsRequestProto { protocol: protocol_name::GET_USER_MAPPINGS.into() };
    let versions: GetProtocolVersionsResponseProto =
        client.call("getProtocolVersions", &request).await.unwrap();
    assert_eq!(versions.protocol_versions[0].rpc_kind, "RPC_PROTOCOL_BUFFER");
    assert_eq!(versions.protocol_versions[0].versions, [1]);
    let request = GetProtocolSignatureRequestProto {
        protocol: protocol_name::CLIENT.into(),
        rpc_kind: "RPC_PROTOCOL_BUFFER".into(),
    };
    let signatures: GetProtocolSignatureResponseProto =
        client.call("getProtocolSignature", &request).await.unwrap();
    assert!(signatures.protocol_signature.is_empty(), "a protocol that is not served");
}

#[tokio::test]
async fn whoever_stalls_inside_a_frame_is_dropped_and_who_idles_between_frames_is_not() {
    let frame_timeout = Duration::from_millis(150);
    let server = start(RpcServerOptions { frame_timeout, ..RpcServerOptions::default() }).await;
    let idle = client(server.address);
    assert_eq!(groups(&idle, "getGroupsForUser", "x").await.unwrap(), ["x"]);

    let begun = Instant::now();
    assert!(exchange(server.address, b"hr").await.is_empty(), "an unfinished preamble");
    assert!(begun.elapsed() >= frame_timeout);
    let mut unfinished = connection_start().to_vec();
    unfinished.extend_from_slice(&[0, 1, 0, 0, 1]);
    assert!(exchange(server.address, &unfinished).await.is_empty(), "an unfinished frame");
    assert!(begun.elapsed() >= 2 * frame_timeout);

    assert_eq!(groups(&idle, "whoAmI", "").await.unwrap()[1], "1", "on the same connection");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_while_the_others_are_busy() {
    let options = RpcServerOptions { connections_max: 1, ..RpcServerOptions::default() };
    let server = start(options).await;
    let first = client(server.address);
    assert_eq!(groups(&first, "getGroupsForUser", "x").await.unwrap(), ["x"]);
    let second = groups(&client(server.address), "getGroupsForUser", "x").await;
    assert!(matches!(second, Err(RpcError::Io { .. })), "{second:?}");
    assert_eq!(groups(&first, "getGroupsForUser", "y").await.unwrap(), ["y"]);
}

#[tokio::test]
async fn a_new_connection_takes_the_place_of_one_long_idle() {
    let options = RpcServerOptions { connections_max: 1, ..RpcServerOptions::default() };
    let server = start(options).await;
    let first = client(server.address);
    assert_eq!(groups(&first, "getGroupsForUser", "x").await.unwrap(), ["x"]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(21)).await;
    tokio::time::resume();
    let second = client(server.address);
    assert_eq!(groups(&second, "getGroupsForUser", "y").await.unwrap(), ["y"]);
}

#[tokio::test]
async fn whoever_does_not_read_its_replies_is_read_no_further_and_harms_nobody() {
    let options = RpcServerOptions {
        calls_per_connection_max: 4,
        calls_max: 8,
        frame_timeout: Duration::from_millis(300),
        ..RpcServerOptions::default()
    };
    let server = start(options).await;
    let mut greedy = TcpStream::connect(server.address).await.unwrap();
    greedy.write_all(&connection_start()).await.unwrap();
    let request = GetGroupsForUserRequestProto { user: "u".repeat(1 << 20) };
    let identity = CallIdentity { call_id: 1, client_id: Vec::new(), retry_count: 0 };
    let call = codec::encode_request(
        protocol_name::GET_USER_MAPPINGS,
        "getGroupsForUser",
        &identity,
        &request,
    )
    .unwrap();
    let flood = tokio::spawn(async move { while greedy.write_all(&call).await.is_ok() {} });
    let other = client(server.address);
    for number in 0..50 {
        let user = number.to_string();
        assert_eq!(groups(&other, "getGroupsForUser", &user).await.unwrap(), [user]);
    }
    // Its replies have not moved for the frame timeout: it is closed.
    tokio::time::timeout(Duration::from_secs(10), flood).await.unwrap().unwrap();
}
