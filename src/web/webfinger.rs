//! WebFinger (RFC 7033): who stands behind an `acct:` address or one of our pages; also as XRD for older peers.

use axum::extract::{RawQuery, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::asked::{Asked, account_of};
use super::{Web, document, varies};
use crate::base::turn::Turn;
use crate::domain::address::Addresses;
use crate::domain::error::Refusal;
use crate::domain::node::NodeName;
use crate::format::resource::{Link, Resource};
use crate::format::{feed, jrd, uri, xrd};
use crate::http::accept::negotiate;
use crate::http::problem::{busy, problem};
use crate::store::Account;

pub const PROFILE_PAGE: &str = "http://webfinger.net/rel/profile-page";
pub const UPDATES_FROM: &str = "http://schemas.google.com/g/2010#updates-from";

pub(super) async fn webfinger(
    State(web): State<Web>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Response {
    cors(answer(&web, &query.unwrap_or_default(), &method, &headers).await)
}

async fn answer(web: &Web, query: &str, method: &Method, headers: &HeaderMap) -> Response {
    let asked = match Asked::read(query) {
        Ok(asked) => asked,
        Err(words) => return problem(StatusCode::BAD_REQUEST, words),
    };
    let service = &web.0.service;
    let Some(name) = account_of(&service.addresses, &asked.resource) else {
        return problem(StatusCode::NOT_FOUND, "this is nobody here");
    };
    let resource = match service.account(Turn::free(), name.clone()).await {
        Ok(account) => {
            // Whether people can read it is the feed's to say; who cannot is not sent there.
            let open = service.feed(name, None, 0).await.is_ok();
            describe(&service.addresses, &account, open).with_rels(&asked.rels)
        }
        Err(Refusal::Busy | Refusal::StoreFailed) => return busy("this cannot be read at the moment", 5),
        Err(_) => return problem(StatusCode::NOT_FOUND, "this is nobody here"),
    };
    represent(&resource, method, headers)
}

/// JRD unless XRD is preferred (RFC 7033 §4.2: other wishes are passed over), with an entity tag.
pub(super) fn represent(resource: &Resource, method: &Method, headers: &HeaderMap) -> Response {
    let wanted = negotiate(headers, &[jrd::MEDIA_TYPE, "application/json", xrd::MEDIA_TYPE]);
    let (media_type, body) = match wanted {
        Some(xrd::MEDIA_TYPE) => (xrd::MEDIA_TYPE, xrd::write(resource)),
        _ => (jrd::MEDIA_TYPE, jrd::write(resource)),
    };
    varies(cacheable(media_type, body, method, headers))
}

/// What changes hardly ever.
pub(super) fn cacheable(media_type: &str, body: String, method: &Method, headers: &HeaderMap) -> Response {
    let validators = super::feeds::validators(body.as_bytes(), None);
    let about = [
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CACHE_CONTROL, "public, max-age=3600".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    validators.answer(method, headers, document(about, body))
}

/// RFC 7033 §5: scripts of any page may read what everybody may read.
pub(super) fn cors(mut response: Response) -> Response {
    let any = axum::http::HeaderValue::from_static("*");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    response
}

/// All that we say of an account. Only what works is listed; a closed account has its Jabber address and nothing on the
/// web.
fn describe(addresses: &Addresses, account: &Account, open: bool) -> Resource {
    let jid = addresses.virtual_jid(&account.name);
    let xmpp = uri::xmpp(jid.as_str());
    let node = uri::xmpp_node(jid.as_str(), NodeName::microblog().as_str());
    let mut resource = Resource { subject: Some(account.acct.clone()), ..Resource::default() };
    if open {
        resource.aliases.push(account.profile_url.clone());
        resource.links = vec![
            Link::new(PROFILE_PAGE, Some("text/html"), account.profile_url.clone()),
            Link::new(UPDATES_FROM, Some(feed::MEDIA_TYPE), account.feed_url.clone()),
            Link::new("hub", None, addresses.hub_url()),
        ];
    }
    resource.aliases.push(xmpp);
    // XEP-0277 §2: the same posts as a PubSub node.
    resource.links.push(Link::new("alternate", Some(feed::MEDIA_TYPE), node));
    resource
}
