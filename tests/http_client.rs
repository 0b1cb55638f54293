//! The outgoing HTTP client against servers that we hold in hand: where it must not go, and what it must not swallow.
//!
//! 127.0.0.2 plays the public Internet here (the guard is told so); 127.0.0.1 and ::1 are what must not be reached. No
//! test asks DNS.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use rookery::base::clock::Timestamp;
use rookery::http::client::guard::Refusal;
use rookery::http::client::resolve::{Lookup, Resolver};
use rookery::http::client::{Client, Connection, FetchError, Options, Overlong, Redirects, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use url::Url;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PRIVATE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Answers with one list of addresses after the other; the last one stays.
#[derive(Default)]
struct FakeDns {
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl FakeDns {
    fn set(&self, name: &str, answers: &[&[IpAddr]]) {
        self.names.lock().unwrap().insert(name.to_owned(), answers.iter().rev().map(|a| a.to_vec()).collect());
    }
}

impl Resolver for FakeDns {
    fn lookup(&self, name: &str) -> Lookup {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = match self.names.lock().unwrap().get_mut(name) {
            Some(answers) if answers.len() > 1 => Ok(answers.pop().unwrap()),
            Some(answers) => Ok(answers[0].clone()),
            None => Err(io::Error::other("no such name")),
        };
        Box::pin(async move {
            match answer {
                Ok(addresses) if addresses == [IpAddr::from([0, 0, 0, 1])] => std::future::pending().await,
                answer => answer,
            }
        })
    }
}

/// A server that hands each connection, with the request's bytes on it, to `answer`, and counts.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

async fn server<F, A>(ip: impl Into<IpAddr>, port: u16, answer: F) -> Server
where
    F: Fn(String, TcpStream) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::new(ip.into(), port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counter, log, answer) = (connections.clone(), requests.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let (log, answer) = (log.clone(), answer.clone());
            tokio::spawn(async move {
                let request = read_request(&mut stream).await;
                log.lock().unwrap().push(request.clone());
                answer(request, stream).await;
            });
        }
    });
    Server { port, connections, requests }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        seen.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
        let complete = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length);
        // The first byte of a TLS handshake: no request will come.
        if complete || read == 0 || seen.first() == Some(&22) {
            return text;
        }
    }
}

/// Answers `/302?<location>` with that redirect, everything else with 200 and the request itself.
async fn echo_or_redirect(request: String, mut stream: TcpStream) {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let answer = match target.strip_prefix('/').and_then(|t| t.split_once('?')) {
        Some((status, location)) if status.parse::<u16>().is_ok() => {
            format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nSet-Cookie: a=b\r\nConnection: close\r\n\r\n")
        }
        _ => format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{request}", request.len()),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// Sends fixed bytes and closes.
async fn canned(answer: impl AsRef<[u8]> + Send + Sync + Clone + 'static) -> Server {
    server(PUBLIC, 0, move |_, mut stream| {
        let answer = answer.clone();
        async move { drop(stream.write_all(answer.as_ref()).await) }
    })
    .await
}

struct Net {
    dns: Arc<FakeDns>,
    client: Client,
}

fn net_with(change: impl FnOnce(&mut Options)) -> Net {
    let dns = Arc::new(FakeDns::default());
    dns.set("public.example", &[&[PUBLIC.into()]]);
    dns.set("other.example", &[&[PUBLIC.into()]]);
    let mut options = Options::new("https://social.example.org".parse().unwrap(), false);
    options.guard.as_public = vec![PUBLIC.into()];
    options.resolver = dns.clone();
    options.connect_timeout = Duration::from_secs(2);
    change(&mut options);
    Net { dns, client: Client::new(options).unwrap() }
}

fn net() -> Net {
    net_with(|_| {})
}

fn get(server: &Server, path: &str) -> Request {
    Request::get(format!("http://public.example:{}{path}", server.port).parse().unwrap())
}

fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).unwrap()
}

#[tokio::test]
async fn ssrf_table() {
    // What must not be reached, on both loopback families at one port; what may be, at another.
    let trap = server(PRIVATE, 0, echo_or_redirect).await;
    let port = trap.port;
    let trap6 = server("::1".parse::<IpAddr>().unwrap(), port, echo_or_redirect).await;
    let open = server(PUBLIC, 0, echo_or_redirect).await;
    let public = format!("http://public.example:{}", open.port);

    let net = net();
    let private: &[IpAddr] = &[PRIVATE.into()];
    let names: &[(&str, &[&[IpAddr]])] = &[
        ("private.example", &[private]),
        ("mapped.example", &[&["::ffff:127.0.0.1".parse().unwrap()]]),
        ("metadata.example", &[&["169.254.169.254".parse().unwrap()]]),
        ("mixed.example", &[&[PRIVATE.into(), "10.0.0.1".parse().unwrap(), PUBLIC.into()]]),
        ("rebind.example", &[&[PUBLIC.into()], private]),
        ("rebind2.example", &[&[PUBLIC.into()], private]),
        ("localhost", &[private]),
        ("localhost.", &[private]),
        ("app.localhost", &[private]),
        ("intranet", &[private]),
    ];
    for (name, answers) in names {
        net.dns.set(name, answers);
    }

    let local = |host: &str| format!("http://{host}:{port}/");
    let hop = |status: u16, to: &str| format!("{public}/{status}?{to}");
    let rows: Vec<(&str, String, &str)> = vec![
        ("control: a public host", format!("{public}/"), "200"),
        ("control: a redirect to a public host", hop(302, &format!("http://other.example:{}/", open.port)), "200"),
        ("loopback, dotted", local("127.0.0.1"), "a loopback address"),
        ("loopback, another of 127/8", local("127.9.8.7"), "a loopback address"),
        ("loopback, final dot", local("127.0.0.1."), "a loopback address"),
        ("loopback, short", local("127.1"), "a loopback address"),
        ("loopback, decimal", local("2130706433"), "a loopback address"),
        ("loopback, hexadecimal", local("0x7f000001"), "a loopback address"),
        ("loopback, hexadecimal parts", local("0x7f.1"), "a loopback address"),
        ("loopback, octal", local("0177.0.0.01"), "a loopback address"),
        ("loopback, octal number", local("017700000001"), "a loopback address"),
        ("loopback, full-width digits", local("１２７.０.０.１"), "a loopback address"),
        ("loopback, ideographic full stops", local("127。0。0。1"), "a loopback address"),
        ("loopback, percent-encoded", local("%31%32%37.0.0.1"), "a loopback address"),
        ("loopback, IPv6", local("[::1]"), "a loopback address"),
        ("loopback, IPv6 in full", local("[0:0:0:0:0:0:0:1]"), "a loopback address"),
        ("loopback, v4-mapped", local("[::ffff:127.0.0.1]"), "a loopback address"),
        ("loopback, v4-mapped in hex", local("[::ffff:7f00:1]"), "a loopback address"),
        ("loopback, v4-compatible", local("[::127.0.0.1]"), "wraps another one"),
        ("loopback, NAT64", local("[64:ff9b::7f00:1]"), "a loopback address"),
        ("loopback, local NAT64", local("[64:ff9b:1::7f00:1]"), "wraps another one"),
        ("loopback, 6to4", local("[2002:7f00:1::]"), "wraps another one"),
        ("Teredo", local("[2001:0:7f00:1::1]"), "wraps another one"),
        ("unspecified", local("0.0.0.0"), "an unspecified address"),
        ("unspecified, one digit", local("0"), "an unspecified address"),
        ("unspecified, IPv6", local("[::]"), "an unspecified address"),
        ("cloud metadata", "http://169.254.169.254/latest/meta-data/".to_owned(), "a link-local address"),
        ("private 10/8", local("10.0.0.1"), "a private address"),
        ("private 172.16/12", local("172.16.0.1"), "a private address"),
        ("private 192.168/16", local("192.168.0.1"), "a private address"),
        ("shared 100.64/10", local("100.64.0.1"), "a private address"),
        ("benchmark 198.18/15", local("198.18.0.1"), "a reserved address"),
        ("documentation", local("192.0.2.1"), "a reserved address"),
        ("protocol assignments", local("192.0.0.1"), "a reserved address"),
        ("link-local, IPv6", local("[fe80::1]"), "a link-local address"),
        ("unique local", local("[fc00::1]"), "a private address"),
        ("documentation, IPv6", local("[2001:db8::1]"), "a reserved address"),
        ("multicast", local("224.0.0.1"), "a multicast address"),
        ("multicast, IPv6", local("[ff02::1]"), "a multicast address"),
        ("broadcast", local("255.255.255.255"), "a reserved address"),
        ("localhost", local("localhost"), "a name of a local network"),
        ("localhost, final dot", local("localhost."), "a name of a local network"),
        ("localhost, upper case", local("LOCALHOST"), "a name of a local network"),
        ("below localhost", local("app.localhost"), "a name of a local network"),
        ("a name without a dot", local("intranet"), "a name of a local network"),
        ("a name of 127.0.0.1", local("private.example"), "127.0.0.1 is a loopback address"),
        ("a name of ::ffff:127.0.0.1", local("mapped.example"), "a loopback address"),
        ("a name of the metadata address", local("metadata.example"), "a link-local address"),
        ("a name of both kinds: the public one", format!("http://mixed.example:{}/", open.port), "200"),
        ("rebinding, first fetch: public", format!("http://rebind.example:{}/", open.port), "200"),
        ("rebinding, second fetch: private", local("rebind.example"), "127.0.0.1 is a loopback address"),
        (
            "rebinding between two hops",
            {
                let back = format!("http://rebind2.example:{port}/");
                format!("http://rebind2.example:{}/302?{back}", open.port)
            },
            "127.0.0.1 is a loopback address",
        ),
        ("redirect to loopback", hop(302, &local("127.0.0.1")), "a loopback address"),
        ("redirect to v4-mapped loopback", hop(307, &local("[::ffff:127.0.0.1]")), "a loopback address"),
        ("redirect to a private name", hop(301, &local("private.example")), "127.0.0.1 is a loopback address"),
        ("redirect over two hops", hop(308, &hop(303, &local("0x7f.1"))), "a loopback address"),
        ("redirect without a scheme", hop(302, &format!("//127.0.0.1:{port}/")), "a loopback address"),
        ("redirect to a file", hop(302, "file:///etc/passwd"), "the scheme file"),
        ("redirect with credentials", hop(302, &format!("http://u:p@public.example:{}/", open.port)), "credentials"),
        ("redirect to a closed port", hop(302, "http://public.example:25/"), "port 25"),
        ("user name", format!("http://public.example@127.0.0.1:{port}/"), "credentials"),
        ("user name and password", format!("http://u:p@public.example:{}/", open.port), "credentials"),
        ("ftp", "ftp://public.example/".to_owned(), "the scheme ftp"),
        ("file", "file:///etc/passwd".to_owned(), "the scheme file"),
        ("gopher", "gopher://public.example:70/_x".to_owned(), "the scheme gopher"),
        ("data", "data:,x".to_owned(), "the scheme data"),
        ("port of SSH", "http://public.example:22/".to_owned(), "port 22"),
        ("port of mail", "https://public.example:25/".to_owned(), "port 25"),
        ("port of XMPP components", "http://public.example:5347/".to_owned(), "port 5347"),
        ("port of Redis", "http://public.example:6379/".to_owned(), "port 6379"),
        ("port 0", "http://public.example:0/".to_owned(), "port 0"),
        ("a URL of 5,000 bytes", format!("{public}/{}", "a".repeat(5000)), "longer than 4096"),
    ];

    println!("\nSSRF table: {} URLs\n{:<40} {:<58} outcome", rows.len(), "what", "URL");
    let mut wrong = Vec::new();
    for (what, url, expected) in &rows {
        let outcome = match Url::parse(url) {
            Err(e) => format!("no URL: {e}"),
            Ok(url) => match net.client.fetch(Request::get(url)).await {
                Ok(response) => response.status.as_u16().to_string(),
                Err(e) => e.to_string(),
            },
        };
        let shown: String = url.chars().take(56).collect();
        println!("{what:<40} {shown:<58} {outcome}");
        if !outcome.contains(expected) {
            wrong.push(format!("{what}: {outcome:?}, expected {expected:?}"));
        }
    }
    let reached = trap.connections.load(Ordering::SeqCst) + trap6.connections.load(Ordering::SeqCst);
    println!("connections to what must not be reached: {reached}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(reached, 0);
    assert!(rows.len() >= 40);
}

#[tokio::test]
async fn loopback_opens_for_tests_and_demos_but_metadata_does_not() {
    let local = server(PRIVATE, 0, echo_or_redirect).await;
    let net = net_with(|o| o.guard.allow_private_addresses = true);
    net.dns.set("localhost", &[&[PRIVATE.into()]]);
    for host in ["127.0.0.1", "localhost", "2130706433"] {
        let url = format!("http://{host}:{}/", local.port).parse().unwrap();
        assert_eq!(net.client.fetch(Request::get(url)).await.unwrap().status, 200, "{host}");
    }
    for url in ["http://169.254.169.254/", "http://0.0.0.0:8080/", "http://127.0.0.1:22/", "http://u@127.0.0.1/"] {
        let refused = net.client.fetch(Request::get(url.parse().unwrap())).await.unwrap_err();
        assert!(matches!(refused, FetchError::Refused(_)), "{url}: {refused}");
    }
}

#[tokio::test]
async fn a_name_is_resolved_once_for_each_connection() {
    let (net, public) = (net(), server(PUBLIC, 0, echo_or_redirect).await);
    net.client.fetch(get(&public, "/")).await.unwrap();
    assert_eq!(net.dns.asked.load(Ordering::SeqCst), 1);
    assert_eq!(public.connections.load(Ordering::SeqCst), 1);
}

/// Who counts by address must not be led to where the name led before.
#[tokio::test]
async fn a_request_with_a_connection_of_its_own_takes_none_and_leaves_none() {
    let stays_open = |mut request: String, mut stream: TcpStream| async move {
        while !request.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            request = read_request(&mut stream).await;
        }
    };
    let (net, before) = (net(), server(PUBLIC, 0, stays_open).await);
    let (shared, own) = (get(&before, "/"), Request { connection: Connection::Own, ..get(&before, "/") });
    for (request, connections) in [(&shared, 1), (&shared, 1), (&own, 2), (&own, 3), (&shared, 3)] {
        assert_eq!(text(&net.client.fetch(request.clone()).await.unwrap()), "ok");
        assert_eq!(before.connections.load(Ordering::SeqCst), connections);
    }
}

#[test]
fn a_proxy_of_the_environment_is_not_used() {
    // In a process of its own, because the environment belongs to all tests of one.
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_name_is_resolved_once_for_each_connection"]);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        child.env(name, "http://127.0.0.1:9");
    }
    let output = child.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
}

#[tokio::test]
async fn a_delivery_is_not_redirected() {
    let (net, public) = (net(), server(PUBLIC, 0, echo_or_redirect).await);
    let url = get(&public, "/307?/elsewhere").url;
    let answer = net.client.fetch(Request::post(url, Bytes::from_static(b"feed"))).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header(reqwest::header::LOCATION)), (307, Some("/elsewhere")));
    assert_eq!(public.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_limit() {
    let (net, public) = (net(), server(PUBLIC, 0, echo_or_redirect).await);
    let at = net.client.fetch(get(&public, "/301?/302?/308?/end")).await.unwrap();
    assert_eq!((at.status.as_u16(), at.url.path()), (200, "/end"));
    let error = net.client.fetch(get(&public, "/302?/302?/302?/302?/end")).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect("too many redirects")) && !error.is_temporary(), "{error}");
    let error = net.client.fetch(get(&public, "/302?http://[")).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect("the redirect leads nowhere")), "{error}");
}

#[tokio::test]
async fn a_307_carries_method_and_body_but_no_proof_to_another_origin() {
    let (net, public) = (net(), server(PUBLIC, 0, echo_or_redirect).await);
    let other = format!("http://other.example:{}/end", public.port);
    let mut request = Request::post(get(&public, &format!("/307?{other}")).url, Bytes::from_static(b"the body"))
        .header(AUTHORIZATION, HeaderValue::from_static("Bearer t"));
    request.redirects = Redirects::Follow(1);
    let answer = net.client.fetch(request).await.unwrap();
    let second = text(&answer).to_lowercase();
    assert!(second.starts_with("post /end ") && second.ends_with("the body"), "{second}");
    assert!(!second.contains("bearer") && second.contains("host: other.example"), "{second}");
    assert!(public.requests.lock().unwrap()[0].to_lowercase().contains("bearer"));
}

#[tokio::test]
async fn it_says_who_asks_and_keeps_no_cookies() {
    let (net, public) = (net(), server(PUBLIC, 0, echo_or_redirect).await);
    let answer = net.client.fetch(get(&public, "/302?/end#here").accept("application/jrd+json")).await.unwrap();
    let second = text(&answer).to_lowercase();
    let agent = format!("user-agent: rookery/{} (+https://social.example.org/)", env!("CARGO_PKG_VERSION"));
    assert!(second.contains(&agent) && second.contains("accept: application/jrd+json"), "{second}");
    assert!(!second.contains("cookie") && !second.contains("referer"), "{second}");
    assert!(second.starts_with("get /end http/1.1"), "{second}");
}

/// 300,000 zeros, compressed by gzip to 325 bytes.
fn gzip_bomb() -> Vec<u8> {
    let text = format!("H4sIAAAAAAACA+3BAQ0AAADCoPdPbQ8HF{}/Bj74rL24JMEAA==", "A".repeat(387));
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[tokio::test]
async fn the_body_is_counted_after_decompression() {
    let bomb = gzip_bomb();
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len()).into_bytes();
    answer.extend_from_slice(&bomb);
    let (net, public) = (net(), canned(answer).await);
    let mut request = get(&public, "/");
    request.limits.body = 300_000;
    assert_eq!(net.client.fetch(request.clone()).await.unwrap().body.len(), 300_000);
    request.limits.body = 299_999;
    let error = net.client.fetch(request).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge(299_999)) && !error.is_temporary(), "{error}");
}

#[tokio::test]
async fn an_announced_or_endless_body_is_refused_or_cut() {
    let announced = canned("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nxxx").await;
    let endless = server(PUBLIC, 0, |_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
    })
    .await;
    let net = net();
    for server in [&announced, &endless] {
        let mut request = get(server, "/");
        let start = Instant::now();
        let error = net.client.fetch(request.clone()).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLarge(1_048_576)), "{error}");
        // For a delivery only the status counts, so what came of the body is kept.
        (request.limits.overlong, request.limits.body) = (Overlong::Cut, 10);
        let answer = net.client.fetch(request).await.unwrap();
        assert!(text(&answer).starts_with("xxx") && answer.body.len() <= 10);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let long = canned(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(70_000))).await;
    let endless = canned(format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(2 << 20))).await;
    let many = canned(format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(150))).await;
    let net = net();
    for server in [long, endless, many] {
        let error = net.client.fetch(get(&server, "/")).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLarge(_) | FetchError::Exchange(_)), "{error}");
    }
}

#[tokio::test]
async fn silence_and_dripping_end_in_time() {
    let silent = server(PUBLIC, 0, |_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let dripping = server(PUBLIC, 0, |_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let net = net_with(|o| o.read_timeout = Duration::from_millis(300));
    let start = Instant::now();
    let error = net.client.fetch(get(&silent, "/")).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout), "{error}");
    let mut request = get(&dripping, "/");
    request.limits.total = Duration::from_millis(600);
    let error = net.client.fetch(request.clone()).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout) && error.is_temporary() && !error.is_host_level(), "{error}");
    request.limits.overlong = Overlong::Cut;
    assert_eq!(net.client.fetch(request).await.unwrap().status, 200);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn names_that_strangers_have_us_look_up_keep_no_connection_from_coming_about() {
    let net = net();
    let (client, asked) = (net.client.clone(), &net.dns.asked);
    for n in 0..300 {
        let name = format!("dead{n}.example");
        net.dns.set(&name, &[&[IpAddr::from([0, 0, 0, 1])]]);
        let (client, url) = (client.clone(), format!("http://{name}/").parse().unwrap());
        tokio::spawn(async move { client.addresses(&url).await });
    }
    while asked.load(Ordering::SeqCst) < 64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let site = canned("HTTP/1.1 204 No Content\r\n\r\n").await;
    let answer = client.fetch(get(&site, "/")).await.unwrap();
    assert_eq!(answer.status.as_u16(), 204);
    assert_eq!(asked.load(Ordering::SeqCst), 65, "more of them wait for their turn");
}

#[tokio::test]
async fn errors_of_the_host_are_told_from_errors_of_the_exchange() {
    let net = net_with(|o| o.connect_timeout = Duration::from_millis(500));
    net.dns.set("empty.example", &[&[]]);
    net.dns.set("private.example", &[&[PRIVATE.into()]]);
    net.dns.set("never.example", &[&[IpAddr::from([0, 0, 0, 1])]]);
    let closed = TcpListener::bind((PUBLIC, 0)).await.unwrap().local_addr().unwrap().port();
    let plain = canned("this is no TLS").await;
    let garbage = canned("SSH-2.0-x\r\n").await;
    let hangs_up = canned("").await;
    let table: Vec<(String, &str, bool)> = vec![
        ("http://unknown.example/".into(), "Dns", true),
        ("http://empty.example/".into(), "Dns", true),
        ("http://never.example/".into(), "Connect", true),
        ("http://private.example/".into(), "Refused", true),
        (format!("http://public.example:{closed}/"), "Connect", true),
        (format!("https://public.example:{}/", plain.port), "Tls", true),
        (format!("http://public.example:{}/", garbage.port), "Exchange", false),
        (format!("http://public.example:{}/", hangs_up.port), "Exchange", false),
    ];
    for (url, kind, host_level) in table {
        let error = net.client.fetch(Request::get(url.parse().unwrap())).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{url}: {error:?}");
        assert_eq!(error.is_host_level(), host_level, "{url}: {error}");
        assert!(error.is_temporary(), "{url}: {error}");
    }
    let refused = net.client.fetch(Request::get("http://10.0.0.1/".parse().unwrap())).await.unwrap_err();
    assert!(!refused.is_temporary() && !refused.is_host_level(), "{refused}");
    assert!(matches!(net.client.check(&"http://10.0.0.1/".parse().unwrap()), Err(Refusal::Address(..))));
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let slow = server(PUBLIC, 0, |request, stream| async move {
        sleep(Duration::from_millis(300)).await;
        echo_or_redirect(request, stream).await;
    })
    .await;
    let net = net_with(|o| o.concurrent = 1);
    let mut hasty = get(&slow, "/hasty");
    hasty.limits.total = Duration::from_millis(100);
    let (first, second, third) =
        tokio::join!(net.client.fetch(get(&slow, "/1")), net.client.fetch(get(&slow, "/2")), net.client.fetch(hasty));
    assert!(first.is_ok() && second.is_ok());
    let third = third.unwrap_err();
    assert!(matches!(third, FetchError::Busy) && third.is_temporary() && !third.is_host_level(), "{third}");
    assert_eq!(slow.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_answer_tells_when_to_come_back() {
    let now = Timestamp::from_secs(784_111_777);
    let most = Duration::from_secs(3600);
    for (value, expected) in [
        ("120", Some(120)),
        ("999999", Some(3600)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("soon", None),
    ] {
        let server = canned(format!("HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n")).await;
        let mut request = get(&server, "/");
        request.method = Method::HEAD;
        let answer = net().client.fetch(request).await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.retry_after(now, most), expected.map(Duration::from_secs), "{value}");
    }
}
