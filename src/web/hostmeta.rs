//! host-meta (RFC 6415): where WebFinger stands, for who asks the older way; XRD, and JSON at `host-meta.json`.
//!
//! The templates lead to the public host: `acct_domain` may pass on nothing but the well-known paths.

use axum::extract::State;
use axum::http::Method;
use axum::http::header::HeaderMap;
use axum::response::Response;

use super::Web;
use super::webfinger::{cacheable, cors, represent};
use crate::domain::address::Addresses;
use crate::format::resource::{Link, Resource};
use crate::format::{jrd, xrd};
use crate::http::accept::negotiate;

pub(super) async fn host_meta(State(web): State<Web>, method: Method, headers: HeaderMap) -> Response {
    let resource = describe(&web.0.service.addresses);
    // RFC 6415 §2: XRD is what everybody must be able to get.
    let response = match negotiate(&headers, &[xrd::MEDIA_TYPE, jrd::MEDIA_TYPE, "application/json"]) {
        None | Some(xrd::MEDIA_TYPE) => {
            super::varies(cacheable(xrd::MEDIA_TYPE, xrd::write(&resource), &method, &headers))
        }
        Some(_) => represent(&resource, &method, &headers),
    };
    cors(response)
}

pub(super) async fn host_meta_json(State(web): State<Web>, method: Method, headers: HeaderMap) -> Response {
    let resource = describe(&web.0.service.addresses);
    // RFC 6415 §3 wants application/json here, whatever is preferred.
    cors(cacheable("application/json", jrd::write(&resource), &method, &headers))
}

fn describe(addresses: &Addresses) -> Resource {
    let template = format!("{}/.well-known/webfinger?resource={{uri}}", addresses.public_url);
    // GNU social takes the first whose type it likes, so each notation has a link of its own.
    let types = [jrd::MEDIA_TYPE, "application/json", xrd::MEDIA_TYPE];
    let links = types.map(|media_type| Link::template("lrdd", Some(media_type), template.clone()));
    Resource { links: links.into(), ..Resource::default() }
}
