//! Result set management (XEP-0059): the page that is asked for, and what is said of the one that is given.

use minidom::Element;

use super::envelope::XmlWriter;
use super::ns;
use crate::domain::error::Refusal;
use crate::domain::item::Page;

/// Reads `<set/>`. Pages by index (§2.6) are not offered.
pub fn read(set: &Element) -> Result<Page, Refusal> {
    let text = |name: &str| set.get_child(name, ns::RSM).map(Element::text);
    if text("index").is_some() {
        return Err(Refusal::Unsupported);
    }
    let max = match text("max") {
        Some(max) => Some(max.trim().parse().map_err(|_| Refusal::BadRequest)?),
        None => None,
    };
    // An empty <after/> is the beginning.
    Ok(Page { max, after: text("after").filter(|id| !id.is_empty()), before: text("before") })
}

/// What the answer says of its page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    pub first: Option<&'a str>,
    /// The index of the first one, where it is known.
    pub index: Option<u64>,
    pub last: Option<&'a str>,
    pub count: Option<u64>,
}

/// Writes the answer's `<set/>`.
pub fn write(w: &mut XmlWriter, given: Given<'_>) {
    w.open("set", ns::RSM);
    if let Some(first) = given.first {
        w.open("first", "");
        if let Some(index) = given.index {
            w.attr("index", &index.to_string());
        }
        w.text(first).close();
    }
    if let Some(last) = given.last {
        w.leaf("last", "", last);
    }
    if let Some(count) = given.count {
        w.leaf("count", "", &count.to_string());
    }
    w.close();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(inner: &str) -> Result<Page, Refusal> {
        read(&format!("<set xmlns='{}'>{inner}</set>", ns::RSM).parse().unwrap())
    }

    #[test]
    fn a_page_is_read_as_it_is_asked_for() {
        let p = page("<max>20</max><before/>").unwrap();
        assert_eq!((p.max, p.after, p.before.as_deref()), (Some(20), None, Some("")));
        let p = page("<after>x &amp; y</after>").unwrap();
        assert_eq!((p.max, p.after.as_deref(), p.before), (None, Some("x & y"), None));
        assert_eq!(page("<max>many</max>").err(), Some(Refusal::BadRequest));
        assert_eq!(page("<max>-1</max>").err(), Some(Refusal::BadRequest));
        assert_eq!(page("<index>3</index>").err(), Some(Refusal::Unsupported));
    }
}
