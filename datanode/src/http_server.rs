//! The HTTP port (`dfs.datanode.http.address`): GET of `/metrics`, and of `/prom`, where Hadoop has
//! the same text. A connection carries one request, of bounded size and time; when too many are open,
//! others wait in the listener's queue.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEAD_MAX_BYTES, HTTP_TIMEOUT};
use crate::metrics::Metrics;

/// Version 0.0.4 of Prometheus's text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = respond(&request, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .max_buf_size(HTTP_HEAD_MAX_BYTES)
                .serve_connection(TokioIo::new(socket), answer);
            match tokio::time::timeout(HTTP_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "HTTP connection ended"),
                Err(_) => debug!("HTTP connection closed: it took too long"),
            }
            drop(place);
        });
    }
}

fn respond(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let is_known = matches!(request.uri().path(), "/metrics" | "/prom");
    let mut response = Response::new(Full::default());
    match *request.method() {
        _ if !is_known => *response.status_mut() = StatusCode::NOT_FOUND,
        Method::GET | Method::HEAD => {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS_TEXT));
            *response.body_mut() = Full::from(metrics.render());
        }
        _ => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
    }
    response
}
