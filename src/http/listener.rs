//! The HTTP/1.1 server for a router (RFC 9112): bounds on everything a peer can send or leave unsent, and an orderly end.
//!
//! A peer that sends slowly, sends too much, or does not read its answer costs one connection for a bounded time; more
//! requests than can be worked on are told to come back. TLS and HTTP/2 are the reverse proxy's business. Its idle
//! connections to us should end before ours do ([`Limits::head_timeout`]).

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;

use super::problem::{busy, problem};
use crate::base::shutdown::{Phase, Shutdown};

/// What one server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Of these, from one address (a /64 in IPv6); further ones are told so and closed. What comes from this machine is
    /// the reverse proxy, and is not counted.
    pub connections_of_one: usize,
    /// Requests under way; further ones are answered 503.
    pub concurrent: usize,
    /// The longest request body, in bytes; 413 above.
    pub body: usize,
    /// The longest request line and header together, in bytes, at least 8,192; 431 above.
    pub head: usize,
    /// Header fields; 431 above.
    pub fields: usize,
    /// From the end of one request to the whole head of the next: a slow head and an idle connection end here.
    pub head_timeout: Duration,
    /// From the head to the beginning of the answer: a slow body and a slow handler end here.
    pub request_timeout: Duration,
    /// When a connection is asked to end, whatever it does; it is cut a `request_timeout` later.
    pub connection_age: Duration,
}

impl Limits {
    /// For the side that the world sees, through the proxy.
    pub const PUBLIC: Limits = Limits {
        connections: 1024,
        connections_of_one: 256,
        concurrent: 256,
        body: 1024 * 1024,
        head: 32 * 1024,
        fields: 100,
        head_timeout: Duration::from_secs(75),
        request_timeout: Duration::from_secs(30),
        connection_age: Duration::from_secs(600),
    };

    /// For health and metrics: they answer even when the public side is full.
    pub const ADMIN: Limits = Limits {
        connections: 64,
        connections_of_one: 16,
        concurrent: 16,
        body: 16 * 1024,
        head_timeout: Duration::from_secs(10),
        ..Self::PUBLIC
    };
}

/// Binds the address. Errors name it.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// Serves until `shutdown` drains: then no connection is accepted, idle ones end, requests under way are finished.
/// Returns when the last one is, at the latest when `shutdown` stops.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, shutdown: Shutdown) {
    let app = guarded(app, limits);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    let peers = Peers::default();
    let tasks = TaskTracker::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = shutdown.reached(Phase::Draining) => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = peers.enter(peer.ip(), limits.connections_of_one) else {
                    // Beyond these, who opens more than they may is not told.
                    if let Ok(turn) = turned_away.clone().try_acquire_owned() {
                        tasks.spawn(async move {
                            turn_away(stream).await;
                            drop(turn);
                        });
                    }
                    continue;
                };
                let (app, shutdown) = (app.clone(), shutdown.clone());
                tasks.spawn(async move {
                    connection(stream, app, limits, shutdown).await;
                    drop((place, slot));
                });
            }
            Err(e) => {
                // Mostly the end of file descriptors: others have to end first, so a pause loses nothing.
                tracing::warn!(error = %e, "cannot accept an HTTP connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Connections that are turned away at once, and how long one may take.
const TURNED_AWAY: usize = 64;
const TURNING_AWAY: Duration = Duration::from_secs(1);

/// Tells a peer that it has too many connections, and ends this one.
async fn turn_away(mut stream: TcpStream) {
    let told = async {
        stream.write_all(TOO_MANY_CONNECTIONS).await?;
        stream.shutdown().await?;
        // RFC 9112 §9.6: closed with something unread, the connection is reset, and the answer may be lost with it.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whether it is read is the peer's affair.
    let _ = timeout(TURNING_AWAY, told).await;
}

const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 40\r\nRetry-After: 10\r\nConnection: close\r\n\r\ntoo many connections from your address\r\n";

/// Who has how many connections.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place among those of its peer, until it is dropped.
struct Place {
    peers: Peers,
    /// `None`: it is not counted.
    of: Option<IpAddr>,
}

impl Peers {
    fn enter(&self, ip: IpAddr, most: usize) -> Option<Place> {
        let ip = match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
            ip => ip,
        };
        // `::` is what is left of `::1`.
        if ip.is_loopback() || ip.is_unspecified() {
            return Some(Place { peers: self.clone(), of: None });
        }
        let mut open = self.lock();
        let count = open.entry(ip).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Place { peers: self.clone(), of: Some(ip) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(ip) = self.of else { return };
        let mut open = self.peers.lock();
        if let Some(count) = open.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&ip);
            }
        }
    }
}

async fn connection(stream: TcpStream, app: Router, limits: Limits, shutdown: Shutdown) {
    // Answers are written whole; waiting for more of them gains nothing.
    let _ = stream.set_nodelay(true);
    let mut conn = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // Who has said all they want to say still gets the answers.
            .half_close(true)
            .header_read_timeout(limits.head_timeout)
            .max_headers(limits.fields)
            .max_header_size(limits.head)
            .max_buf_size(limits.head.max(8192))
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
    );
    // How it ends is the peer's affair: errors here are broken connections and requests that are no HTTP.
    tokio::select! {
        _ = conn.as_mut() => return,
        () = sleep(limits.connection_age) => {}
        () = shutdown.reached(Phase::Draining) => {}
    }
    conn.as_mut().graceful_shutdown();
    tokio::select! {
        _ = conn => {}
        () = sleep(limits.request_timeout) => {}
        () = shutdown.reached(Phase::Stopped) => {}
    }
}

/// `app` within its limits. The last layer is the outermost.
fn guarded(app: Router, limits: Limits) -> Router {
    let permits = Arc::new(Semaphore::new(limits.concurrent));
    let app = app.layer(DefaultBodyLimit::max(limits.body)).layer(RequestBodyLimitLayer::new(limits.body));
    // Wrapped whole: to the layers of a router itself, `Allow` is not there yet.
    Router::new()
        .fallback_service(app)
        .layer(from_fn_with_state(limits.body, in_words))
        .layer(from_fn_with_state((permits, limits.request_timeout), bounded))
        .layer(CatchPanicLayer::custom(panicked))
}

/// What the protocol asks of every request, and answers of others' making put into words.
async fn in_words(State(body): State<usize>, request: Request, next: Next) -> Response {
    if let Err(words) = check_host(&request) {
        let mut response = problem(StatusCode::BAD_REQUEST, words);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let method = request.method().clone();
    if method == Method::OPTIONS && request.uri().path() == "*" {
        return allow("GET, HEAD, POST, OPTIONS".to_owned(), StatusCode::NO_CONTENT.into_response());
    }
    if method == Method::CONNECT {
        return allow(
            "GET, HEAD, POST, OPTIONS".to_owned(),
            problem(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy"),
        );
    }
    let response = next.run(request).await;
    let ours = response.headers().contains_key(header::X_CONTENT_TYPE_OPTIONS);
    match response.status() {
        StatusCode::METHOD_NOT_ALLOWED if !ours => {
            let there = response.headers().get(header::ALLOW).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let methods: Vec<&str> =
                there.split(',').map(str::trim).chain(["OPTIONS"]).filter(|m| !m.is_empty()).collect();
            let methods = methods.join(", ");
            // RFC 9110 §9.3.7: to ask what may be asked is always allowed.
            let answer = match method {
                Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
                _ => problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this address takes {methods}")),
            };
            allow(methods, answer)
        }
        StatusCode::PAYLOAD_TOO_LARGE if !ours => {
            problem(StatusCode::PAYLOAD_TOO_LARGE, &format!("a request has at most {body} bytes"))
        }
        _ => response,
    }
}

fn allow(methods: String, mut response: Response) -> Response {
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

/// RFC 9112 §3.2: exactly one `Host`, and a valid one, in HTTP/1.1. Which one it is makes no difference to us; between a
/// proxy that takes the first and one that takes the second, it would.
fn check_host(request: &Request) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err("the request has more than one host"),
        (None, _) if request.version() == Version::HTTP_11 => Err("the request has no host"),
        (Some(host), None) => {
            match host.to_str().is_ok_and(|host| host.is_empty() || host.parse::<Authority>().is_ok()) {
                true => Ok(()),
                false => Err("the request's host is no host"),
            }
        }
        (None, _) => Ok(()),
    }
}

/// Admits a request if there is room, and gives it a limited time.
async fn bounded(State((permits, time)): State<(Arc<Semaphore>, Duration)>, request: Request, next: Next) -> Response {
    let Ok(_permit) = permits.try_acquire() else {
        return busy("too many requests under way", 1);
    };
    let has_body =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|h| request.headers().contains_key(h));
    match timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) if has_body => {
            // RFC 9110 §15.5.9: very likely the body did not come; whatever is left of it is not waited for.
            let mut response = problem(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive");
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Err(_) => busy("the answer took too long", 10),
    }
}

/// A bug in a handler costs its request and nothing else. The panic hook has told where.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("an HTTP request ended in a panic; please report it, with the lines before");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shutdown::{self, Trigger};
    use axum::routing::{get, post};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    async fn faulty() -> String {
        panic!("on purpose")
    }

    struct Server {
        address: SocketAddr,
        trigger: Trigger,
        task: JoinHandle<()>,
        gate: Arc<Gate>,
    }

    /// Holds the requests to `/gate` back, so that a test knows when one is under way.
    struct Gate {
        entered: Semaphore,
        open: Semaphore,
    }

    impl Gate {
        async fn pass(&self) -> &'static str {
            self.entered.add_permits(1);
            let _ = self.open.acquire().await;
            "through"
        }
    }

    async fn start(limits: Limits) -> Server {
        let gate = Arc::new(Gate { entered: Semaphore::new(0), open: Semaphore::new(0) });
        let waiting = gate.clone();
        let app = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/gate", get(move || async move { waiting.pass().await }))
            .route("/stuck", get(std::future::pending::<()>))
            .route("/panic", get(faulty))
            .route("/big", get(|| async { vec![b'x'; 64 << 20] }))
            .route("/echo", post(|body: String| async { body }));
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = shutdown::channel();
        Server { address, trigger, task: tokio::spawn(serve(listener, app, limits, shutdown)), gate }
    }

    const SHORT: Limits = Limits {
        head_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(1500),
        connection_age: Duration::from_secs(60),
        body: 1000,
        ..Limits::PUBLIC
    };

    impl Server {
        async fn open(&self, text: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        }

        /// All that comes until the server closes.
        async fn ask(&self, text: &str) -> String {
            rest(self.open(text).await).await
        }
    }

    async fn rest(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        // A reset after the answer is an end like any other.
        let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the server did not close the connection");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn head_is_answered_like_get_without_the_body() {
        let server = start(SHORT).await;
        let full = server.ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(full.starts_with("HTTP/1.1 200") && full.ends_with("\r\n\r\nhello"), "{full}");
        let head = server.ask("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.to_lowercase().contains("content-length: 5"), "{head}");
    }

    #[tokio::test]
    async fn who_has_too_many_connections_is_told_so_and_not_cut_off_also_after_sending_a_request() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        for request in ["", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", &"x".repeat(20_000)] {
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            peer.write_all(request.as_bytes()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let away = tokio::spawn(turn_away(stream));
            let mut told = Vec::new();
            let read = timeout(Duration::from_secs(30), peer.read_to_end(&mut told)).await.expect("no end");
            let sent = request.len();
            assert!(read.is_ok() && told == TOO_MANY_CONNECTIONS, "{sent} bytes were sent: {read:?}, {told:?}");
            drop(peer);
            away.await.unwrap();
        }
        // Who does not go is not waited for.
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        timeout(Duration::from_secs(30), turn_away(stream)).await.expect("it waits for the peer");
    }

    #[tokio::test]
    async fn a_slow_head_and_an_idle_connection_are_closed() {
        let server = start(SHORT).await;
        let start = Instant::now();
        let slow = server.ask("GET / HTTP/1.1\r\nHos").await;
        assert!(!slow.contains("200"), "{slow}");
        let silent = server.ask("").await;
        assert!(!silent.contains("200"), "{silent}");
        let idle = server.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(idle.ends_with("hello"), "{idle}");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_408() {
        let server = start(SHORT).await;
        let slow = server.ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await;
        assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    }

    #[tokio::test]
    async fn a_long_body_is_413_announced_or_not() {
        let server = start(SHORT).await;
        let announced = server.ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n").await;
        assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
        let chunk = "x".repeat(1001);
        let chunked =
            format!("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{chunk}\r\n0\r\n\r\n");
        let chunked = server.ask(&chunked).await;
        assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
        for answer in [&announced, &chunked] {
            assert!(answer.ends_with("a request has at most 1000 bytes\n"), "{answer}");
        }
        let fits = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
        assert!(server.ask(&fits).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_long_head_is_431() {
        let server = start(SHORT).await;
        let long = server.ask(&format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(40_000))).await;
        assert!(long.starts_with("HTTP/1.1 431"), "{long}");
        let many = server.ask(&format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200))).await;
        assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    }

    #[tokio::test]
    async fn what_a_request_must_have_is_asked_for_in_words() {
        let server = start(SHORT).await;
        for (hosts, words) in [
            ("", "the request has no host"),
            ("Host: a\r\nHost: a\r\n", "more than one host"),
            ("Host: a b\r\n", "no host"),
            ("Host: a/b\r\n", "no host"),
        ] {
            let answer = server.ask(&format!("GET / HTTP/1.1\r\n{hosts}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(words), "{hosts}: {answer}");
        }
        for good in
            ["GET / HTTP/1.0\r\n", "GET / HTTP/1.1\r\nHost:\r\n", "GET http://b/ HTTP/1.1\r\nHost: [::1]:80\r\n"]
        {
            let answer = server.ask(&format!("{good}Connection: close\r\n\r\n")).await;
            assert!(answer.contains(" 200 OK\r\n"), "{good}: {answer}");
        }
    }

    #[tokio::test]
    async fn what_may_be_asked_of_an_address_is_told() {
        let server = start(SHORT).await;
        let ask = async |line: &str| {
            server.ask(&format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await.to_lowercase()
        };
        for (line, status, allow, words) in [
            ("OPTIONS *", 204, "get, head, post, options", ""),
            ("OPTIONS /", 204, "get, head, options", ""),
            ("OPTIONS /echo", 204, "post, options", ""),
            ("DELETE /", 405, "get, head, options", "this address takes get, head, options\n"),
            ("GET /echo", 405, "post, options", "this address takes post, options\n"),
            ("FOO /", 405, "get, head, options", "this address takes get, head, options\n"),
            ("CONNECT b.example:80", 405, "get, head, post, options", "this is no proxy\n"),
        ] {
            let answer = ask(line).await;
            assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{line}: {answer}");
            assert!(answer.contains(&format!("allow: {allow}\r\n")), "{line}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{words}")), "{line}: {answer}");
        }
    }

    /// RFC 9112 §6.1: what stands behind such a body is not taken for a request.
    #[tokio::test]
    async fn two_ways_to_say_how_long_a_body_is_end_the_connection() {
        let server = start(SHORT).await;
        let smuggled = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        for head in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding : chunked",
        ] {
            let text = format!("POST /echo HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}");
            let answer = server.ask(&text).await;
            assert!(!answer.contains("hello"), "{head}: {answer}");
            assert!(answer.contains("connection: close"), "{head}: {answer}");
        }
    }

    #[tokio::test]
    async fn requests_in_a_row_are_answered_in_order_also_when_nothing_follows() {
        let server = start(SHORT).await;
        let row = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
        let (mut reads, mut writes) = server.open("").await.into_split();
        let written = tokio::spawn(async move {
            writes.write_all(row.as_bytes()).await.unwrap();
            // What it drops is its half of the connection.
        });
        let mut answer = Vec::new();
        timeout(Duration::from_secs(10), reads.read_to_end(&mut answer)).await.unwrap().unwrap();
        written.await.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap().matches("HTTP/1.1 200").count(), 2_000);
    }

    #[test]
    fn one_address_cannot_take_every_connection_and_the_proxy_beside_us_can() {
        let peers = Peers::default();
        let enter = |ip: &str| peers.enter(ip.parse().unwrap(), 2);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none() && enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let _six = (enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap());
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
        let beside: Vec<_> = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.0.0.1"].into_iter().map(enter).collect();
        assert!(beside.iter().all(Option::is_some));
        assert_eq!(peers.lock().len(), 2);
        let head_end = TOO_MANY_CONNECTIONS.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(TOO_MANY_CONNECTIONS.len() - head_end, 40);
    }

    #[tokio::test]
    async fn a_panic_is_500_and_the_connection_lives() {
        let server = start(SHORT).await;
        let both = "GET /panic HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = server.ask(both).await;
        assert!(answer.starts_with("HTTP/1.1 500") && answer.ends_with("hello"), "{answer}");
        assert!(!answer.contains("on purpose"), "{answer}");
    }

    #[tokio::test]
    async fn too_many_requests_are_503_and_told_when_to_come_back() {
        let server = start(Limits { concurrent: 1, request_timeout: Duration::from_secs(30), ..SHORT }).await;
        let first = server.open("GET /gate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let _entered = server.gate.entered.acquire().await;
        let second = server.ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(second.starts_with("HTTP/1.1 503") && second.contains("retry-after: 1"), "{second}");
        server.gate.open.add_permits(1);
        assert!(rest(first).await.starts_with("HTTP/1.1 200"));
        let third = server.ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(third.starts_with("HTTP/1.1 200"), "{third}");
    }

    #[tokio::test]
    async fn a_stuck_handler_is_503() {
        let server = start(SHORT).await;
        let stuck = server.ask("GET /stuck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(stuck.starts_with("HTTP/1.1 503") && stuck.contains("retry-after: 10"), "{stuck}");
    }

    #[tokio::test]
    async fn who_does_not_read_the_answer_is_cut_off() {
        let limits = Limits { connections: 1, connection_age: Duration::from_millis(300), ..SHORT };
        let server = start(limits).await;
        let reader = server.open("GET /big HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sleep(Duration::from_millis(100)).await;
        // The only slot is taken until the first one is cut.
        let next = server.ask("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(next.starts_with("HTTP/1.1 200"), "{next}");
        assert!(rest(reader).await.len() < 64 << 20);
    }

    #[tokio::test]
    async fn a_drain_finishes_what_is_under_way_and_accepts_nothing_new() {
        let patient = Duration::from_secs(30);
        let server = start(Limits { head_timeout: patient, request_timeout: patient, ..SHORT }).await;
        let mut idle = server.open("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut byte = [0; 1];
        idle.read_exact(&mut byte).await.unwrap();
        let busy = server.open("GET /gate HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let entered = server.gate.entered.acquire().await;
        server.trigger.set(Phase::Draining);
        rest(idle).await;
        assert!(!server.task.is_finished());
        assert!(TcpStream::connect(server.address).await.is_err());
        drop(entered);
        server.gate.open.add_permits(1);
        let busy = rest(busy).await;
        assert!(busy.starts_with("HTTP/1.1 200") && busy.ends_with("through"), "{busy}");
        timeout(Duration::from_secs(5), server.task).await.expect("the server did not end").unwrap();
    }

    #[tokio::test]
    async fn a_stop_does_not_wait() {
        let server = start(SHORT).await;
        let stuck = server.open("GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await;
        sleep(Duration::from_millis(100)).await;
        server.trigger.set(Phase::Stopped);
        timeout(Duration::from_millis(500), server.task).await.expect("the server did not end").unwrap();
        drop(stuck);
    }
}
