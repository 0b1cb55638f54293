//! The letters of XML 1.0 (fifth edition): which characters exist, what a name is, how text is escaped.

/// XML 1.0 §2.2, production Char.
pub(crate) fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Namespaces in XML 1.0 §4, production NCName: a name without a colon.
pub(crate) fn is_ncname(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(is_name_start) && chars.all(is_name_char)
}

/// Splits a qualified name into prefix (empty if it has none) and local part, and checks both.
pub(crate) fn split_qname(name: &str) -> Option<(&str, &str)> {
    let (prefix, local) = match name.split_once(':') {
        None => ("", name),
        Some((prefix, local)) if is_ncname(prefix) => (prefix, local),
        Some(_) => return None,
    };
    is_ncname(local).then_some((prefix, local))
}

fn is_name_start(c: char) -> bool {
    matches!(c,
        'a'..='z' | 'A'..='Z' | '_' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

fn is_name_char(c: char) -> bool {
    is_name_start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Appends `text` as character data. Characters that XML 1.0 does not have are left out.
pub(crate) fn push_text(out: &mut String, text: &str) {
    push_escaped(out, text, false);
}

/// Appends `value` as it stands between double quotes. Characters that XML 1.0 does not have are left out.
pub(crate) fn push_value(out: &mut String, value: &str) {
    push_escaped(out, value, true);
}

fn push_escaped(out: &mut String, text: &str, value: bool) {
    let mut plain_from = 0;
    for (at, b) in text.bytes().enumerate() {
        // Only these bytes can begin something that is not copied as it is; 0xEF begins U+FFFE and U+FFFF among others.
        if b >= 0x20 && !matches!(b, b'&' | b'<' | b'>' | b'"' | 0xef) {
            continue;
        }
        let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) else { continue };
        if is_char(c) && !needs_escape(c, value) {
            continue;
        }
        out.push_str(text.get(plain_from..at).unwrap_or_default());
        plain_from = at + c.len_utf8();
        if is_char(c) {
            push_char(out, c, value);
        }
    }
    out.push_str(text.get(plain_from..).unwrap_or_default());
}

fn needs_escape(c: char, value: bool) -> bool {
    match c {
        '&' | '<' | '\r' => true,
        '>' => !value,
        '"' | '\t' | '\n' => value,
        _ => false,
    }
}

/// Appends one character of XML, escaped where it must be so that every parser reads it back (Canonical XML 1.1 §2.3).
pub(crate) fn push_char(out: &mut String, c: char, value: bool) {
    if !needs_escape(c, value) {
        return out.push(c);
    }
    out.push_str(match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        '\t' => "&#9;",
        '\n' => "&#10;",
        _ => "&#13;",
    });
}

/// Appends ` name="value"`.
pub(crate) fn push_attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    push_value(out, value);
    out.push('"');
}

/// Appends `<name>text</name>`. `name` is ours and carries no attributes but literal ones.
pub(crate) fn push_element(out: &mut String, name: &str, text: &str) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    push_text(out, text);
    out.push_str("</");
    out.push_str(name.split(' ').next().unwrap_or(name));
    out.push('>');
}

/// The character a reference means, without `&` and `;`: the five predefined entities and numbers, nothing else.
pub(crate) fn reference(name: &str) -> Option<char> {
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let digits = name.strip_prefix('#')?;
            let number = match digits.strip_prefix('x') {
                // from_str_radix takes a sign, XML does not.
                Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok()?,
                None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
                _ => return None,
            };
            char::from_u32(number)?
        }
    };
    is_char(c).then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_does_not_have_is_left_out() {
        let mut out = String::new();
        push_text(&mut out, "a\u{0}\u{b}\u{fffe}<b>&\u{fffd}é\r");
        assert_eq!(out, "a&lt;b&gt;&amp;\u{fffd}é&#13;");
        out.clear();
        push_value(&mut out, "\"\n\t\u{1f}'>");
        assert_eq!(out, "&quot;&#10;&#9;'>");
    }

    #[test]
    fn a_reference_is_one_of_five_or_a_number_of_a_character_that_exists() {
        assert_eq!(reference("amp"), Some('&'));
        assert_eq!(reference("#233"), Some('é'));
        assert_eq!(reference("#x1F600"), Some('😀'));
        for bad in ["nbsp", "#0", "#x1f", "#xD800", "#+65", "#x+41", "#", "#x", "", "#xFFFE", "#99999999999"] {
            assert_eq!(reference(bad), None, "{bad}");
        }
    }
}
