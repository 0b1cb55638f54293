//! WebFinger (RFC 7033): who stands behind an `acct:` address or one of our pages; also as XRD for older peers.

use axum::extract::{RawQuery, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::{Web, document, varies};
use crate::base::jid::read_bare_jid;
use crate::base::turn::Turn;
use crate::domain::address::{Addresses, LocalName};
use crate::domain::error::Refusal;
use crate::domain::node::NodeName;
use crate::format::resource::{Link, Resource};
use crate::format::{feed, jrd, uri, xrd};
use crate::http::accept::negotiate;
use crate::http::forwarded::Canonical;
use crate::http::problem::{busy, problem};
use crate::store::Account;

/// The longest `resource` that is looked at, in bytes.
const MAX_RESOURCE: usize = 2048;

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

/// A request (RFC 7033 §4.1).
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    resource: String,
    rels: Vec<String>,
}

impl Asked {
    /// RFC 7033 §4.2: without `resource`, or with a malformed one, the request is bad.
    fn read(query: &str) -> Result<Self, &'static str> {
        let (mut resource, mut rels) = (None, Vec::new());
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "resource" if resource.is_some() => return Err("more than one resource"),
                "resource" => resource = Some(value.trim().to_owned()),
                "rel" if rels.len() < 100 => rels.push(value.into_owned()),
                _ => {}
            }
        }
        let resource = resource.filter(|text| !text.is_empty()).ok_or("the parameter resource is missing")?;
        if resource.len() > MAX_RESOURCE {
            return Err("the resource is too long");
        }
        match is_address(&resource) {
            true => Ok(Asked { resource, rels }),
            false => Err("the resource is neither a URI nor an address"),
        }
    }
}

/// A URI with something behind its scheme, or `user@host`.
fn is_address(text: &str) -> bool {
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return false;
    }
    let user_at_host =
        |text: &str| text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    let Some((scheme, rest)) = text.split_once(':') else {
        return user_at_host(text.strip_prefix('@').unwrap_or(text));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "acct" => user_at_host(rest),
        "http" | "https" => url::Url::parse(text).is_ok(),
        scheme => !rest.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.@".contains(&b)),
    }
}

/// Which account an address means: `acct:`, with or without the scheme, `xmpp:`, and the URLs of its page and feed in any
/// spelling.
fn account_of(addresses: &Addresses, resource: &str) -> Option<LocalName> {
    let (scheme, rest) = resource.split_once(':').unwrap_or(("", resource));
    match scheme.to_ascii_lowercase().as_str() {
        "acct" => addresses.account_of(&format!("acct:{rest}")),
        "http" | "https" => {
            let public = url::Url::parse(&addresses.public_url).ok()?;
            let path = Canonical::new(&public).path_of(resource)?;
            addresses.account_of(&format!("{}{}", addresses.public_url, path.replace("%40", "@")))
        }
        "xmpp" => {
            let jid = read_bare_jid(&uri::XmppUri::parse(resource)?.jid)?;
            match addresses.whom(&jid)? {
                crate::domain::address::Whom::Local(name) => Some(name),
                _ => None,
            }
        }
        _ => addresses.account_of(resource),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_one_resource_that_is_an_address() {
        let good = |query: &str| Asked::read(query).map(|asked| asked.resource);
        assert_eq!(good("resource=acct%3Aalice%40example.org&rel=a&rel=b"), Ok("acct:alice@example.org".into()));
        assert_eq!(Asked::read("rel=a&resource=a%40b&rel=b").unwrap().rels, ["a", "b"]);
        for text in ["alice@example.org", "@alice@example.org", "https://a.example/@alice", "xmpp:a@b", "mailto:a@b"] {
            assert_eq!(good(&format!("resource={text}")).as_deref(), Ok(text));
        }
        for bad in
            ["", "resource=", "resource=alice", "resource=acct:", "resource=acct:alice", "resource=@", "resource=a@"]
        {
            assert!(Asked::read(bad).is_err(), "{bad}");
        }
        for bad in ["resource=a%40b&resource=a%40b", "resource=a%00%40b", "resource=https://", "resource=acct:@b"] {
            assert!(Asked::read(bad).is_err(), "{bad}");
        }
        assert!(Asked::read(&format!("resource=acct:{}@b", "a".repeat(3000))).is_err());
    }
}
