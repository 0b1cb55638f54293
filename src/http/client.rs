//! The one client for outgoing HTTP (RFC 9110). Whatever is fetched, somebody else may have chosen the URL and somebody
//! else writes the answer, so every request passes the guards and every answer is bounded.
//!
//! Three guards keep a URL from leading into our own network: the URL is checked before each request, redirects
//! included; names go through a resolver that drops addresses which are not public; only what it returns is connected
//! to. Proxies of the environment are not used (they would resolve names for us), cookies are not kept.

pub mod guard;
pub mod resolve;

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use url::{Host, Url};

use self::guard::{Guard, Refusal};
use self::resolve::{Guarded, Held, LookupError, Resolver, SystemResolver};
use crate::base::clock::Timestamp;

/// The longest response head, in bytes of names and values.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEAD_FIELDS: usize = 100;

/// How a [`Client`] is built.
pub struct Options {
    /// Where peers can read who asks: part of the User-Agent.
    pub public_url: Url,
    pub guard: Guard,
    pub resolver: Arc<dyn Resolver>,
    /// Requests under way at the same time; more wait.
    pub concurrent: usize,
    /// DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// The longest silence while an answer is read.
    pub read_timeout: Duration,
}

impl Options {
    pub fn new(public_url: Url, allow_private_addresses: bool) -> Self {
        Options {
            public_url,
            guard: Guard { allow_private_addresses, as_public: Vec::new() },
            resolver: Arc::new(SystemResolver),
            concurrent: 128,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(15),
        }
    }
}

/// A handle on the client; cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// The same without a memory for connections: HTTP/2 has no other way to end one with its answer.
    once: reqwest::Client,
    guard: Arc<Guard>,
    resolver: Guarded,
    connect_timeout: Duration,
    permits: Semaphore,
}

/// One thing to ask. Build it with [`Request::get`] or [`Request::post`] and change what differs.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub redirects: Redirects,
    pub limits: Limits,
    pub connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// One that an earlier request left open serves, wherever the name led then; and this one is left open.
    Shared,
    /// A connection of its own, to where the name leads now.
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// A redirect is an answer like any other. WebSub §7: a hub does not follow those of a callback.
    None,
    /// At most so many, each checked like a first request, never from https to http.
    Follow(u8),
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body, in bytes after decompression.
    pub body: usize,
    pub overlong: Overlong,
    /// From the first look-up to the last byte, redirects included.
    pub total: Duration,
}

/// What becomes of a body over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlong {
    /// The fetch fails: half a document is none.
    Refuse,
    /// The beginning is kept, also if the rest does not come: only the status counts, the body is for the report.
    Cut,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where the answer came from, after redirects.
    pub url: Url,
}

/// Why there is no answer. An answer with an error status is not an error here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("not asked: {0}")]
    Refused(#[from] Refusal),
    /// Nobody was asked: we have too much to do.
    #[error("too many requests under way")]
    Busy,
    #[error("the host name cannot be resolved: {0}")]
    Dns(String),
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no secure connection: {0}")]
    Tls(String),
    #[error("no complete answer in time")]
    Timeout,
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Redirect(&'static str),
    /// The connection broke, or what came was not HTTP.
    #[error("the exchange failed: {0}")]
    Exchange(String),
}

impl FetchError {
    /// Whether the same request may succeed later. What is unknown is temporary.
    pub fn is_temporary(&self) -> bool {
        match self {
            // Who owns the name may mend it.
            FetchError::Refused(Refusal::Resolved(..)) => true,
            FetchError::Refused(_) | FetchError::TooLarge(_) | FetchError::Redirect(_) => false,
            _ => true,
        }
    }

    /// Whether it befell the host as a whole, so that other requests to it will hardly fare better.
    pub fn is_host_level(&self) -> bool {
        matches!(
            self,
            FetchError::Dns(_)
                | FetchError::Connect(_)
                | FetchError::Tls(_)
                | FetchError::Refused(Refusal::Resolved(..))
        )
    }
}

impl Request {
    /// Fetches a document: at most 1 MiB in 30 seconds, three redirects.
    pub fn get(url: Url) -> Self {
        let limits = Limits { body: 1024 * 1024, overlong: Overlong::Refuse, total: Duration::from_secs(30) };
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let (redirects, connection) = (Redirects::Follow(3), Connection::Shared);
        Request { method: Method::GET, url, headers, body, redirects, limits, connection }
    }

    /// Delivers `body`: no redirects, and of the answer's body the first 4 KiB, for the report.
    pub fn post(url: Url, body: Bytes) -> Self {
        let limits = Limits { body: 4096, overlong: Overlong::Cut, total: Duration::from_secs(30) };
        let (redirects, connection) = (Redirects::None, Connection::Shared);
        Request { method: Method::POST, url, headers: HeaderMap::new(), body, redirects, limits, connection }
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Shorthand for `Accept`, e.g. `application/jrd+json`.
    pub fn accept(self, types: &'static str) -> Self {
        self.header(header::ACCEPT, HeaderValue::from_static(types))
    }
}

impl Response {
    /// A header's value, if it is there and visible ASCII.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the peer asks us to wait (RFC 9110 §10.2.3), not more than `most`.
    pub fn retry_after(&self, now: Timestamp, most: Duration) -> Option<Duration> {
        Some(super::conditional::parse_retry_after(self.header(header::RETRY_AFTER)?, now)?.min(most))
    }
}

/// The client cannot be built, for instance because the system has no certificate authorities.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot start: {}", chain(.0))]
pub struct BuildError(#[from] reqwest::Error);

impl Client {
    pub fn new(options: Options) -> Result<Self, BuildError> {
        let guard = Arc::new(options.guard);
        let resolver = Guarded::new(options.resolver, guard.clone());
        let connect_timeout = options.connect_timeout;
        let build = |idle_per_host| {
            reqwest::Client::builder()
                .user_agent(format!("Rookery/{} (+{})", env!("CARGO_PKG_VERSION"), options.public_url))
                .dns_resolver(resolver.clone())
                .no_proxy()
                .referer(false)
                // Followed in `fetch`, where each hop passes the guard and can change the method.
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(options.connect_timeout)
                .read_timeout(options.read_timeout)
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(idle_per_host)
                .http1_max_headers(MAX_HEAD_FIELDS)
                .http2_max_header_list_size(MAX_HEAD_BYTES as u32)
                .build()
        };
        let (http, once) = (build(4)?, build(0)?);
        let permits = Semaphore::new(options.concurrent);
        Ok(Client(Arc::new(Inner { http, once, guard, resolver, connect_timeout, permits })))
    }

    /// Whether `url` would be asked at all, as far as it can be told without DNS: for URLs that are to be kept.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        self.0.guard.check_url(url)
    }

    /// While this is held, requests to the host of `url` that have a [connection of their own](Connection::Own) go to
    /// `addresses`, which [`Client::addresses`] gave, and to no others. For who bounds by address what others make us send.
    /// `None` where the host is an address itself.
    pub fn pin(&self, url: &Url, addresses: Vec<IpAddr>) -> Option<Held> {
        url.domain().map(|name| self.0.resolver.pin(name, addresses))
    }

    /// The addresses of a URL's host that may be asked, at least one. What is asked later may be at others.
    pub async fn addresses(&self, url: &Url) -> Result<Vec<IpAddr>, FetchError> {
        self.check(url)?;
        let name = match url.host() {
            Some(Host::Ipv4(ip)) => return Ok(vec![ip.into()]),
            Some(Host::Ipv6(ip)) => return Ok(vec![ip.into()]),
            Some(Host::Domain(name)) => name,
            None => return Err(FetchError::Dns("there is no host name".to_owned())),
        };
        self.0.resolver.look_up(name, self.0.connect_timeout).await.map_err(|error| match error {
            LookupError::Refused(refusal) => refusal.into(),
            LookupError::Failed(error) => FetchError::Dns(error.to_string()),
            LookupError::Busy => FetchError::Busy,
        })
    }

    /// Asks and reads the whole answer within the request's limits. It is sent once for each hop; whether it arrived is
    /// unknown after a temporary error.
    pub async fn fetch(&self, mut request: Request) -> Result<Response, FetchError> {
        self.check(&request.url)?;
        // Time-outs of sockets are real time even where a test moves the clock. To wait for us is no fault of theirs.
        let _permit = match timeout(request.limits.total, self.0.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(FetchError::Busy),
        };
        let deadline = Instant::now() + request.limits.total;
        let mut hops = match request.redirects {
            Redirects::None => 0,
            Redirects::Follow(most) => most,
        };
        loop {
            let response = timeout_at(deadline, self.send(&request)).await.map_err(|_| FetchError::Timeout)??;
            let next = match request.redirects {
                Redirects::None => None,
                Redirects::Follow(_) => redirect_target(&request, &response)?,
            };
            let Some(next) = next else {
                return read(response, &request, deadline).await;
            };
            if hops == 0 {
                return Err(FetchError::Redirect("too many redirects"));
            }
            hops -= 1;
            self.check(&next)?;
            redirected(&mut request, response.status(), next)?;
        }
    }

    async fn send(&self, request: &Request) -> Result<reqwest::Response, FetchError> {
        let http = match request.connection {
            Connection::Shared => &self.0.http,
            Connection::Own => &self.0.once,
        };
        let response = http
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .body(request.body.clone())
            .send()
            .await
            .map_err(fetch_error)?;
        let head: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        match head > MAX_HEAD_BYTES {
            true => Err(FetchError::TooLarge(MAX_HEAD_BYTES)),
            false => Ok(response),
        }
    }
}

/// Where a redirect leads; `None` if it is none. RFC 9110 §15.4: one without `Location` is an ordinary answer.
fn redirect_target(request: &Request, response: &reqwest::Response) -> Result<Option<Url>, FetchError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(header::LOCATION) else { return Ok(None) };
    let next = location.to_str().ok().and_then(|text| request.url.join(text).ok());
    next.map(Some).ok_or(FetchError::Redirect("the redirect leads nowhere"))
}

/// Turns `request` into the one for the next hop (RFC 9110 §15.4.2-9).
fn redirected(request: &mut Request, status: StatusCode, next: Url) -> Result<(), FetchError> {
    if request.url.scheme() == "https" && next.scheme() == "http" {
        return Err(Refusal::Downgrade.into());
    }
    let keeps_method = matches!(status.as_u16(), 307 | 308);
    if !keeps_method && !matches!(request.method, Method::GET | Method::HEAD) {
        request.method = Method::GET;
        request.body = Bytes::new();
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
            request.headers.remove(name);
        }
    }
    if request.url.origin() != next.origin() {
        // What proves something to one origin is not another's business.
        for name in ["authorization", "cookie", "signature", "signature-input", "x-hub-signature"] {
            request.headers.remove(name);
        }
    }
    request.url = next;
    Ok(())
}

/// Reads the body, counted as it comes out of the decompressor.
async fn read(mut response: reqwest::Response, request: &Request, deadline: Instant) -> Result<Response, FetchError> {
    let Limits { body: most, overlong, .. } = request.limits;
    let cut = overlong == Overlong::Cut;
    let announced = response.content_length().unwrap_or(0);
    if !cut && request.method != Method::HEAD && announced > most as u64 {
        return Err(FetchError::TooLarge(most));
    }
    let mut body = BytesMut::new();
    loop {
        let chunk = match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(_)) | Err(_) if cut => break,
            Ok(Err(e)) => return Err(fetch_error(e)),
            Err(_) => return Err(FetchError::Timeout),
        };
        let room = most - body.len();
        match chunk.get(..room) {
            Some(_) if chunk.len() == room => body.extend_from_slice(&chunk),
            Some(_) if !cut => return Err(FetchError::TooLarge(most)),
            Some(fits) => {
                body.extend_from_slice(fits);
                break;
            }
            None => body.extend_from_slice(&chunk),
        }
    }
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    Ok(Response { status, headers, body: body.freeze(), url: request.url.clone() })
}

/// Sorts what went wrong by what it means to the queue.
fn fetch_error(error: reqwest::Error) -> FetchError {
    let mut source = error.source();
    let mut tls = false;
    while let Some(inner) = source {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return refusal.clone().into();
        }
        if let Some(LookupError::Busy) = inner.downcast_ref() {
            return FetchError::Busy;
        }
        tls |= inner.downcast_ref::<io::Error>().is_some_and(is_invalid_data);
        source = inner.source();
    }
    let words = chain(&error);
    match () {
        _ if error.is_dns() => FetchError::Dns(words),
        _ if error.is_connect() && tls => FetchError::Tls(words),
        _ if error.is_connect() => FetchError::Connect(words),
        _ if error.is_timeout() => FetchError::Timeout,
        _ => FetchError::Exchange(words),
    }
}

/// The TLS library reports its errors as invalid data of the connection, wrapped once more on the way.
fn is_invalid_data(error: &io::Error) -> bool {
    let wrapped = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
    error.kind() == io::ErrorKind::InvalidData || wrapped.is_some_and(is_invalid_data)
}

/// The innermost cause says the most; the outer ones only repeat that a request failed.
fn chain(error: &reqwest::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(method: Method, status: u16, from: &str, to: &str) -> Result<Request, FetchError> {
        let mut request = Request::post(from.parse().unwrap(), Bytes::from_static(b"x"))
            .header(header::AUTHORIZATION, HeaderValue::from_static("secret"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        request.method = method;
        redirected(&mut request, StatusCode::from_u16(status).unwrap(), to.parse().unwrap()).map(|()| request)
    }

    #[test]
    fn a_redirect_never_leads_from_https_to_http() {
        let refused = after(Method::GET, 302, "https://a.example/", "http://a.example/").unwrap_err();
        assert!(matches!(refused, FetchError::Refused(Refusal::Downgrade)), "{refused}");
        assert!(after(Method::GET, 302, "http://a.example/", "https://a.example/").is_ok());
    }

    #[test]
    fn only_307_and_308_keep_a_post_a_post() {
        for (status, method) in [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")] {
            let next = after(Method::POST, status, "https://a.example/", "https://a.example/b").unwrap();
            assert_eq!(next.method.as_str(), method, "{status}");
            assert_eq!(next.body.is_empty(), method == "GET", "{status}");
            assert_eq!(next.headers.contains_key(header::CONTENT_TYPE), method == "POST", "{status}");
        }
        assert_eq!(after(Method::HEAD, 303, "https://a.example/", "https://a.example/b").unwrap().method, Method::HEAD);
    }

    #[test]
    fn what_proves_something_to_one_origin_is_not_shown_to_another() {
        let same = after(Method::GET, 307, "https://a.example/", "https://a.example/b").unwrap();
        assert!(same.headers.contains_key(header::AUTHORIZATION));
        for other in ["https://b.example/", "https://a.example:8443/"] {
            let next = after(Method::GET, 307, "https://a.example/", other).unwrap();
            assert!(!next.headers.contains_key(header::AUTHORIZATION), "{other}");
        }
    }
}
