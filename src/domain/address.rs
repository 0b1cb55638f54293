//! Who can be addressed at the component, and the names that are allowed: one grammar for JIDs (XEP-0106), `acct:`
//! (RFC 7565) and pages. The classes of virtual JIDs are disjoint.

use std::fmt;

use jid::BareJid;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::base::jid::read_bare_jid;

/// The name of a local account: `alice`. 1 to 64 of `a-z 0-9 . _ -`, a letter or digit at both ends, not reserved.
///
/// ASCII only, since the same name stands in `acct:` addresses, which the web's peers read no wider.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LocalName(String);

/// Why a text is no name for a local account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name has 1 to 64 of the characters a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends")]
    Grammar,
    #[error("this name is reserved")]
    Reserved,
}

/// Names that would mislead people, or that we may need for ourselves.
const RESERVED: &[&str] = &[
    "abuse",
    "acct",
    "admin",
    "administrator",
    "all",
    "anonymous",
    "api",
    "bot",
    "everyone",
    "firehose",
    "help",
    "hostmaster",
    "hub",
    "info",
    "localhost",
    "mailer-daemon",
    "me",
    "moderator",
    "nobody",
    "noreply",
    "null",
    "operator",
    "owner",
    "postmaster",
    "public",
    "relay",
    "rookery",
    "root",
    "salmon",
    "security",
    "service",
    "settings",
    "staff",
    "support",
    "sysadmin",
    "system",
    "timeline",
    "undefined",
    "webmaster",
    "www",
];

/// Ends of names that no new account has: `/@alice.atom` is the feed of alice, and other forms of a page may come to
/// stand beside it.
const FORMS: &[&str] = &[".atom", ".html", ".json", ".rss", ".xml"];

impl LocalName {
    /// Reads a name; upper case is folded, as JIDs and `acct:` addresses do.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = text.to_ascii_lowercase();
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let fits = name.len() <= 64
            && edge(name.bytes().next())
            && edge(name.bytes().next_back())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
        if !fits {
            return Err(NameError::Grammar);
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(NameError::Reserved);
        }
        Ok(LocalName(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a new account may have this name: its page must not stand at the address of another's feed. An account
    /// from before this rule keeps its name.
    pub fn can_be_given(&self) -> bool {
        !FORMS.iter().any(|form| self.0.ends_with(form))
    }
}

impl fmt::Display for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom an address at the component means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whom {
    /// The component itself, `C`.
    Service,
    /// `alice@C`: a local account, or the name of one that may come to be.
    Local(LocalName),
    /// `bob\40gs.example@C`: the actor `bob@gs.example` of another network (XEP-0106).
    Remote { user: String, host: String },
    /// `feed~…`, `tw~…`, `guest~…`: made by us for what has no name of its own.
    Made { class: String, rest: String },
    /// A local part that can be nobody's.
    Nobody,
}

/// The addresses of this service and the canonical URLs made of them. URLs are stored when made, never recomputed for
/// what exists; this is where they are made.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `C`, the component's domain.
    pub component: BareJid,
    /// `https://P`, without a trailing slash.
    pub public_url: String,
    /// `P`, the authority of our tag: ids.
    pub public_host: String,
    /// `W`, the domain of `acct:` identities.
    pub acct_domain: String,
}

/// What must be escaped in one segment of a path (RFC 3986 §3.3: pchar).
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// `text` as one segment of a path; `.` and `..` are escaped as well, since servers and browsers resolve them.
pub fn path_segment(text: &str) -> String {
    match text {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => utf8_percent_encode(text, SEGMENT).to_string(),
    }
}

impl Addresses {
    /// `public_url` must have a host; its path, query and fragment are dropped.
    pub fn new(component: BareJid, public_url: &Url, acct_domain: &str) -> Self {
        let public_host = public_url.host_str().unwrap_or_default().to_owned();
        let public_url = public_url.origin().ascii_serialization();
        Addresses { component, public_url, public_host, acct_domain: acct_domain.to_ascii_lowercase() }
    }

    /// Whom the bare JID means; `None` if its domain is not ours.
    pub fn whom(&self, jid: &BareJid) -> Option<Whom> {
        if jid.domain() != self.component.domain() {
            return None;
        }
        let Some(local) = jid.node() else { return Some(Whom::Service) };
        let local = local.as_str();
        if let Some((class, rest)) = local.split_once('~') {
            return Some(match class {
                "feed" | "tw" | "guest" if !rest.is_empty() => {
                    Whom::Made { class: class.to_owned(), rest: rest.to_owned() }
                }
                _ => Whom::Nobody,
            });
        }
        if local.contains('\\') {
            return Some(match local.split_once("\\40") {
                Some((user, host)) if !user.is_empty() && !host.is_empty() && !host.contains('\\') => {
                    Whom::Remote { user: user.to_owned(), host: host.to_owned() }
                }
                _ => Whom::Nobody,
            });
        }
        Some(LocalName::parse(local).map_or(Whom::Nobody, Whom::Local))
    }

    /// `alice@C`.
    pub fn virtual_jid(&self, name: &LocalName) -> BareJid {
        // A local name is within the grammar of local parts: this cannot fail, and if it did the service would answer.
        read_bare_jid(&format!("{name}@{}", self.component.domain())).unwrap_or_else(|| self.component.clone())
    }

    /// `acct:alice@W`.
    pub fn acct(&self, name: &LocalName) -> String {
        format!("acct:{name}@{}", self.acct_domain)
    }

    /// `https://P/@alice`.
    pub fn profile_url(&self, name: &LocalName) -> String {
        format!("{}/@{name}", self.public_url)
    }

    /// `https://P/@alice.atom`.
    pub fn feed_url(&self, name: &LocalName) -> String {
        format!("{}/@{name}.atom", self.public_url)
    }

    /// `https://P/@alice/<item id>`.
    pub fn permalink(&self, name: &LocalName, item: &str) -> String {
        format!("{}/@{name}/{}", self.public_url, path_segment(item))
    }

    /// `https://P/hub`.
    pub fn hub_url(&self) -> String {
        format!("{}/hub", self.public_url)
    }

    /// `tag:P,<day>:<kind>:<unique>` (RFC 4151). `unique` is ours, of token characters.
    pub fn tag(&self, day: &str, kind: &str, unique: &str) -> String {
        format!("tag:{},{day}:{kind}:{unique}", self.public_host)
    }

    /// The account meant by `acct:alice@W`, with or without the scheme, or by one of its pages' URLs.
    pub fn account_of(&self, resource: &str) -> Option<LocalName> {
        if let Some(path) = resource.strip_prefix(&self.public_url) {
            let name = path.strip_prefix("/@")?;
            let name = name.strip_suffix(".atom").unwrap_or(name).trim_end_matches('/');
            return LocalName::parse(name).ok();
        }
        let acct = resource.strip_prefix("acct:").unwrap_or(resource);
        let acct = acct.strip_prefix('@').unwrap_or(acct);
        let (name, host) = acct.split_once('@')?;
        let host = host.to_ascii_lowercase();
        // `C` is accepted too: people type the Jabber address they see.
        (host == self.acct_domain || host == self.component.domain().as_str())
            .then(|| LocalName::parse(name).ok())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours() -> Addresses {
        Addresses::new(
            BareJid::new("social.example.org").unwrap(),
            &Url::parse("https://social.example.org/").unwrap(),
            "example.org",
        )
    }

    fn whom(jid: &str) -> Option<Whom> {
        ours().whom(&BareJid::new(jid).unwrap())
    }

    #[test]
    fn each_local_part_is_in_one_class() {
        assert_eq!(whom("social.example.org"), Some(Whom::Service));
        assert_eq!(whom("alice@social.example.org"), Some(Whom::Local(LocalName("alice".into()))));
        assert_eq!(
            whom("bob\\40gs.example@social.example.org"),
            Some(Whom::Remote { user: "bob".into(), host: "gs.example".into() })
        );
        assert_eq!(whom("tw~12@social.example.org"), Some(Whom::Made { class: "tw".into(), rest: "12".into() }));
        assert_eq!(whom("odd~12@social.example.org"), Some(Whom::Nobody));
        assert_eq!(whom("admin@social.example.org"), Some(Whom::Nobody));
        assert_eq!(whom("alice@example.org"), None);
    }

    #[test]
    fn no_name_is_given_whose_page_would_be_anothers_feed() {
        for name in ["alice.atom", "Alice.ATOM", "a.atom.atom", "alice.json"] {
            assert!(!LocalName::parse(name).unwrap().can_be_given(), "{name}");
        }
        for name in ["alice", "atom", "alice.atomic", "atom.alice", "alice-atom"] {
            assert!(LocalName::parse(name).unwrap().can_be_given(), "{name}");
        }
        let alice = LocalName("alice".into());
        let page = ours().profile_url(&LocalName::parse("alice.atom").unwrap());
        assert_eq!((&page, ours().account_of(&page)), (&ours().feed_url(&alice), Some(alice)));
    }

    #[test]
    fn an_account_is_found_under_each_of_its_addresses() {
        let alice = Some(LocalName("alice".into()));
        for resource in [
            "acct:alice@example.org",
            "alice@example.org",
            "@alice@example.org",
            "acct:alice@social.example.org",
            "https://social.example.org/@alice",
            "https://social.example.org/@alice/",
            "https://social.example.org/@alice.atom",
        ] {
            assert_eq!(ours().account_of(resource), alice, "{resource}");
        }
        for resource in ["acct:alice@elsewhere.example", "https://elsewhere.example/@alice", "alice", ""] {
            assert_eq!(ours().account_of(resource), None, "{resource}");
        }
    }

    proptest! {
        #[test]
        fn a_name_reads_as_itself_and_its_jid_means_it(text in "[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?") {
            if let Ok(name) = LocalName::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
                let jid = ours().virtual_jid(&name);
                prop_assert_eq!(ours().whom(&jid), Some(Whom::Local(name.clone())));
                prop_assert_eq!(ours().account_of(&ours().acct(&name)), Some(name));
            }
        }

        #[test]
        fn no_text_is_a_name_and_of_another_class(text in "\\PC{1,40}") {
            if LocalName::parse(&text).is_ok() {
                prop_assert!(!text.contains(['\\', '~', '@', '/']));
            }
        }

        #[test]
        fn a_path_segment_stays_one_segment(text in "\\PC{1,40}") {
            let url = Url::parse(&format!("https://p.example/@a/{}", path_segment(&text))).unwrap();
            prop_assert_eq!(url.path_segments().unwrap().count(), 2);
            prop_assert!(url.query().is_none() && url.fragment().is_none());
        }
    }
}
