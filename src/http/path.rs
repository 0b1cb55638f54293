//! Path segments to text and back: percent-encoding (RFC 3986 §2.1, §3.3).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What may stand in a segment as it is: unreserved characters, sub-delimiters, `:` and `@` (RFC 3986 §3.3, pchar).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// One segment of a path, ready to stand between two slashes. Not for `.` and `..`, which mean something else there.
pub fn encode_segment(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The text of one segment. `None`: a `%` without two hex digits, not UTF-8, a control character, or `.` and `..`
/// (also encoded ones). An encoded slash stays inside of its segment.
pub fn decode_segment(segment: &str) -> Option<String> {
    let digits = |pair: &str| pair.get(..2).is_some_and(|two| two.bytes().all(|b| b.is_ascii_hexdigit()));
    if !segment.split('%').skip(1).all(digits) {
        return None;
    }
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    match text.as_ref() {
        "." | ".." => None,
        text if text.chars().any(char::is_control) => None,
        text => Some(text.to_owned()),
    }
}

/// The decoded segments of a path that begins with `/`; `/a/` has an empty last one. `None` as for [`decode_segment`].
pub fn segments(path: &str) -> Option<Vec<String>> {
    path.strip_prefix('/')?.split('/').map(decode_segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segments_are_decoded_strictly() {
        assert_eq!(segments("/@alice/a%2Fb%20c"), Some(vec!["@alice".to_owned(), "a/b c".to_owned()]));
        assert_eq!(segments("/caf%C3%A9/"), Some(vec!["café".to_owned(), String::new()]));
        for wrong in ["", "a", "/%", "/%4", "/%zz", "/%+1", "/%é", "/%FF", "/a%00", "/%0a", "/..", "/a/%2e%2E/b", "/."]
        {
            assert_eq!(segments(wrong), None, "{wrong}");
        }
        assert_eq!(encode_segment("@bob/…?#%"), "@bob%2F%E2%80%A6%3F%23%25");
    }

    proptest! {
        #[test]
        fn what_is_encoded_can_be_decoded(text in "\\PC*") {
            prop_assume!(text != "." && text != ".." && !text.chars().any(char::is_control));
            prop_assert_eq!(decode_segment(&encode_segment(&text)), Some(text));
        }

        #[test]
        fn decoding_never_panics(text in ".*") {
            let _ = segments(&text);
        }
    }
}
