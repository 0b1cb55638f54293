//! `POST /hub`: requests of subscribers (WebSub §5.1, PuSH 0.4 §5.1, PuSH 0.3 §6.1). A request is answered 202 when it
//! and the promise to verify it are stored.
//!
//! The digest of signatures cannot be negotiated. Who shows that it speaks PuSH 0.3 or 0.4 (it sends `hub.verify` or
//! `hub.verify_token`, or is a known OStatus peer by its User-Agent) gets sha1, the only one those know; all others get
//! sha256. A synchronous verification (PuSH 0.3) is not offered: two servers that wait for one another would block each
//! other.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::Url;

use super::OStatus;
use super::wish::{NO_TOPIC, Wish, Wrong};
use crate::base::clock::{Clock, Moment};
use crate::domain::error::Refusal;
use crate::http::client::Client;
use crate::http::problem::{busy, problem};

/// The longest request, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// Characters of a challenge: 160 random bits. COMPAT: letters and digits only, since Mastodon 2 answers it as HTML.
const CHALLENGE: usize = 32;

pub(super) fn routes(ostatus: OStatus) -> Router {
    Router::new().route("/hub", post(ask)).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(ostatus)
}

async fn ask(State(ostatus): State<OStatus>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return problem(rejection.status(), &format!("a request to the hub has at most {MAX_BODY} bytes"));
        }
        Err(rejection) => return problem(rejection.status(), "the request did not arrive whole"),
    };
    if !is_form(&headers) {
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a request is a form: application/x-www-form-urlencoded");
    }
    let inner = &ostatus.0;
    let wish = match Wish::read(&body, headers.get(header::USER_AGENT), &inner.service.addresses) {
        Ok(wish) => wish,
        Err(Wrong { status, words }) => return problem(status, words),
    };
    let Wish::Ask { name, mut intent, callback } = wish else {
        // We know our own changes better than a ping can tell.
        return StatusCode::NO_CONTENT.into_response();
    };
    if let Err(refusal) = inner.client.check(&callback) {
        // The refusal names nothing but what the subscriber wrote.
        return problem(StatusCode::BAD_REQUEST, &format!("hub.callback cannot be used: {refusal}"));
    }
    // Who is there renews beside what strangers ask for; where its callback is asked, its network is counted as theirs.
    let renews = inner.service.is_subscribed(name.clone(), intent.callback.clone()).await
        && inner.bounds.known.take(intent.callback.clone(), inner.service.clock.moment()).is_ok();
    if !renews && let Err(over) = inner.bounds.asked(&inner.client, &callback, &inner.service.clock).await {
        let mut response = problem(over.status, over.words);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(over.seconds));
        return response;
    }
    intent.challenge = inner.service.ids.token(CHALLENGE);
    match inner.service.hub_request(name, *intent).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(Refusal::Busy) => busy("there is too much to do at the moment", 60),
        Err(Refusal::TooManySubscriptions) => busy("there are as many subscriptions as the hub keeps", 3600),
        Err(Refusal::StoreFailed) => busy("the request could not be stored", 60),
        Err(_) => problem(StatusCode::NOT_FOUND, NO_TOPIC),
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Anybody may send requests, in anybody's name; each makes us ask a callback. Token buckets keep us from being turned
/// against one: for each host name of callbacks; for each network that the names lead to, since names cost nothing; and
/// for all together. (The sender's address is of no use: behind a proxy it is the proxy's.)
///
/// A network is counted twice: when a request comes, so that its sender is told, and when the callback is asked, since
/// a name may lead elsewhere by then.
pub(super) struct Bounds {
    hosts: Buckets<String>,
    networks: Buckets<IpAddr>,
    all: Buckets<()>,
    /// Of callbacks that are subscribed, beside all others.
    known: Buckets<String>,
    asking: Buckets<IpAddr>,
    lookups: Arc<Semaphore>,
}

/// Which bound a request is over.
#[derive(Debug)]
struct Over {
    status: StatusCode,
    words: &'static str,
    seconds: u32,
}

/// Requests at once, and how many more each second.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

const OF_HOST: Rate = Rate { burst: 60.0, per_second: 1.0 };
/// Of a /24 or /48: a provider's machines may hold many hosts.
const OF_NETWORK: Rate = Rate { burst: 240.0, per_second: 4.0 };
const OF_ALL: Rate = Rate { burst: 2_000.0, per_second: 50.0 };
/// Anybody may ask in its name.
const OF_KNOWN: Rate = Rate { burst: 5.0, per_second: 0.02 };
/// Hosts, and networks, that are remembered.
const REMEMBERED: usize = 10_000;
/// Names that are looked up at once while their senders wait, and how long these do.
const LOOKUPS: usize = 32;
const LOOKUP: Duration = Duration::from_secs(2);

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            hosts: Buckets::new(OF_HOST),
            networks: Buckets::new(OF_NETWORK),
            all: Buckets::new(OF_ALL),
            known: Buckets::new(OF_KNOWN),
            asking: Buckets::new(OF_NETWORK),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }
}

impl Bounds {
    /// Counts a request.
    async fn asked(&self, client: &Client, callback: &Url, clock: &Clock) -> Result<(), Over> {
        let over = |status, words| move |seconds| Over { status, words, seconds };
        let host = callback.host_str().unwrap_or_default().to_owned();
        self.hosts
            .take(host, clock.moment())
            .map_err(over(StatusCode::TOO_MANY_REQUESTS, "too many requests for callbacks at this host"))?;
        let addresses = self.addresses(client, callback).await;
        take_networks(&self.networks, &addresses, clock.moment())
            .map_err(over(StatusCode::SERVICE_UNAVAILABLE, "too many requests for callbacks in this network"))?;
        self.all
            .take((), clock.moment())
            .map_err(over(StatusCode::SERVICE_UNAVAILABLE, "too many requests for subscriptions at the moment"))
    }

    /// Counts a question to a callback at these addresses; else the seconds after which it may be asked.
    pub(super) fn asking(&self, addresses: &[IpAddr], now: Moment) -> Result<(), u32> {
        take_networks(&self.asking, addresses, now)
    }

    /// None if they are not known soon: names that take long must not keep the door shut for others. They are looked up
    /// again before the callback is asked.
    async fn addresses(&self, client: &Client, callback: &Url) -> Vec<IpAddr> {
        let Ok(permit) = self.lookups.clone().try_acquire_owned() else { return Vec::new() };
        let (client, callback) = (client.clone(), callback.clone());
        let found = tokio::spawn(async move {
            let found = client.addresses(&callback).await;
            drop(permit);
            found
        });
        match timeout(LOOKUP, found).await {
            Ok(Ok(Ok(addresses))) => addresses,
            _ => Vec::new(),
        }
    }
}

fn take_networks(buckets: &Buckets<IpAddr>, addresses: &[IpAddr], now: Moment) -> Result<(), u32> {
    let networks: BTreeSet<IpAddr> = addresses.iter().map(|ip| network(*ip)).collect();
    networks.into_iter().try_for_each(|network| buckets.take(network, now))
}

/// What one person has many addresses in: /24, or /48 in IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 80)).into(),
    }
}

/// Token buckets of one kind.
struct Buckets<K> {
    all: Mutex<HashMap<K, Bucket>>,
    rate: Rate,
}

struct Bucket {
    tokens: f64,
    at: Moment,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Buckets { all: Mutex::default(), rate }
    }

    /// Takes one request's token; else the seconds after which there is one.
    fn take(&self, key: K, now: Moment) -> Result<(), u32> {
        let Rate { burst, per_second } = self.rate;
        let mut buckets = self.all.lock().unwrap_or_else(|e| e.into_inner());
        if buckets.len() >= REMEMBERED && !buckets.contains_key(&key) {
            // A full bucket is as good as none.
            buckets.retain(|_, bucket| bucket.fill(self.rate, now) < burst);
            if buckets.len() >= REMEMBERED {
                return Err(60);
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: burst, at: now });
        if bucket.fill(self.rate, now) < 1.0 {
            return Err(((1.0 - bucket.tokens) / per_second).ceil().max(1.0) as u32);
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Moment) -> f64 {
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * rate.per_second).min(rate.burst);
        self.at = now;
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_not_asked_without_end_and_others_are_not_kept_waiting() {
        let buckets = Buckets::new(OF_HOST);
        let now = Moment(1_000_000_000);
        assert_eq!((0..100).filter(|_| buckets.take("a.example", now).is_ok()).count(), 60);
        assert_eq!(buckets.take("a.example", now), Err(1));
        assert!(buckets.take("b.example", now).is_ok());
        assert!(buckets.take("a.example", now.plus(Duration::from_secs(1))).is_ok());
    }

    #[test]
    fn the_memory_for_hosts_is_bounded_and_frees_itself() {
        let buckets = Buckets::new(OF_HOST);
        let now = Moment(1_000_000_000);
        for n in 0..REMEMBERED {
            assert!(buckets.take(format!("h{n}.example"), now).is_ok());
        }
        assert_eq!(buckets.take("one.more.example".to_owned(), now), Err(60));
        assert!(buckets.take("one.more.example".to_owned(), now.plus(Duration::from_secs(5))).is_ok());
    }

    #[test]
    fn a_network_is_a_24_or_a_48_however_it_is_written() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!((of("192.0.2.7"), of("::ffff:192.0.2.9")), ("192.0.2.0".to_owned(), "192.0.2.0".to_owned()));
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1::");
        assert_ne!(of("192.0.3.7"), of("192.0.2.7"));
    }

    #[test]
    fn names_do_not_multiply_what_one_network_is_asked() {
        let bounds = Bounds::default();
        let now = Moment(1_000_000_000);
        let ask = |ip: &str| bounds.asking(&[ip.parse().unwrap()], now);
        assert_eq!((0..250).filter(|n| ask(&format!("192.0.2.{n}")).is_ok()).count(), 240);
        assert_eq!(ask("192.0.2.1"), Err(1));
        assert!(ask("192.0.3.1").is_ok());
    }
}
