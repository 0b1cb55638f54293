//! Our public face on HTTP: WebFinger, host-meta, feeds and pages; and, on its own address, health and metrics.

pub mod asked;
pub mod feeds;
pub mod health;
pub mod hostmeta;
pub mod pages;
pub mod webfinger;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

use crate::domain::address::LocalName;
use crate::domain::error::Refusal;
use crate::http::accept::negotiate;
use crate::http::path::segments;
use crate::http::problem::{busy, problem};
use crate::service::Service;
use crate::service::topics::Topics;

/// What may be stored by caches, but shown only after asking us again: an edit or retraction is seen at once, and asking
/// costs little, since the answer is mostly 304.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("public, no-cache");

/// What the handlers share; cheap to clone.
#[derive(Clone)]
pub struct Web(Arc<Inner>);

struct Inner {
    service: Service,
    topics: Topics,
    /// Pages of many posts that are made at one time: each takes megabytes and milliseconds, and anybody may ask.
    making: Semaphore,
}

const MAKING: usize = 4;

/// The routes of the public listener. What networks receive is merged to it by `app`.
pub fn router(service: Service, topics: Topics) -> Router {
    let web = Web(Arc::new(Inner { service, topics, making: Semaphore::new(MAKING) }));
    Router::new()
        .route("/.well-known/webfinger", get(webfinger::webfinger))
        .route("/.well-known/host-meta", get(hostmeta::host_meta))
        .route("/.well-known/host-meta.json", get(hostmeta::host_meta_json))
        .route("/", get(pages::home))
        .route("/{handle}", get(pages::account))
        .route("/{handle}/", get(pages::below_account))
        .route("/{handle}/{item}", get(pages::below_account))
        .fallback(pages::nothing)
        .with_state(web)
}

/// What stands below an account: `/@alice`, `/@alice.atom`, `/@alice/<item>`.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Page(LocalName),
    Feed(LocalName),
    Item(LocalName, String),
    /// Another spelling of an account's page: a closing slash, capitals.
    Moved(LocalName),
}

/// Reads a path as it came; what cannot be ours is `None`. Nothing of it ever names a file.
fn place(uri: &Uri) -> Option<Place> {
    let segments = segments(uri.path())?;
    let (handle, rest) = segments.split_first()?;
    let handle = handle.strip_prefix('@')?;
    let (text, is_feed) = match handle.strip_suffix(".atom") {
        Some(text) => (text, true),
        None => (handle, false),
    };
    let name = LocalName::parse(text).ok()?;
    let exact = name.as_str() == text;
    match (rest, is_feed) {
        ([], true) if exact => Some(Place::Feed(name)),
        ([], false) if exact => Some(Place::Page(name)),
        ([], false) => Some(Place::Moved(name)),
        ([end], false) if end.is_empty() => Some(Place::Moved(name)),
        ([item], false) if exact => Some(Place::Item(name, item.clone())),
        _ => None,
    }
}

/// The cursor of a page of older posts: `?before=<place>`. `Err` if it is none that we gave.
fn before(uri: &Uri) -> Result<Option<u64>, ()> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut values = pairs.filter(|(key, _)| key == "before").map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(one), None) if one.bytes().all(|b| b.is_ascii_digit()) => one.parse().map(Some).map_err(drop),
        _ => Err(()),
    }
}

impl Web {
    /// Why there is nothing to show. Whether a feed is closed or was never there is told to nobody; that an account
    /// ended is (410), so that readers stop asking.
    async fn refused(&self, name: &LocalName, refusal: Refusal, request: &HeaderMap) -> Response {
        let status = match refusal {
            Refusal::Busy => return busy("there is too much to do at the moment", 5),
            Refusal::StoreFailed => return busy("this cannot be read at the moment", 30),
            _ if self.was_removed(name).await => StatusCode::GONE,
            _ => StatusCode::NOT_FOUND,
        };
        missing(status, request)
    }

    async fn was_removed(&self, name: &LocalName) -> bool {
        let name = name.clone();
        let account = self.0.service.store.read(move |r| r.account(&name)).await;
        account.is_ok_and(|account| account.is_some_and(|account| !account.is_active()))
    }
}

/// 404 or 410: a page for people, a line for programs.
fn missing(status: StatusCode, request: &HeaderMap) -> Response {
    let words = match status {
        StatusCode::GONE => "there was an account here; it has ended",
        _ => "there is nothing here",
    };
    match negotiate(request, &["text/plain", "text/html"]) {
        Some("text/html") => pages::message(status, words),
        _ => problem(status, words),
    }
}

/// 301 to our own canonical address.
fn moved(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response(),
        Err(_) => problem(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// A document with headers. Values that are no header values are left out: ours are.
fn document(headers: impl IntoIterator<Item = (HeaderName, String)>, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// `Vary: Accept`: several representations share the address.
fn varies(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_account_its_feed_or_one_item_and_nothing_else() {
        let alice = || LocalName::parse("alice").unwrap();
        let table: &[(&str, Option<Place>)] = &[
            ("/@alice", Some(Place::Page(alice()))),
            ("/%40alice", Some(Place::Page(alice()))),
            ("/@alice.atom", Some(Place::Feed(alice()))),
            ("/@alice/", Some(Place::Moved(alice()))),
            ("/@Alice", Some(Place::Moved(alice()))),
            ("/@alice/one", Some(Place::Item(alice(), "one".into()))),
            ("/@alice/a%2Fb", Some(Place::Item(alice(), "a/b".into()))),
            ("/@alice/../bob", None),
            ("/@alice/%2e%2e", None),
            ("/@alice/a%00b", None),
            ("/@alice/%zz", None),
            ("/@alice/%ff", None),
            ("/@alice/one/two", None),
            ("/@alice.atom/one", None),
            ("/@admin", None),
            ("/@", None),
            ("/@.atom", None),
            ("/alice", None),
            ("/@alice%0d%0aX", None),
        ];
        for (path, expected) in table {
            assert_eq!(&place(&path.parse().unwrap()), expected, "{path}");
        }
    }

    #[test]
    fn a_cursor_is_a_number_given_once() {
        for (query, expected) in [
            ("/", Ok(None)),
            ("/?before=12", Ok(Some(12))),
            ("/?x=1&before=12", Ok(Some(12))),
            ("/?before=", Err(())),
            ("/?before=-1", Err(())),
            ("/?before=+1", Err(())),
            ("/?before=1&before=2", Err(())),
            ("/?before=99999999999999999999", Err(())),
        ] {
            assert_eq!(before(&query.parse().unwrap()), expected, "{query}");
        }
    }
}
