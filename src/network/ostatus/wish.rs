//! What a subscriber asks the hub for, as it stands in the form (WebSub §5.1, PuSH 0.4 §5.1, PuSH 0.3 §6.1).

use std::collections::HashMap;

use axum::http::{HeaderValue, StatusCode};
use url::Url;

use crate::domain::address::{Addresses, LocalName};
use crate::domain::hub::{Digest, Intent, LEASE_DEFAULT, LEASE_LEAST, LEASE_MOST, Mode};

const MAX_URL: usize = 2048;
/// WebSub §5.1: a secret has fewer bytes.
const SECRET_LIMIT: usize = 200;
const MAX_TOKEN: usize = 1024;
/// OStatus software of the years before WebSub, as its User-Agent begins or says.
const OSTATUS_PEERS: &[&str] =
    &["gnu social", "gnusocial", "statusnet", "mastodon", "friendica", "hubzilla", "postactiv"];

pub(super) const NO_TOPIC: &str = "hub.topic is not the address of a public feed here: use its link rel=self";

/// What a request asks for.
#[derive(Debug)]
pub enum Wish {
    /// A publisher's ping (PuSH 0.3 §7.1).
    Publish,
    /// The intent has no challenge yet.
    Ask { name: LocalName, intent: Box<Intent>, callback: Url },
}

/// Why it cannot be had, in words for the person who writes a subscriber.
#[derive(Debug)]
pub struct Wrong {
    pub status: StatusCode,
    pub words: &'static str,
}

fn bad(words: &'static str) -> Wrong {
    Wrong { status: StatusCode::BAD_REQUEST, words }
}

impl Wish {
    /// Reads a form. Parameters that are not known are passed over (WebSub §5.1); of those given twice the first counts.
    pub fn read(body: &[u8], agent: Option<&HeaderValue>, addresses: &Addresses) -> Result<Self, Wrong> {
        let mut given: HashMap<String, String> = HashMap::new();
        for (key, value) in url::form_urlencoded::parse(body) {
            given.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        let get = |key: &str| given.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
        let mode = match get("hub.mode").ok_or_else(|| bad("hub.mode is missing"))? {
            "publish" => return Ok(Wish::Publish),
            "subscribe" => Mode::Subscribe,
            "unsubscribe" => Mode::Unsubscribe,
            _ => return Err(bad("hub.mode is neither subscribe nor unsubscribe nor publish")),
        };
        let callback = callback(get("hub.callback").ok_or_else(|| bad("hub.callback is missing"))?)?;
        let topic = get("hub.topic").ok_or_else(|| bad("hub.topic is missing"))?;
        let name = account_of(topic, addresses).ok_or(Wrong { status: StatusCode::NOT_FOUND, words: NO_TOPIC })?;
        // A secret is bytes: what stands at its ends belongs to it.
        let secret = given.get("hub.secret").filter(|secret| !secret.is_empty());
        if secret.is_some_and(|secret| secret.len() >= SECRET_LIMIT) {
            return Err(bad("hub.secret has 200 bytes or more"));
        }
        let verify_token = given.get("hub.verify_token");
        if verify_token.is_some_and(|token| token.len() > MAX_TOKEN) {
            return Err(bad("hub.verify_token is too long"));
        }
        let old = given.contains_key("hub.verify") || verify_token.is_some() || agent.is_some_and(is_ostatus_peer);
        let intent = Box::new(Intent {
            mode,
            // As the subscriber wrote it, which compares it with what it asked for (WebSub §5.3).
            topic: topic.to_owned(),
            callback: callback.to_string(),
            secret: secret.cloned(),
            lease_seconds: lease(get("hub.lease_seconds")),
            challenge: String::new(),
            verify_token: verify_token.cloned(),
            digest: if old { Digest::Sha1 } else { Digest::Sha256 },
        });
        Ok(Wish::Ask { name, intent, callback })
    }
}

fn callback(text: &str) -> Result<Url, Wrong> {
    if text.len() > MAX_URL {
        return Err(bad("hub.callback is too long"));
    }
    let url = Url::parse(text).map_err(|_| bad("hub.callback is not a URL"))?;
    match url {
        _ if !matches!(url.scheme(), "http" | "https") => Err(bad("hub.callback is neither http nor https")),
        // RFC 9110 §4.2.5: a fragment is never sent, so it cannot tell callbacks apart.
        _ if url.fragment().is_some() => Err(bad("hub.callback has a fragment")),
        _ if url.as_str().len() > MAX_URL => Err(bad("hub.callback is too long")),
        url => Ok(url),
    }
}

/// The account whose feed `topic` is, in any spelling of the same URL; not its pages of older posts.
fn account_of(topic: &str, addresses: &Addresses) -> Option<LocalName> {
    if topic.len() > MAX_URL {
        return None;
    }
    let topic = Url::parse(topic).ok()?;
    let name = addresses.account_of(topic.as_str())?;
    (topic.as_str() == addresses.feed_url(&name)).then_some(name)
}

/// What is granted for what was asked. COMPAT: nothing, zero and what is no number mean "as long as you like" in PuSH 0.3.
fn lease(asked: Option<&str>) -> u64 {
    match asked.and_then(|text| text.parse::<u64>().ok()) {
        None | Some(0) => LEASE_DEFAULT,
        Some(seconds) => seconds.clamp(LEASE_LEAST, LEASE_MOST),
    }
}

fn is_ostatus_peer(agent: &HeaderValue) -> bool {
    let agent = agent.to_str().unwrap_or_default().to_ascii_lowercase();
    OSTATUS_PEERS.iter().any(|peer| agent.contains(peer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jid::BareJid;

    fn addresses() -> Addresses {
        let public = Url::parse("https://social.example.org/").unwrap();
        Addresses::new(BareJid::new("social.example.org").unwrap(), &public, "example.org")
    }

    fn read(more: &[(&str, &str)]) -> Result<Wish, Wrong> {
        read_as(more, None)
    }

    fn read_as(more: &[(&str, &str)], agent: Option<&'static str>) -> Result<Wish, Wrong> {
        let base = [
            ("hub.mode", "subscribe"),
            ("hub.topic", "https://social.example.org/@alice.atom"),
            ("hub.callback", "https://reader.example/cb"),
        ];
        let base = base.iter().filter(|(key, _)| !more.iter().any(|(other, _)| other == key));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(base.chain(more)).finish();
        Wish::read(body.as_bytes(), agent.map(HeaderValue::from_static).as_ref(), &addresses())
    }

    fn intent(wish: Result<Wish, Wrong>) -> Intent {
        match wish.unwrap() {
            Wish::Ask { intent, .. } => *intent,
            Wish::Publish => panic!("a ping"),
        }
    }

    #[test]
    fn a_request_of_each_age_is_understood() {
        let websub = intent(read(&[("hub.foo", "bar"), ("hub.secret", " s ")]));
        assert_eq!((websub.digest, websub.lease_seconds), (Digest::Sha256, LEASE_DEFAULT));
        assert_eq!((websub.secret.as_deref(), websub.verify_token), (Some(" s "), None));
        assert_eq!(intent(read(&[("hub.verify", "sync"), ("hub.verify", "async")])).digest, Digest::Sha1);
        let push03 = intent(read(&[("hub.verify_token", "")]));
        assert_eq!((push03.digest, push03.verify_token.as_deref()), (Digest::Sha1, Some("")));
        let by_name = |agent| intent(read_as(&[], Some(agent))).digest;
        assert_eq!(by_name("http.rb/3.0.0 (Mastodon/2.4.0; +https://m.example/)"), Digest::Sha1);
        assert_eq!(by_name("GNU social 1.2"), Digest::Sha1);
        assert_eq!(by_name("reader/1"), Digest::Sha256);
        assert!(matches!(read(&[("hub.mode", "publish"), ("hub.callback", "")]), Ok(Wish::Publish)));
    }

    #[test]
    fn a_lease_is_granted_within_bounds() {
        for (asked, granted) in [
            ("", LEASE_DEFAULT),
            ("0", LEASE_DEFAULT),
            ("-5", LEASE_DEFAULT),
            ("soon", LEASE_DEFAULT),
            ("1", LEASE_LEAST),
            ("86400", 86_400),
            ("999999999999", LEASE_MOST),
        ] {
            assert_eq!(intent(read(&[("hub.lease_seconds", asked)])).lease_seconds, granted, "{asked}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = format!("https://reader.example/{}", "x".repeat(MAX_URL));
        let table: &[(&str, &str, &str)] = &[
            ("hub.mode", "", "hub.mode is missing"),
            ("hub.mode", "denied", "neither subscribe"),
            ("hub.callback", "", "hub.callback is missing"),
            ("hub.callback", "reader.example", "not a URL"),
            ("hub.callback", "ftp://reader.example/", "neither http"),
            ("hub.callback", "https://reader.example/#x", "fragment"),
            ("hub.callback", &long, "too long"),
            ("hub.topic", "", "hub.topic is missing"),
            ("hub.topic", "https://social.example.org/@alice", "rel=self"),
            ("hub.topic", "https://social.example.org/@alice.atom?before=3", "rel=self"),
            ("hub.topic", "https://social.example.org.evil.example/@alice.atom", "rel=self"),
            ("hub.topic", "https://social.example.org/@Alice.atom", "rel=self"),
            ("hub.secret", &"s".repeat(200), "200 bytes"),
            ("hub.verify_token", &"t".repeat(2000), "too long"),
        ];
        for (key, value, words) in table {
            let wrong = read(&[(key, value)]).unwrap_err();
            assert!(wrong.words.contains(words), "{key}={value}: {}", wrong.words);
        }
        assert!(read(&[("hub.secret", &"s".repeat(199))]).is_ok());
        assert!(read(&[("hub.topic", "HTTPS://Social.example.org:443/@alice.atom")]).is_ok());
    }
}
