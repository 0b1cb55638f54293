//! What WebFinger is asked (RFC 7033 §4.1): the query read, and whose account its resource is.

use crate::base::jid::read_bare_jid;
use crate::domain::address::{Addresses, LocalName, Whom};
use crate::format::uri;
use crate::http::forwarded::Canonical;

/// The longest `resource` that is looked at, in bytes.
const MAX_RESOURCE: usize = 2048;

/// A request (RFC 7033 §4.1).
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub resource: String,
    pub rels: Vec<String>,
}

impl Asked {
    /// RFC 7033 §4.2: without `resource`, or with a malformed one, the request is bad.
    pub fn read(query: &str) -> Result<Self, &'static str> {
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
pub fn account_of(addresses: &Addresses, resource: &str) -> Option<LocalName> {
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
                Whom::Local(name) => Some(name),
                _ => None,
            }
        }
        _ => addresses.account_of(resource),
    }
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
