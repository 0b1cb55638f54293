//! `xmpp:` URIs of PubSub nodes and items (RFC 5122, XEP-0060 §12.21, XEP-0277), and `tag:` URIs (RFC 4151).

use std::fmt::Write;

use percent_encoding::percent_decode_str;

use crate::base::clock::Timestamp;

/// What an `xmpp:` URI points at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct XmppUri {
    /// The JID as text, XEP-0106 escapes kept.
    pub jid: String,
    /// `subscribe`, `retrieve` and the like, if the URI asks for something.
    pub action: Option<String>,
    pub node: Option<String>,
    pub item: Option<String>,
}

/// `xmpp:jid`: how an author is named. `jid` is bare.
pub fn xmpp(jid: &str) -> String {
    let mut out = "xmpp:".to_owned();
    push_jid(&mut out, jid);
    out
}

/// `xmpp:jid?;node=…`.
pub fn xmpp_node(jid: &str, node: &str) -> String {
    let mut out = xmpp(jid);
    out.push_str("?;node=");
    push_value(&mut out, node);
    out
}

/// `xmpp:jid?;node=…;item=…`.
pub fn xmpp_item(jid: &str, node: &str, item: &str) -> String {
    let mut out = xmpp_node(jid, node);
    out.push_str(";item=");
    push_value(&mut out, item);
    out
}

impl XmppUri {
    /// Reads both ways in which the query is written: percent-encoded as RFC 5122 wants, and bare as Movim writes it. White space
    /// inside, as XEP-0277 prints it, is passed over. `None` for what is not an `xmpp:` URI with a JID.
    pub fn parse(uri: &str) -> Option<Self> {
        if uri.len() > 8 * 1024 {
            return None;
        }
        let uri: String = uri.chars().filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\r')).collect();
        let (scheme, rest) = uri.split_once(':')?;
        if !scheme.eq_ignore_ascii_case("xmpp") {
            return None;
        }
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        // With an authority (`xmpp://account@host/jid`) the JID is what follows it.
        let path = match path.strip_prefix("//") {
            Some(authority) => authority.split_once('/').map_or(authority, |(_, jid)| jid),
            None => path,
        };
        let mut read = XmppUri { jid: decode(path)?, ..XmppUri::default() };
        if read.jid.is_empty() {
            return None;
        }
        for pair in query.split(';') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            let field = match key {
                "node" => &mut read.node,
                "item" => &mut read.item,
                "action" => &mut read.action,
                _ => continue,
            };
            if field.is_none() {
                *field = Some(decode(value)?);
            }
        }
        Some(read)
    }

    /// The same in our spelling.
    pub fn write(&self) -> String {
        let mut out = xmpp(&self.jid);
        if let Some(action) = &self.action {
            out.push_str("?pubsub;action=");
            push_value(&mut out, action);
        } else if self.node.is_some() || self.item.is_some() {
            out.push('?');
        }
        for (key, value) in [(";node=", &self.node), (";item=", &self.item)] {
            if let Some(value) = value {
                out.push_str(key);
                push_value(&mut out, value);
            }
        }
        out
    }
}

/// A `tag:` URI: `host` is the authority without port (RFC 4151 §2.1 has none), the day is that of the first publication, so that
/// it stays when the entry is edited. `specific` must be unique for host and day.
pub fn tag(host: &str, day: Timestamp, specific: &str) -> String {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let mut out = format!("tag:{},{}:", host.to_ascii_lowercase(), day.day());
    push_value(&mut out, specific);
    out
}

/// Who may give such an id: the host of an http(s) URL or `tag:` URI, the domain of an `acct:`, `mailto:` or `xmpp:` one; lower case,
/// without port. `None` for an id that names nobody (`urn:uuid:`, a bare word).
pub fn authority(id: &str) -> Option<String> {
    let (scheme, rest) = id.split_once(':')?;
    let host = match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => url::Url::parse(id).ok()?.host_str()?.to_owned(),
        "tag" => {
            let (name, _) = rest.split_once(',')?;
            let name = name.rsplit_once('@').map_or(name, |(_, host)| host);
            // GNU social writes a port here, against RFC 4151.
            name.split_once(':').map_or(name, |(host, _)| host).to_owned()
        }
        "acct" | "mailto" => rest.rsplit_once('@')?.1.split(['?', ':']).next()?.to_owned(),
        "xmpp" => {
            let jid = XmppUri::parse(id)?.jid;
            let bare = jid.split_once('/').map_or(jid.as_str(), |(bare, _)| bare);
            bare.rsplit_once('@').map_or(bare, |(_, host)| host).to_owned()
        }
        _ => return None,
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Percent-decodes; what is not a whole `%XX` stays. `None` if the bytes are no UTF-8 or hold a control character.
fn decode(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    (!text.contains(char::is_control)).then(|| text.into_owned())
}

/// A JID in a URI: the `\` of XEP-0106 must be escaped, and everything that ends the path.
fn push_jid(out: &mut String, jid: &str) {
    push_escaped(out, jid, b"-._~@!$()*,:/[]");
}

/// A value in the query. `:` `/` `@` may stand there (RFC 3986 §3.4) and stay, so that Movim, which does not decode, can read it;
/// `+` goes, because some decoders take it for a space.
fn push_value(out: &mut String, value: &str) {
    push_escaped(out, value, b"-._~:/@!$()*,");
}

fn push_escaped(out: &mut String, text: &str, plain: &[u8]) {
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || plain.contains(&b) {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_is_readable_by_rfc_readers_and_by_movim() {
        assert_eq!(
            xmpp_item("alice@social.example", "urn:xmpp:microblog:0", "a&b;c d"),
            "xmpp:alice@social.example?;node=urn:xmpp:microblog:0;item=a%26b%3Bc%20d"
        );
        assert_eq!(xmpp(r"bob\40gs.example@social.example"), "xmpp:bob%5C40gs.example@social.example");
    }

    #[test]
    fn both_spellings_are_read() {
        let wanted = XmppUri {
            jid: "romeo@montague.lit".into(),
            action: None,
            node: Some("urn:xmpp:microblog:0:comments/x".into()),
            item: Some("i".into()),
        };
        for uri in [
            "xmpp:romeo@montague.lit?;node=urn%3Axmpp%3Amicroblog%3A0%3Acomments%2Fx;item=i",
            "xmpp:romeo@montague.lit?;node=urn:xmpp:microblog:0:comments/x;item=i",
            "XMPP:romeo@montague.lit?;\n   node=urn%3axmpp%3amicroblog%3a0%3acomments%2fx;\n   item=i",
        ] {
            assert_eq!(XmppUri::parse(uri).as_ref(), Some(&wanted), "{uri}");
        }
        let retrieve = XmppUri::parse("xmpp:pubsub.example?pubsub;action=retrieve;node=a").unwrap();
        assert_eq!((retrieve.action.as_deref(), retrieve.node.as_deref()), (Some("retrieve"), Some("a")));
        for bad in ["http://x", "xmpp:", "xmpp:a@b?;node=%ff", "xmpp:a@b?;node=%00", "xmpp"] {
            assert_eq!(XmppUri::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tag_has_no_port_and_the_day_of_first_publication() {
        let day = Timestamp::from_secs(1_795_320_124);
        assert_eq!(tag("Social.example:8080", day, "alice/abc"), "tag:social.example,2026-11-22:alice/abc");
    }

    #[test]
    fn an_authority_is_a_host_without_port() {
        for (id, host) in [
            ("http://user@GS.example:8080/notice/1", Some("gs.example")),
            ("tag:127.0.0.1:21081,2026-11-22:noticeId=8:objectType=note", Some("127.0.0.1")),
            ("tag:mail@gs.example,2020:x", Some("gs.example")),
            ("acct:bob@gs.example", Some("gs.example")),
            ("xmpp:bob@gs.example/r?;node=x", Some("gs.example")),
            ("urn:uuid:1", None),
            ("1cb57d9c", None),
            ("tag:nothing", None),
        ] {
            assert_eq!(authority(id).as_deref(), host, "{id}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            jid in "[a-zé\\\\0-9]{1,8}@[a-z]{1,8}\\.example",
            node in "[^\\p{C}]{1,40}",
            item in proptest::option::of("[^\\p{C}]{1,40}"),
        ) {
            let uri = XmppUri { jid, action: None, node: Some(node), item };
            let text = uri.write();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(XmppUri::parse(&text), Some(uri));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in "\\PC{0,80}") {
            let _ = XmppUri::parse(&text);
            let _ = XmppUri::parse(&format!("xmpp:{text}"));
            let _ = authority(&text);
            let _ = authority(&format!("tag:{text}"));
        }
    }
}
