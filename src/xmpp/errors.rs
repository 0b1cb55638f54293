//! Refusals as stanza errors (RFC 6120 §8.3, XEP-0060 §16.3), made of the domain's one table.

use super::envelope::{StanzaError, XmlWriter};
use super::ns;
use crate::domain::error::Refusal;

/// How `refusal` is told.
pub fn stanza_error(refusal: Refusal) -> StanzaError {
    let row = refusal.row();
    let told = StanzaError::new(row.kind, row.condition).text(refusal.to_string());
    let Some(pubsub) = row.pubsub else { return told };
    let mut detail = XmlWriter::new();
    detail.open(pubsub, ns::PUBSUB_ERRORS);
    if let Some(feature) = row.feature {
        detail.attr("feature", feature);
    }
    told.detail(detail.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::TABLE;

    #[test]
    fn every_row_of_the_table_is_told_as_it_stands() {
        for row in TABLE {
            let told = stanza_error(row.refusal);
            assert_eq!(told.condition, row.condition);
            let xml = String::from_utf8(told.to_xml().as_bytes().to_vec()).unwrap();
            assert!(xml.starts_with(&format!("<error type='{}'", row.kind.as_str())), "{xml}");
            assert_eq!(xml.contains(ns::PUBSUB_ERRORS), row.pubsub.is_some(), "{xml}");
            assert!(row.feature.is_none_or(|feature| xml.contains(&format!("feature='{feature}'"))), "{xml}");
        }
    }
}
