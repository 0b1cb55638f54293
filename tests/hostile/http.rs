//! The HTTP side under attack: every route of both listeners with generated methods, parameters, headers and bodies;
//! and sockets that are slow, that send what is no HTTP, that pipeline, that never read. An honest reader beside them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::watch::Watch;
use crate::support::client::{MICROBLOG, entry, publish};
use crate::support::rookery::{ACCT, PUBLIC, Rookery};
use crate::support::servers::{Server, at_social};
use crate::support::web::Subscriber;

/// Requests at a time.
const WORKERS: usize = 6;
/// The bounds that `src/http/listener.rs` gives: a head, a request, and a head at the administrator's listener.
const HEAD: Duration = Duration::from_secs(75);
const REQUEST: Duration = Duration::from_secs(30);
const ADMIN_HEAD: Duration = Duration::from_secs(10);
/// What a busy machine may add.
const GRACE: Duration = Duration::from_secs(30);
const ENOUGH: usize = 20;
/// More than the public listener takes at one time.
const CROWD: usize = 1_100;

/// Every status that has a meaning here. 505 only for the preface of HTTP/2.
const KNOWN: &[u16] = &[200, 202, 204, 301, 304, 400, 404, 405, 408, 410, 412, 413, 414, 415, 429, 431, 503];

#[derive(Default)]
pub struct Report {
    pub requests: u64,
    pub sockets: u64,
    pub malformed: u64,
    pub pipelined: u64,
    pub dropped: u64,
    /// Answers that were lost behind a body which nobody took.
    pub cut: u64,
    pub slow: u64,
    pub slow_ended: u64,
    pub honest: u64,
    pub slowest_honest: Duration,
    /// How long an honest reader waited behind more connections than there may be, if that was tried.
    pub behind_a_crowd: Option<Duration>,
    pub memory: String,
    /// By status and route.
    pub answers: BTreeMap<(u16, String), u64>,
    pub findings: Vec<String>,
}

impl Report {
    pub fn line(&self) -> String {
        format!(
            "{} requests over {} connections, {} of them malformed, {} pipelined, {} dropped half way, {} cut with their body; {} slow connections, \
             {} ended within their bounds; {} honest readers, the slowest in {:?}, behind {CROWD} silent connections {:?}; {}; {} findings",
            self.requests,
            self.sockets,
            self.malformed,
            self.pipelined,
            self.dropped,
            self.cut,
            self.slow,
            self.slow_ended,
            self.honest,
            self.slowest_honest,
            self.behind_a_crowd,
            self.memory,
            self.findings.len()
        )
    }
}

/// What the workers share.
struct Ground {
    public: String,
    admin: String,
    /// The port of a site that answers the hub.
    callback: String,
    etag: String,
    until: Instant,
    pause: Duration,
    /// Whether there is time to see a connection ended that says nothing more.
    patient: bool,
    report: Mutex<Report>,
}

impl Ground {
    fn note(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn found(&self, what: String) {
        println!("FOUND (HTTP): {what}");
        self.note(|report| report.findings.push(what));
    }

    fn goes_on(&self) -> bool {
        let enough = self.report.lock().unwrap_or_else(PoisonError::into_inner).findings.len() >= ENOUGH;
        !enough && Instant::now() < self.until
    }
}

pub async fn probe(server: &Server, rookery: &Rookery, seed: u64, span: Duration, pause: Duration) -> Report {
    let mut alice = server.login("alice").await;
    for n in 0..30 {
        let (item, title) = (format!("post-{n}"), format!("Good morrow <{n}> & adieu"));
        let posted = alice.set(&at_social("alice"), &publish(MICROBLOG, &item, &entry(&title, &item))).await;
        posted.expect("alice may post");
    }
    let site = Subscriber::start().await;
    let address = |url: &str| url.strip_prefix("http://").unwrap_or_default().to_owned();
    let public = address(&rookery.http);
    let feed = ask(&public, b"GET /@alice.atom HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false).await;
    let feed = feed.expect("the feed is there");
    let ground = Arc::new(Ground {
        public,
        admin: address(&rookery.admin),
        callback: site.callback("x"),
        etag: feed.header("etag").unwrap_or_default().to_owned(),
        until: Instant::now() + span,
        pause,
        patient: span > 2 * (HEAD + REQUEST),
        report: Mutex::default(),
    });
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tasks = Vec::new();
    for _ in 0..WORKERS {
        let (ground, rng) = (ground.clone(), StdRng::seed_from_u64(rng.random()));
        tasks.push(tokio::spawn(worker(ground, rng)));
    }
    for n in 0..120 {
        tasks.push(tokio::spawn(slow(ground.clone(), n)));
    }
    let mut watch = Watch::begin(rookery, Vec::new()).await;
    while ground.goes_on() {
        let asked = Instant::now();
        let head = b"GET /@alice.atom HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        match timeout(GRACE, ask(&ground.public, head, false)).await {
            Ok(Ok(answer)) if answer.status == 200 && answer.body == feed.body => {}
            Ok(Ok(answer)) => {
                ground.found(format!("an honest reader got {} and {} bytes", answer.status, answer.body.len()))
            }
            Ok(Err(error)) => ground.found(format!("an honest reader got no answer: {error}")),
            Err(_) => ground.found(format!("an honest reader waited for {GRACE:?}")),
        }
        ground.note(|report| {
            report.honest += 1;
            report.slowest_honest = report.slowest_honest.max(asked.elapsed());
        });
        for what in watch.process(rookery).await {
            ground.found(what);
        }
        sleep(Duration::from_millis(300)).await;
    }
    for task in tasks {
        if let Err(error) = task.await {
            ground.found(format!("a worker of the test ended: {error}"));
        }
    }
    if ground.patient {
        crowd(&ground, &feed).await;
    }
    for what in watch.process(rookery).await {
        ground.found(what);
    }
    ground.note(|report| report.memory = watch.line());
    let mut report = ground.report.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *report)
}

async fn worker(ground: Arc<Ground>, mut rng: StdRng) {
    while ground.goes_on() {
        ground.note(|report| report.sockets += 1);
        match rng.random_range(0..100) {
            0..70 => single(&ground, &mut rng).await,
            70..85 => malformed(&ground, &mut rng).await,
            85..94 => pipelined(&ground, &mut rng).await,
            _ => dropped(&ground, &mut rng).await,
        }
        sleep(ground.pause).await;
    }
}

// --- One request, one answer

/// A request that is HTTP, whatever it says.
#[derive(Debug, Clone)]
struct Asked {
    admin: bool,
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Asked {
    fn bytes(&self, more: &str) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        if self.chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if !self.body.is_empty() {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(more.as_bytes());
        out.extend_from_slice(b"\r\n");
        if self.chunked {
            for piece in self.body.chunks(1_000) {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else {
            out.extend_from_slice(&self.body);
        }
        out
    }

    /// For the table: the first segment, its name left out.
    fn route(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        let whose = if self.admin { "admin " } else { "" };
        let known = [
            "/.well-known/webfinger",
            "/.well-known/host-meta",
            "/.well-known/host-meta.json",
            "/hub",
            "/",
            "/metrics",
            "/healthz",
            "/readyz",
        ];
        let route = match path {
            path if known.contains(&path) => path,
            "/@alice" => "/@name",
            "/@alice.atom" => "/@name.atom",
            path if path.starts_with("/@alice/") => "/@name/item",
            _ => "other",
        };
        format!("{whose}{} {route}", if METHODS.contains(&self.method.as_str()) { &self.method } else { "other" })
    }
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];

async fn single(ground: &Ground, rng: &mut StdRng) {
    let asked = request(ground, rng);
    let address = if asked.admin { &ground.admin } else { &ground.public };
    let answer =
        timeout(REQUEST + GRACE, ask(address, &asked.bytes("Connection: close\r\n"), asked.method == "HEAD")).await;
    ground.note(|report| report.requests += 1);
    match answer {
        Ok(Ok(answer)) => judge(ground, &asked, &answer),
        // Who still writes a body that is refused may lose the answer with the connection (RFC 9112 §9.6).
        Ok(Err(_)) if asked.body.len() > 10_000 => ground.note(|report| report.cut += 1),
        Ok(Err(error)) => ground.found(format!("{error} to {}", shown(&asked.bytes("")))),
        Err(_) => ground.found(format!("no answer to {}", shown(&asked.bytes("")))),
    }
}

fn judge(ground: &Ground, asked: &Asked, answer: &Answer) {
    *ground
        .report
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .answers
        .entry((answer.status, asked.route()))
        .or_default() += 1;
    for wrong in wrongs(asked, answer) {
        ground.found(format!("{wrong}\n{}\n=> {answer:?}", shown(&asked.bytes(""))));
    }
}

/// What is not as it must be with an answer.
fn wrongs(asked: &Asked, answer: &Answer) -> Vec<String> {
    let mut wrong = Vec::new();
    let type_ = answer.header("content-type").unwrap_or_default();
    if !KNOWN.contains(&answer.status) {
        wrong.push(format!("status {}", answer.status));
    }
    if matches!(answer.status, 429 | 503)
        && answer.header("retry-after").is_none_or(|text| text.parse::<u32>().is_err())
    {
        wrong.push(format!("{} without Retry-After", answer.status));
    }
    if answer.status == 405 && !answer.header("allow").unwrap_or_default().contains("OPTIONS") {
        wrong.push("405 without what is allowed".to_owned());
    }
    if (400..600).contains(&answer.status) && asked.method != "HEAD" {
        wrong.extend(not_plain(answer, type_));
    }
    if answer.status == 200 && type_.is_empty() {
        wrong.push("200 without a type".to_owned());
    }
    if type_.starts_with("text/html")
        && !answer.header("content-security-policy").unwrap_or_default().contains("default-src 'none'")
    {
        wrong.push("a page without a policy".to_owned());
    }
    if answer.header("location").is_some_and(|to| !to.starts_with(&format!("{PUBLIC}/"))) {
        wrong.push("a redirect to elsewhere".to_owned());
    }
    if answer.headers.iter().any(|(name, _)| name.contains("injected")) {
        wrong.push("a header of the asker's making".to_owned());
    }
    if answer.body.windows(PROBE.len()).any(|window| window == PROBE.as_bytes()) && !type_.contains("json") {
        wrong.push("the asker's own text comes back".to_owned());
    }
    wrong
}

/// Stands in parameters; no answer but a WebFinger document may repeat it.
const PROBE: &str = "<pr'o\"be>";

/// A refusal is one or more lines of words, or a page; what hyper refuses by itself has no body at all.
fn not_plain(answer: &Answer, type_: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.body);
    match type_ {
        // What cannot be read as a request at all is hyper's to refuse; the connection ends with it.
        "" if answer.body.is_empty() && answer.header("connection") == Some("close") && answer.status != 404 => None,
        type_ if type_.starts_with("text/html") => None,
        type_ if type_.starts_with("text/plain") => {
            let words =
                text.ends_with('\n') && text.len() < 400 && !text.contains(['<', '{', '\\']) && !text.contains("Error");
            (!words).then(|| "a refusal that is no plain words".to_owned())
        }
        other => Some(format!("a refusal of type {other:?}")),
    }
}

// --- What is asked

fn pick<'a>(rng: &mut StdRng, all: &[&'a str]) -> &'a str {
    all[rng.random_range(0..all.len())]
}

fn one_in(rng: &mut StdRng, n: u32) -> bool {
    rng.random_ratio(1, n)
}

fn request(ground: &Ground, rng: &mut StdRng) -> Asked {
    let admin = one_in(rng, 8);
    let mut asked = Asked {
        admin,
        method: "GET".into(),
        target: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        chunked: false,
    };
    asked.target = if admin {
        pick(rng, &["/healthz", "/readyz", "/metrics", "/", "/metrics/", "/debug"]).to_owned()
    } else {
        target(rng)
    };
    if !admin && one_in(rng, 6) {
        asked.method = "POST".into();
        asked.target = "/hub".into();
        asked.body = hub_form(ground, rng).into_bytes();
        let type_ = match one_in(rng, 8) {
            true => pick(
                rng,
                &[
                    "",
                    "text/plain",
                    "application/json",
                    "application/x-www-form-urlencoded;;",
                    "multipart/form-data; boundary=x",
                    "x",
                ],
            ),
            false => "application/x-www-form-urlencoded",
        };
        asked.headers.push(("Content-Type".into(), type_.into()));
    }
    match rng.random_range(0..12) {
        0 => asked.method = pick(rng, &METHODS).to_owned(),
        1 => {
            asked.method =
                pick(rng, &["PROPFIND", "get", "X", "M-SEARCH", "QUERY", "A".repeat(200).as_str()]).to_owned()
        }
        2 => asked.method = "HEAD".into(),
        3 => asked.method = "OPTIONS".into(),
        _ => {}
    }
    if asked.method == "CONNECT" {
        asked.target = "elsewhere.invalid:443".into();
    }
    if asked.body.is_empty() && one_in(rng, 10) {
        asked.body = match rng.random_range(0..4) {
            0 => vec![0; rng.random_range(1..30_000)],
            1 => b"{\"a\":1}".to_vec(),
            2 => b"x".repeat(1_100_000),
            _ => (0..rng.random_range(1..2_000)).map(|_| rng.random()).collect(),
        };
    }
    asked.chunked = !asked.body.is_empty() && one_in(rng, 4);
    // One host, mostly a good one.
    let host = match one_in(rng, 15) {
        true => {
            pick(rng, &["", "[::1]:80", "a b", "elsewhere.invalid", "x:99999", "x\u{e9}", "a,b", "<x>", "x/y", "@"])
                .to_owned()
        }
        false => "social.montague.test".to_owned(),
    };
    if !one_in(rng, 60) {
        asked.headers.push(("Host".into(), host.into_bytes()));
    }
    for _ in 0..rng.random_range(0..5) {
        let header = header(ground, rng);
        asked.headers.push(header);
    }
    if one_in(rng, 40) {
        let n = rng.random_range(1..150);
        asked.headers.extend((0..n).map(|n| (format!("X-{n}"), b"x".to_vec())));
    }
    asked
}

/// Path and query, as they may stand in a request line: visible ASCII.
fn target(rng: &mut StdRng) -> String {
    let path = match rng.random_range(0..20) {
        0..4 => "/.well-known/webfinger".to_owned(),
        4 => "/.well-known/host-meta".to_owned(),
        5 => "/.well-known/host-meta.json".to_owned(),
        6 => "/".to_owned(),
        7 => "/hub".to_owned(),
        8..10 => "/@alice".to_owned(),
        10..13 => "/@alice.atom".to_owned(),
        13..15 => format!("/@alice/{}", segment(rng)),
        15..17 => format!("/@{}", segment(rng)),
        17 => format!("/{}", segment(rng)),
        18 => format!("/{}/{}", segment(rng), segment(rng)),
        _ => pick(
            rng,
            &[
                "//",
                "/../",
                "/@alice/../..",
                "/.well-known/",
                "/.well-known/nodeinfo",
                "/@alice.atom/",
                "/@ALICE.atom",
                "/@alice//",
                "*",
                "http://elsewhere.invalid/@alice",
                "http://social.montague.test/@alice.atom",
                "/favicon.ico",
                "/robots.txt",
                "/.env",
                "/@alice;x=1",
            ],
        )
        .to_owned(),
    };
    let mut pairs = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        let name = pick(
            rng,
            &[
                "resource",
                "resource",
                "rel",
                "before",
                "hub.mode",
                "format",
                "page",
                "",
                "x",
                "resource%00",
                "%72esource",
            ],
        );
        let value = match name {
            "before" => pick(
                rng,
                &[
                    "0",
                    "1",
                    "5",
                    "20",
                    "30",
                    "18446744073709551615",
                    "18446744073709551616",
                    "-1",
                    "",
                    "%31",
                    "1e3",
                    "x",
                    "%00",
                ],
            )
            .to_owned(),
            _ => resource(rng),
        };
        pairs.push(if one_in(rng, 20) { name.to_owned() } else { format!("{name}={value}") });
    }
    if one_in(rng, 40) {
        pairs.extend((0..rng.random_range(1..300)).map(|n| format!("rel=r{n}")));
    }
    match pairs.is_empty() {
        true => path,
        false => format!("{path}?{}", pairs.join(pick(rng, &["&", "&", "&", "&&", ";", "?"]))),
    }
}

fn segment(rng: &mut StdRng) -> String {
    match rng.random_range(0..14) {
        0..4 => format!("post-{}", rng.random_range(0..40)),
        4 => "x".repeat(rng.random_range(1..6_000)),
        5 => percent(PROBE),
        6 => (0..rng.random_range(1..30)).map(|_| format!("%{:02x}", rng.random::<u8>())).collect(),
        _ => pick(
            rng,
            &[
                "",
                ".",
                "..",
                "%2e%2e",
                "%2F",
                "%00",
                "%0d%0ax-injected:%201",
                "%zz",
                "%",
                "%4",
                "%25",
                "caf%C3%A9",
                "%F0%9F%91%A9",
                "%ED%A0%80",
                "%C0%AF",
                "%E2%80%AE",
                "alice",
                "Alice",
                "ALICE.atom",
                ".atom",
                "admin",
                "alice@montague.test",
                "a+b",
                "a%20b",
                "%5C",
                "~",
                "a%7Eb",
                "%40alice",
                "'--",
                "$x",
            ],
        )
        .to_owned(),
    }
}

fn resource(rng: &mut StdRng) -> String {
    let text = match rng.random_range(0..16) {
        0..3 => format!("acct:alice@{ACCT}"),
        3 => format!("{PUBLIC}/@alice"),
        4 => format!("xmpp:{}", at_social("alice")),
        5 => format!(
            "acct:{}@{ACCT}",
            pick(rng, &["nobody", "", "ALICE", "a b", "al%69ce", "alice@x", "\u{430}lice", PROBE])
        ),
        6 => format!("{PUBLIC}:443/@alice"),
        7 => "x".repeat(rng.random_range(1..4_000)),
        8 => PROBE.to_owned(),
        9 => format!("acct:{}@{}", "a".repeat(rng.random_range(1..900)), "b".repeat(rng.random_range(1..900))),
        _ => pick(
            rng,
            &[
                "",
                " ",
                "acct:",
                "acct:@",
                "alice@montague.test",
                "@alice@montague.test",
                "http://",
                "http://[",
                "https://social.montague.test/@alice.atom?x",
                "urn:x",
                "mailto:alice@montague.test",
                "acct:alice",
                "xmpp:",
                "xmpp:@",
                "xmpp:a@b/c?d;e",
                "acct:alice@montague.test\0",
                "acct:alice@montague.test\r\nx-injected: 1",
                "\u{202e}",
                "javascript:alert(1)",
                "acct:alice@MONTAGUE.test",
                "acct:alice@montague.test.",
                "tag:x,2026:y",
                ":",
                "::",
                "a:b:c@d",
            ],
        )
        .to_owned(),
    };
    match rng.random_range(0..20) {
        0 => percent(&text).replace('%', "%25"),
        1 => percent(&text).to_lowercase(),
        2 => format!("%{:02x}%ff", rng.random::<u8>()),
        _ => percent(&text),
    }
}

/// Everything but letters and digits encoded.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn header(ground: &Ground, rng: &mut StdRng) -> (String, Vec<u8>) {
    const DATES: &[&str] = &[
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Wed, 31 Dec 1969 23:59:59 GMT",
        "Mon, 00 Foo 0000 99:99:99 GMT",
        "0",
        "-1",
        "now",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "99999999999999999999",
    ];
    let garbage = |rng: &mut StdRng| -> Vec<u8> {
        match rng.random_range(0..6) {
            0 => vec![b'x'; rng.random_range(1..9_000)],
            1 => (0..rng.random_range(1..60)).map(|_| rng.random_range(0x80..=0xff)).collect(),
            2 => PROBE.into(),
            3 => b"\",\",\\\"".repeat(rng.random_range(1..30)),
            _ => pick(rng, &["", "*", ",", ";", "=", "\"", "a, b", "0", "-1", "\t", "%00", "W/", "()<>@"]).into(),
        }
    };
    let name = pick(
        rng,
        &[
            "Accept",
            "Accept",
            "If-None-Match",
            "If-Modified-Since",
            "If-Match",
            "If-Unmodified-Since",
            "Range",
            "If-Range",
            "Accept-Encoding",
            "Accept-Language",
            "Content-Type",
            "Cookie",
            "Authorization",
            "User-Agent",
            "Referer",
            "Origin",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "Forwarded",
            "Upgrade",
            "Expect",
            "TE",
            "Access-Control-Request-Method",
            "X-HTTP-Method-Override",
            "Max-Forwards",
            "Link",
            "Date",
            "Cache-Control",
            "Keep-Alive",
        ],
    );
    let value: Vec<u8> = match (name, rng.random_range(0..5)) {
        (_, 0) => garbage(rng),
        ("Accept", _) => pick(
            rng,
            &[
                "*/*",
                "text/html",
                "application/xrd+xml",
                "application/jrd+json;q=0.1, */*;q=0",
                "application/json",
                "text/html;q=2",
                "application/*;q=abc",
                "a/b;c=\"d,e\\\"f\"",
                "*/html",
                "/",
                "text/plain;q=0.000",
                "application/atom+xml",
                ";q=1",
                "text/html;level=1;q=1.0000",
            ],
        )
        .into(),
        ("If-None-Match" | "If-Match" | "If-Range", _) => match rng.random_range(0..5) {
            0 => ground.etag.clone().into(),
            1 => format!("W/{}", ground.etag).into(),
            2 => format!("\"x\", {}, \"y\"", ground.etag).into(),
            3 => "*".into(),
            _ => format!("\"{}\"", "x".repeat(rng.random_range(0..500))).repeat(rng.random_range(1..9)).into(),
        },
        ("If-Modified-Since" | "If-Unmodified-Since" | "Date", _) => pick(rng, DATES).into(),
        ("Range", _) => pick(
            rng,
            &[
                "bytes=0-0",
                "bytes=-1",
                "bytes=99999999-",
                "bytes=0-,0-,0-",
                "bytes=5-1",
                "lines=1-2",
                "bytes=18446744073709551616-",
            ],
        )
        .into(),
        ("Expect", _) => pick(rng, &["100-continue", "200-ok", "100-continue, x"]).into(),
        ("Upgrade", _) => pick(rng, &["h2c", "websocket", "TLS/1.0", "HTTP/3"]).into(),
        ("User-Agent", _) => pick(rng, &["Mastodon/2.4", "GNU social 1.2", "\u{e9}", "<script>"]).into(),
        (_, 1 | 2) => pick(
            rng,
            &["gzip", "GET", "https", "evil.invalid", "1", "trailers", "max-age=0", "for=\"[::1]\";host=evil.invalid"],
        )
        .into(),
        _ => garbage(rng),
    };
    (name.to_owned(), value)
}

fn hub_form(ground: &Ground, rng: &mut StdRng) -> String {
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: String| pairs.push(format!("{name}={value}"));
    if !one_in(rng, 12) {
        add(
            "hub.mode",
            pick(rng, &["subscribe", "subscribe", "unsubscribe", "publish", "denied", "", "SUBSCRIBE", "%00"])
                .to_owned(),
        );
    }
    if !one_in(rng, 12) {
        let topic = match rng.random_range(0..6) {
            0..3 => format!("{PUBLIC}/@alice.atom"),
            3 => format!("{PUBLIC}/@{}.atom", pick(rng, &["nobody", "admin", "..", "ALICE", PROBE])),
            _ => "http://elsewhere.invalid/".to_owned(),
        };
        add("hub.topic", percent(&topic));
    }
    if !one_in(rng, 12) {
        // Callbacks lead to the test's own site, or to addresses of this machine where nobody listens.
        let callback = match rng.random_range(0..10) {
            0..3 => ground.callback.clone(),
            3..6 => format!(
                "http://127.{}.{}.{}:1/x",
                rng.random_range(1..250),
                rng.random::<u8>(),
                rng.random_range(1..250)
            ),
            6 => format!("{}?{}", ground.callback, "x".repeat(rng.random_range(0..3_000))),
            7 => format!("{}#x", ground.callback),
            8 => format!("{}/{PROBE}", ground.callback),
            _ => pick(
                rng,
                &[
                    "",
                    "ftp://127.0.0.1/",
                    "http://",
                    "http://[::1]:1/",
                    "//x",
                    "javascript:x",
                    "http://user:pw@127.0.0.1:1/",
                    "http://127.1:1/",
                    "http://0x7f000001:1/",
                    "http://2130706433:1/",
                    "http://\u{24f0}.invalid/",
                ],
            )
            .to_owned(),
        };
        add("hub.callback", percent(&callback));
    }
    for name in ["hub.secret", "hub.lease_seconds", "hub.verify_token", "hub.verify", "hub.mode", "hub.callback"] {
        if one_in(rng, 4) {
            let value = match rng.random_range(0..6) {
                0 => "x".repeat(rng.random_range(1..2_000)),
                1 => percent("\u{1f469}\r\nx-injected: 1"),
                2 => "%ff%fe".to_owned(),
                _ => pick(rng, &["0", "-1", "86400", "99999999999999999999", "", "x", "async", "sync", "1.5", "%"])
                    .to_owned(),
            };
            add(name, value);
        }
    }
    match one_in(rng, 30) {
        true => format!("{}&{}", pairs.join("&"), "x=y&".repeat(rng.random_range(1..6_000))),
        false => pairs.join("&"),
    }
}

// --- What is no request

/// Sent and then nothing more: an answer that refuses, or an end, must come within the bounds.
async fn malformed(ground: &Ground, rng: &mut StdRng) {
    let good = "GET /@alice.atom HTTP/1.1\r\nHost: x\r\n\r\n";
    let post = |framing: &str, body: &str| {
        format!("POST /hub HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n{framing}\r\n\r\n{body}").into_bytes()
    };
    let many = rng.random_range(1..3_000);
    let bytes: Vec<u8> = match rng.random_range(0..30) {
        0 => (0..many).map(|_| rng.random()).collect(),
        1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        3 => format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(many * 30)).into_bytes(),
        4 => format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(many * 30)).into_bytes(),
        5 => format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(many)).into_bytes(),
        6 => b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n".to_vec(),
        7 => b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n".to_vec(),
        8 => b"GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_vec(),
        9 => b"GET / HTTP/1.1\nHost: x\n\n".to_vec(),
        10 => b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(),
        11 => b"GET /\r\n\r\n".to_vec(),
        12 => b"GET  /  HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        13 => b"GET /@al\x80ice HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        14 => b"GET /@alice<> HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        15 => post("Content-Length: 99999999999999999999", "x"),
        16 => post("Content-Length: -1", "x"),
        17 => post("Content-Length: 5\r\nContent-Length: 6", "hub.x"),
        18 => post("Content-Length: 5\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{good}")),
        19 => post("Transfer-Encoding: chunked", "zz\r\nx\r\n0\r\n\r\n"),
        20 => post("Transfer-Encoding: chunked", "ffffffffffffffff\r\nx\r\n"),
        21 => post("Transfer-Encoding: chunked", "5;a=b\r\nhub.x\r\n0\r\nTrailer: x\r\n\r\n"),
        22 => post("Transfer-Encoding: chunked", &format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(many * 10))),
        23 => post("Transfer-Encoding: chunked", &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(many * 8))),
        24 => post("Transfer-Encoding: chunked", &format!("0\r\n{}\r\n", "T: x\r\n".repeat(many))),
        25 => post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        26 => post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        27 => post("Content-Length: 100", "hub.mode=subscribe"),
        28 => "\r\n".repeat(many).into_bytes(),
        _ => {
            // A good request with one byte changed, taken away or put in.
            let mut bytes = request(ground, rng).bytes("");
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] = rng.random(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, rng.random()),
            }
            bytes
        }
    };
    ground.note(|report| report.malformed += 1);
    let address = if one_in(rng, 8) { &ground.admin } else { &ground.public };
    let begun = Instant::now();
    let shut = !(ground.patient && one_in(rng, 30));
    let whole = timeout(HEAD + REQUEST + GRACE, all_of(address, &bytes, shut)).await;
    let Ok(answer) = whole else {
        return ground.found(format!("neither answer nor end for {:?} after {}", begun.elapsed(), shown(&bytes)));
    };
    // Behind several answers there may be one to what was smuggled; each must be one of those that are known.
    let text = String::from_utf8_lossy(&answer);
    for status in text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse::<u16>().ok()) {
        let preface = status == 505 && bytes.starts_with(b"PRI");
        if !KNOWN.contains(&status) && !preface && status != 100 {
            ground.found(format!("status {status} to {}", shown(&bytes)));
        }
    }
}

/// Many requests at once; as many answers, in their order.
async fn pipelined(ground: &Ground, rng: &mut StdRng) {
    let n = rng.random_range(2..60);
    let asked: Vec<Asked> = (0..n)
        .map(|_| {
            loop {
                let asked = request(ground, rng);
                // What ends the connection by right ends the row too: a body that nobody takes, a host that is none, a wish
                // for another protocol, or no wish to go on.
                let host = asked.headers.iter().filter(|(name, _)| name == "Host");
                let good = host.clone().count() == 1 && host.clone().all(|(_, value)| value == b"social.montague.test");
                let plain = asked.body.is_empty()
                    && asked.headers.len() < 8
                    && asked.headers.iter().all(|(_, value)| value.len() < 200);
                if !asked.admin
                    && !asked.target.starts_with('*')
                    && good
                    && plain
                    && asked.method != "CONNECT"
                    && asked.target.len() < 2_000
                {
                    break asked;
                }
            }
        })
        .collect();
    let bytes: Vec<u8> = asked.iter().flat_map(|asked| asked.bytes("")).collect();
    ground.note(|report| {
        report.pipelined += n as u64;
        report.requests += n as u64;
    });
    let row = async {
        let socket = TcpStream::connect(&ground.public).await.map_err(|error| error.to_string())?;
        let (mut reads, mut writes) = socket.into_split();
        let written = tokio::spawn(async move {
            let _ = writes.write_all(&bytes).await;
            let _ = writes.shutdown().await;
        });
        let mut buffer = Vec::new();
        for (n, asked_) in asked.iter().enumerate() {
            let answer = Answer::read(&mut reads, &mut buffer, asked_.method == "HEAD").await;
            let before = n.checked_sub(1).and_then(|n| asked.get(n)).map(|asked| shown(&asked.bytes("")));
            let answer =
                answer.map_err(|error| format!("{error} at {}\nbehind {before:?}", shown(&asked_.bytes(""))))?;
            judge(ground, asked_, &answer);
            // What cannot be read as a request ends the row by right (RFC 9112 §9.6).
            if answer.header("connection") == Some("close") {
                break;
            }
        }
        let _ = written.await;
        Ok::<(), String>(())
    };
    let answered = timeout(REQUEST + GRACE, row).await;
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => ground.found(format!("a row of {n} requests broke: {error}")),
        Err(_) => ground.found(format!("a row of {n} requests had no answers in time")),
    }
}

/// Begun, and never ended; or asked, and never read.
async fn dropped(ground: &Ground, rng: &mut StdRng) {
    let bytes = request(ground, rng).bytes("");
    let cut = rng.random_range(0..=bytes.len());
    ground.note(|report| report.dropped += 1);
    if let Ok(mut socket) = TcpStream::connect(&ground.public).await {
        let _ = timeout(Duration::from_secs(5), socket.write_all(&bytes[..cut])).await;
        if one_in(rng, 2) {
            let _ = socket.shutdown().await;
        }
        sleep(Duration::from_millis(rng.random_range(0..50))).await;
    }
}

/// One connection that takes its time, again and again: a head or a body byte by byte, or nothing at all, or answers
/// that are not read. It must be ended within the bounds; a test that is shorter than they are only lets it stand there.
async fn slow(ground: Arc<Ground>, n: usize) {
    let admin = n.is_multiple_of(11);
    let address = if admin { &ground.admin } else { &ground.public };
    let head_bound = if admin { ADMIN_HEAD } else { HEAD };
    while ground.goes_on() {
        ground.note(|report| report.slow += 1);
        let Ok(socket) = TcpStream::connect(address).await else {
            ground.found("a connection was not accepted".to_owned());
            return;
        };
        let (mut reads, mut writes) = socket.into_split();
        let (start, rest, bound): (Vec<u8>, &[u8], Duration) = match n % 4 {
            0 => (b"GET / HTTP/1.1\r\nHost: x\r\nX: ".to_vec(), b"y", head_bound),
            1 => (Vec::new(), b"", head_bound),
            2 => (
                b"POST /hub HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9000\r\n\r\n".to_vec(),
                b"y",
                REQUEST + head_bound,
            ),
            _ => (b"GET /@alice.atom HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), b"", head_bound),
        };
        let _ = writes.write_all(&start).await;
        let begun = Instant::now();
        let mut buffer = [0; 16 * 1024];
        let ended = loop {
            match timeout(Duration::from_secs(1), reads.read(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => break true,
                // Nothing to read: one byte more.
                Err(_) => {
                    if writes.write_all(rest).await.is_err() {
                        break true;
                    }
                }
            }
            if begun.elapsed() > bound + GRACE {
                ground.found(format!(
                    "a slow connection of kind {} (admin: {admin}) stands after {:?}",
                    n % 4,
                    begun.elapsed()
                ));
                break false;
            }
            if !ground.goes_on() {
                break false;
            }
        };
        if ended {
            ground.note(|report| report.slow_ended += 1);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// More connections than there may be, all silent: they end within their bound, and who came behind them is served.
async fn crowd(ground: &Ground, feed: &Answer) {
    let mut silent = Vec::new();
    for _ in 0..CROWD {
        match timeout(GRACE, TcpStream::connect(&ground.public)).await {
            Ok(Ok(socket)) => silent.push(socket),
            Ok(Err(error)) => return ground.found(format!("connection {} of a crowd: {error}", silent.len())),
            // The kernel's queue is full as well.
            Err(_) => break,
        }
    }
    let asked = Instant::now();
    let head = b"GET /@alice.atom HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    match timeout(HEAD + GRACE, ask(&ground.public, head, false)).await {
        Ok(Ok(answer)) if answer.body == feed.body => {
            ground.note(|report| report.behind_a_crowd = Some(asked.elapsed()));
        }
        Ok(answer) => {
            ground.found(format!("behind a crowd of {} one got {:?}", silent.len(), answer.map(|a| a.status)))
        }
        Err(_) => ground.found(format!("behind a crowd of {} nobody is served", silent.len())),
    }
}

// --- Bytes

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The next answer from `buffer` and then `reads`; interim ones are passed over.
    async fn read(
        reads: &mut (impl AsyncReadExt + Unpin),
        buffer: &mut Vec<u8>,
        of_head: bool,
    ) -> Result<Answer, String> {
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                if fill(reads, buffer).await? == 0 {
                    return Err(format!("the connection ended in a head of {} bytes", buffer.len()));
                }
            };
            let head: Vec<u8> = buffer.drain(..end).collect();
            let head = String::from_utf8(head).map_err(|_| "a head that is no text".to_owned())?;
            let mut lines = head.trim_end().split("\r\n");
            let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
            let status: u16 = status.ok_or_else(|| format!("no status line: {head}"))?;
            let fields = lines.map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            });
            let headers: Vec<(String, String)> =
                fields.collect::<Option<_>>().ok_or_else(|| format!("a field without a name: {head}"))?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            if !of_head && !matches!(status, 204 | 304) {
                answer.body = answer.read_body(reads, buffer).await?;
            }
            return Ok(answer);
        }
    }

    async fn read_body(
        &self,
        reads: &mut (impl AsyncReadExt + Unpin),
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<u8>, String> {
        if self.header("transfer-encoding").is_some() {
            return Err("an answer in chunks: all of ours are known whole".to_owned());
        }
        let length = self.header("content-length").and_then(|text| text.parse::<usize>().ok()).ok_or("no length")?;
        while buffer.len() < length {
            if fill(reads, buffer).await? == 0 {
                return Err(format!("a body of {} bytes, not {length}", buffer.len()));
            }
        }
        Ok(buffer.drain(..length).collect())
    }
}

async fn fill(reads: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) -> Result<usize, String> {
    let mut piece = vec![0; 64 * 1024];
    let n = reads.read(&mut piece).await.map_err(|error| format!("the connection broke: {error}"))?;
    buffer.extend_from_slice(&piece[..n]);
    Ok(n)
}

/// One request and its answer. What is left of a request that was refused early cannot be written, and need not be.
async fn ask(address: &str, bytes: &[u8], of_head: bool) -> Result<Answer, String> {
    let socket = TcpStream::connect(address).await.map_err(|error| format!("no connection: {error}"))?;
    let (mut reads, mut writes) = socket.into_split();
    let bytes = bytes.to_vec();
    let written = tokio::spawn(async move {
        let _ = writes.write_all(&bytes).await;
        // Kept open: who goes away is another case.
        writes
    });
    let answer = Answer::read(&mut reads, &mut Vec::new(), of_head).await;
    drop(written.await);
    answer
}

/// Everything that comes until the connection ends. `shut`: whether ours is shut after the last byte.
async fn all_of(address: &str, bytes: &[u8], shut: bool) -> Vec<u8> {
    let Ok(socket) = TcpStream::connect(address).await else { return Vec::new() };
    let (mut reads, mut writes) = socket.into_split();
    let bytes = bytes.to_vec();
    let written = tokio::spawn(async move {
        let _ = writes.write_all(&bytes).await;
        if shut {
            let _ = writes.shutdown().await;
        }
        writes
    });
    let mut answer = Vec::new();
    let _ = reads.read_to_end(&mut answer).await;
    drop(written.await);
    answer
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(1_500).collect::<String>().escape_debug().to_string()
}
