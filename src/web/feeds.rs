//! `/@alice.atom`: an account's public posts as ActivityStreams Atom (RFC 4287, RFC 5005 §3), a WebSub topic (WebSub §4).
//!
//! The address, the hub and all links come from what is stored and configured, never from the request.

use aws_lc_rs::digest;
use axum::http::header::{self, HeaderMap};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;

use super::{ASK_AGAIN, Web, before, document};
use crate::base::clock::Timestamp;
use crate::domain::address::LocalName;
use crate::format::feed;
use crate::http::conditional::{ETag, Validators};
use crate::http::problem::problem;
use crate::service::topics::{Window, page_url};

/// The feed, or a page of older posts.
pub(super) async fn feed(web: &Web, name: &LocalName, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
    let window = match before(uri) {
        Ok(None) => Window::Newest,
        Ok(Some(place)) => Window::Before(place),
        Err(()) => return problem(StatusCode::BAD_REQUEST, "this is no page of the feed"),
    };
    let topic = match web.0.topics.get(name, window).await {
        Ok(topic) => topic,
        Err(refusal) => return web.refused(name, refusal, headers).await,
    };
    let link = match window {
        Window::Before(place) => format!("<{}>; rel=\"self\"", page_url(&topic.account, place)),
        _ => topic.links(&web.0.service.addresses),
    };
    let about = [
        // Bare: what the hub sends must have the topic's own type (WebSub §7), and OStatus peers compare it whole.
        (header::CONTENT_TYPE, feed::MEDIA_TYPE.to_owned()),
        (header::LINK, link),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let mut response = document(about, topic.body.clone());
    response.headers_mut().insert(header::CACHE_CONTROL, ASK_AGAIN);
    let last_modified = settled(topic.changed, web.0.service.clock.now());
    let validators = Validators { etag: Some(ETag::strong(&topic.digest)), last_modified };
    validators.answer(method, headers, response)
}

/// The date has whole seconds: in the second of a change another one may follow, so it is no date to go by yet
/// (RFC 9110 §8.8.2.2).
pub(super) fn settled(changed: Timestamp, now: Timestamp) -> Option<Timestamp> {
    (changed.secs() < now.secs()).then_some(changed)
}

/// Validators of a document that is made anew for each request.
pub(super) fn validators(body: &[u8], last_modified: Option<Timestamp>) -> Validators {
    let digest = digest::digest(&digest::SHA256, body);
    let opaque: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Validators { etag: Some(ETag::strong(&opaque)), last_modified }
}
