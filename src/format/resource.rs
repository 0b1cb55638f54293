//! What WebFinger and host-meta say about a resource, whichever the notation (RFC 7033 §4.4, RFC 6415, XRD 1.0).

/// A resource descriptor. A host-meta document is one without a subject.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resource {
    pub subject: Option<String>,
    pub aliases: Vec<String>,
    /// Type IRI and value; `None` is JRD's `null` and XRD's `xsi:nil`.
    pub properties: Vec<(String, Option<String>)>,
    /// In order of preference.
    pub links: Vec<Link>,
}

/// One link of a descriptor; it has an `href` or a `template`, not both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    pub rel: String,
    pub media_type: Option<String>,
    pub href: Option<String>,
    /// With `{uri}` in it (RFC 6415 §4.2).
    pub template: Option<String>,
    /// Language (`und` where none is known) and text.
    pub titles: Vec<(String, String)>,
    pub properties: Vec<(String, Option<String>)>,
}

/// Bytes of a descriptor that are read.
pub const MAX_BYTES: usize = 256 * 1024;
/// Links, aliases, properties and titles that are read of each kind; more are passed over.
pub const MAX_EACH: usize = 256;

/// Why a descriptor cannot be read. None is temporary.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResourceError {
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("not a JSON resource descriptor: {0}")]
    Json(String),
    #[error("not an XRD: {0}")]
    Xml(String),
}

impl Resource {
    /// The first link of this relation.
    pub fn link(&self, rel: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.rel == rel)
    }

    /// The first link of this relation and media type.
    pub fn link_of_type(&self, rel: &str, media_type: &str) -> Option<&Link> {
        let typed = |l: &&Link| l.media_type.as_deref().is_some_and(|t| t.eq_ignore_ascii_case(media_type));
        self.links.iter().filter(|l| l.rel == rel).find(typed)
    }

    /// Only the links whose relation is among `rels` (RFC 7033 §4.3); all of them if `rels` is empty.
    pub fn with_rels(mut self, rels: &[String]) -> Self {
        if !rels.is_empty() {
            self.links.retain(|l| rels.contains(&l.rel));
        }
        self
    }
}

impl Link {
    pub fn new(rel: &str, media_type: Option<&str>, href: impl Into<String>) -> Self {
        let media_type = media_type.map(str::to_owned);
        Link { rel: rel.to_owned(), media_type, href: Some(href.into()), ..Link::default() }
    }

    pub fn template(rel: &str, media_type: Option<&str>, template: impl Into<String>) -> Self {
        let media_type = media_type.map(str::to_owned);
        Link { rel: rel.to_owned(), media_type, template: Some(template.into()), ..Link::default() }
    }

    /// The address for `resource`: the `href`, or the template with `{uri}` replaced, percent-encoded (RFC 6415 §4.2).
    pub fn address_for(&self, resource: &str) -> Option<String> {
        if let Some(href) = &self.href {
            return Some(href.clone());
        }
        let encoded = percent_encoding::utf8_percent_encode(resource, percent_encoding::NON_ALPHANUMERIC).to_string();
        self.template.as_ref().filter(|t| t.contains("{uri}")).map(|t| t.replace("{uri}", &encoded))
    }
}

/// Strategies for the property tests of both notations.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use proptest::prelude::*;

    /// Resources whose strings hold only what XML can carry, with white space that XRD keeps.
    pub(crate) fn resource() -> impl Strategy<Value = Resource> {
        let word = || "[^\\p{C}\\p{Z}]{1,12}";
        let properties = || proptest::collection::btree_map(word(), proptest::option::of(word()), 0..3);
        let titles = proptest::collection::btree_map("[a-z]{2,3}", word(), 0..3);
        let link = (word(), proptest::option::of(word()), word(), any::<bool>(), titles, properties()).prop_map(
            |(rel, media_type, address, template, titles, properties)| Link {
                rel,
                media_type,
                href: (!template).then(|| address.clone()),
                template: template.then_some(address),
                titles: titles.into_iter().collect(),
                properties: properties.into_iter().collect(),
            },
        );
        (
            proptest::option::of(word()),
            proptest::collection::vec(word(), 0..4),
            properties(),
            proptest::collection::vec(link, 0..5),
        )
            .prop_map(|(subject, aliases, properties, links)| Resource {
                subject,
                aliases,
                properties: properties.into_iter().collect(),
                links,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_the_resource_percent_encoded() {
        let link = Link::template("lrdd", None, "https://gs.example/wf?resource={uri}");
        let asked = link.address_for("acct:bob@gs.example");
        assert_eq!(asked.as_deref(), Some("https://gs.example/wf?resource=acct%3Abob%40gs%2Eexample"));
        assert_eq!(Link::template("lrdd", None, "https://gs.example/wf").address_for("acct:x"), None);
    }

    #[test]
    fn asking_for_relations_keeps_only_those() {
        let links = vec![Link::new("self", None, "a"), Link::new("hub", None, "b")];
        let resource = Resource { links, ..Resource::default() };
        assert_eq!(resource.clone().with_rels(&[]).links.len(), 2);
        assert_eq!(resource.with_rels(&["hub".to_owned()]).links, [Link::new("hub", None, "b")]);
    }
}
