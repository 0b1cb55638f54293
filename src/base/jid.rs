//! The one door by which addresses come in (RFC 7622): from stanzas, forms, commands, the configuration, and our own keys.

use std::borrow::Cow;

use jid::{BareJid, Jid};

/// Reads an address. `None` also for one whose canonical form would not read as itself again: `ß` forty times is a label
/// that IDNA maps to a short one, its canonical form has eighty bytes and is too long for a label. What we store is read
/// again, and must not fail then.
pub fn read_jid(text: &str) -> Option<Jid> {
    // RFC 7622 §3.2: the root's dot is stripped.
    let (bare, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    let text = match bare.strip_suffix('.') {
        Some(bare) if bare.ends_with('.') => return None,
        Some(bare) => Cow::Owned(format!("{bare}{rest}")),
        None => Cow::Borrowed(text),
    };
    let jid = Jid::new(&text).ok()?;
    // What reads as it was written needs no second look.
    let lasts = jid.as_str() == text || Jid::new(jid.as_str()).is_ok_and(|again| parts(&again) == parts(&jid));
    lasts.then_some(jid)
}

/// Reads an address without a resource; as [`read_jid`].
pub fn read_bare_jid(text: &str) -> Option<BareJid> {
    read_jid(text)?.try_into().ok()
}

fn parts(jid: &Jid) -> [Option<&str>; 3] {
    [
        jid.node().map(|node| node.as_str()),
        Some(jid.domain().as_str()),
        jid.resource().map(|resource| resource.as_str()),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_whose_canonical_form_is_none_is_refused() {
        let long = format!("x@{}.example", "ß".repeat(40));
        assert!(Jid::new(&long).is_ok_and(|jid| Jid::new(jid.as_str()).is_err()), "the library has changed");
        assert_eq!((read_jid(&long), read_bare_jid(&long)), (None, None));
        assert_eq!(read_jid(&format!("{long}/r")), None);
    }

    #[test]
    fn addresses_are_read_in_their_canonical_form() {
        for (text, canonical) in [
            ("romeo@example.net", "romeo@example.net"),
            ("Romeo@Example.NET/Orchard", "romeo@example.net/Orchard"),
            ("romeo@example.net.", "romeo@example.net"),
            ("romeo@example.net./a.", "romeo@example.net/a."),
            ("Straße@example.net", "strasse@example.net"),
            ("c.example//x", "c.example//x"),
        ] {
            let jid = read_jid(text).unwrap_or_else(|| panic!("{text} is no address"));
            assert_eq!((jid.as_str(), jid.to_bare().as_str()), (canonical, canonical.split('/').next().unwrap()));
        }
        for text in ["", "@example.net", "romeo@", "romeo@example.net..", "a@b@c", "romeo@example.net/"] {
            assert_eq!(read_jid(text), None, "{text}");
        }
        assert_eq!(read_bare_jid("romeo@example.net/orchard"), None);
    }

    proptest! {
        #[test]
        fn what_was_read_reads_as_itself_again_also_without_its_resource(
            text in "([A-Za-zßŉǰΐİſẞﬀ⅓①㎑Ａ\\PC]{1,12}@)?[A-Za-z0-9ßŉǰİſẞﬀ①㎑．。.-]{1,70}(/[\\PC]{1,8})?"
        ) {
            if let Some(jid) = read_jid(&text) {
                prop_assert_eq!(read_jid(jid.as_str()), Some(jid.clone()));
                prop_assert_eq!(read_bare_jid(jid.to_bare().as_str()), Some(jid.to_bare()));
                let row: Jid = rmp_serde::from_slice(&rmp_serde::to_vec(&jid).unwrap()).unwrap();
                prop_assert_eq!(parts(&row), parts(&jid));
            }
        }
    }
}
