//! JSON resource descriptors: WebFinger answers (RFC 7033 §4.4) and host-meta.json (RFC 6415 §3).

use serde_json::{Map, Value};

use super::resource::{Link, MAX_BYTES, MAX_EACH, Resource, ResourceError};

pub const MEDIA_TYPE: &str = "application/jrd+json";

/// Writes a descriptor. Members that would be empty are left out.
pub fn write(resource: &Resource) -> String {
    let mut jrd = Map::new();
    if let Some(subject) = &resource.subject {
        jrd.insert("subject".to_owned(), subject.as_str().into());
    }
    if !resource.aliases.is_empty() {
        jrd.insert("aliases".to_owned(), resource.aliases.clone().into());
    }
    insert_properties(&mut jrd, &resource.properties);
    if !resource.links.is_empty() {
        jrd.insert("links".to_owned(), resource.links.iter().map(write_link).collect());
    }
    Value::Object(jrd).to_string()
}

/// Reads a descriptor, passing over members of a wrong type: only what is no JSON object at all is an error.
pub fn read(bytes: &[u8]) -> Result<Resource, ResourceError> {
    if bytes.len() > MAX_BYTES {
        return Err(ResourceError::TooLong);
    }
    // serde_json stops at 128 levels by itself.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let value: Value = serde_json::from_slice(bytes).map_err(|e| ResourceError::Json(e.to_string()))?;
    let Value::Object(jrd) = value else { return Err(ResourceError::Json("not an object".to_owned())) };
    Ok(Resource {
        subject: text(&jrd, "subject"),
        aliases: list(&jrd, "aliases").filter_map(Value::as_str).map(str::to_owned).collect(),
        properties: properties(&jrd),
        links: list(&jrd, "links").filter_map(read_link).collect(),
    })
}

fn write_link(link: &Link) -> Value {
    let mut out = Map::new();
    let mut insert = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value.as_str().into());
        }
    };
    insert("rel", &Some(link.rel.clone()));
    insert("type", &link.media_type);
    insert("href", &link.href);
    insert("template", &link.template);
    if !link.titles.is_empty() {
        let titles: Map<String, Value> = link.titles.iter().map(|(l, t)| (l.clone(), t.as_str().into())).collect();
        out.insert("titles".to_owned(), titles.into());
    }
    insert_properties(&mut out, &link.properties);
    out.into()
}

fn insert_properties(out: &mut Map<String, Value>, properties: &[(String, Option<String>)]) {
    if !properties.is_empty() {
        let all: Map<String, Value> =
            properties.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        out.insert("properties".to_owned(), all.into());
    }
}

fn read_link(value: &Value) -> Option<Link> {
    let link = value.as_object()?;
    Some(Link {
        rel: text(link, "rel").filter(|rel| !rel.is_empty())?,
        media_type: text(link, "type"),
        href: text(link, "href"),
        template: text(link, "template"),
        titles: members(link, "titles").filter_map(|(l, t)| Some((l.clone(), t.as_str()?.to_owned()))).collect(),
        properties: properties(link),
    })
}

/// RFC 7033 §4.4.3: a value is a string or null.
fn properties(of: &Map<String, Value>) -> Vec<(String, Option<String>)> {
    let good = members(of, "properties").filter(|(_, value)| value.is_string() || value.is_null());
    good.map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned))).collect()
}

fn text(of: &Map<String, Value>, name: &str) -> Option<String> {
    of.get(name)?.as_str().map(str::to_owned)
}

fn list<'a>(of: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Value> {
    of.get(name).and_then(Value::as_array).into_iter().flatten().take(MAX_EACH)
}

fn members<'a>(of: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    of.get(name).and_then(Value::as_object).into_iter().flatten().take(MAX_EACH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::resource::testing;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_escaped_and_come_back() {
        let resource = Resource { subject: Some("acct:a\u{0}\u{1f}\"\\\u{2028}@x".into()), ..Resource::default() };
        let text = write(&resource);
        assert!(!text.contains(|c: char| c.is_control()));
        assert_eq!(read(text.as_bytes()), Ok(resource));
    }

    #[test]
    fn members_of_a_wrong_type_are_passed_over() {
        let text = r#"{"subject":7,"aliases":["a",1,null],"properties":{"p":null,"q":"v","r":[]},"links":[{"rel":"self","href":"h","type":3},{"href":"norel"},"x",{"rel":"lrdd","template":"t{uri}","titles":{"en":"T","de":1}}],"expires":"2020"}"#;
        let read = read(text.as_bytes()).unwrap();
        assert_eq!(read.subject, None);
        assert_eq!(read.aliases, ["a"]);
        assert_eq!(read.properties, [("p".to_owned(), None), ("q".to_owned(), Some("v".to_owned()))]);
        assert_eq!(read.links.len(), 2);
        assert_eq!(read.links[1].titles, [("en".to_owned(), "T".to_owned())]);
    }

    #[test]
    fn what_is_too_long_too_deep_or_no_object_is_refused() {
        assert_eq!(read(&vec![b' '; MAX_BYTES + 1]), Err(ResourceError::TooLong));
        for bad in ["[".repeat(200_000), format!("{{\"links\":{}", "[".repeat(100_000)), "[]".into(), "".into()] {
            assert!(matches!(read(bad.as_bytes()), Err(ResourceError::Json(_))), "{}", &bad[..bad.len().min(40)]);
        }
    }

    #[test]
    fn only_so_many_links_are_read() {
        let links = vec![r#"{"rel":"x","href":"y"}"#; MAX_EACH + 10].join(",");
        assert_eq!(read(format!("{{\"links\":[{links}]}}").as_bytes()).unwrap().links.len(), MAX_EACH);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(resource in testing::resource()) {
            prop_assert_eq!(read(write(&resource).as_bytes()), Ok(resource));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
