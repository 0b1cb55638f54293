//! Which of several media types a client wants: `Accept` (RFC 9110 §12.5.1).

use axum::http::header::{self, HeaderMap};

/// The offer that the client likes best; among equals the earlier one. `None`: it wants none of them, the answer is 406
/// or a default. Without `Accept`, or with one that says nothing readable, the first offer.
///
/// An offer is a media type with or without parameters, `application/atom+xml; charset=utf-8`.
pub fn negotiate<'a>(headers: &HeaderMap, offers: &[&'a str]) -> Option<&'a str> {
    let mut ranges = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        let Ok(text) = value.to_str() else { continue };
        ranges.extend(split(text, ',').filter_map(Range::parse));
    }
    if ranges.is_empty() {
        return offers.first().copied();
    }
    let mut best = None;
    for offer in offers {
        let quality = quality(offer, &ranges);
        if quality > best.map_or(0, |(q, _)| q) {
            best = Some((quality, *offer));
        }
    }
    best.map(|(_, offer)| offer)
}

/// The weight, in thousandths, that the most specific range matching `offer` gives it; 0 if none does.
fn quality(offer: &str, ranges: &[Range<'_>]) -> u16 {
    let (essence, parameters) = offer.split_once(';').unwrap_or((offer, ""));
    let parameters: Vec<_> = split(parameters, ';').collect();
    let (main, sub) = essence.trim().split_once('/').unwrap_or((essence, ""));
    let fits = |r: &&Range<'_>| {
        (r.main == "*" || r.main.eq_ignore_ascii_case(main))
            && (r.sub == "*" || r.sub.eq_ignore_ascii_case(sub))
            && r.parameters.iter().all(|p| parameters.iter().any(|q| p.eq_ignore_ascii_case(q)))
    };
    ranges.iter().filter(fits).max_by_key(|r| r.specificity()).map_or(0, |r| r.weight)
}

struct Range<'a> {
    main: &'a str,
    sub: &'a str,
    parameters: Vec<&'a str>,
    /// In thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = split(text, ';');
        let (main, sub) = parts.next()?.split_once('/')?;
        let (main, sub) = (main.trim(), sub.trim());
        if main.is_empty() || sub.is_empty() || (main == "*" && sub != "*") {
            return None;
        }
        let mut range = Range { main, sub, parameters: Vec::new(), weight: 1000 };
        for part in parts {
            match part.split_once('=') {
                Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => {
                    range.weight = parse_weight(value.trim())?;
                    // RFC 9110 §12.4.2: what follows the weight were extensions; they match nothing.
                    break;
                }
                _ if part.is_empty() => {}
                _ => range.parameters.push(part),
            }
        }
        Some(range)
    }

    fn specificity(&self) -> (bool, bool, usize) {
        (self.main != "*", self.sub != "*", self.parameters.len())
    }
}

/// RFC 9110 §12.4.2: `0` to `1` with at most three digits behind the point.
fn parse_weight(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Splits at `separator`, but not inside of quotes; trims.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let here = c == separator && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        here
    })
    .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, offers: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        assert_eq!(negotiate(&headers, offers), expected, "{accept}");
    }

    const JRD: &str = "application/jrd+json";
    const XRD: &str = "application/xrd+xml";

    #[test]
    fn without_a_wish_the_first_offer_is_made() {
        assert_eq!(negotiate(&HeaderMap::new(), &[JRD, XRD]), Some(JRD));
        check("", &[JRD, XRD], Some(JRD));
        check("nonsense, ;q=1, */xml", &[JRD, XRD], Some(JRD));
        check("*/*", &[JRD, XRD], Some(JRD));
    }

    #[test]
    fn the_highest_weight_wins_and_the_most_specific_range_gives_it() {
        check("application/xrd+xml", &[JRD, XRD], Some(XRD));
        check("application/json", &[JRD, XRD], None);
        check("application/jrd+json;q=0.5, application/xrd+xml;q=0.51", &[JRD, XRD], Some(XRD));
        check("*/*;q=0.9, application/jrd+json;q=0", &[JRD, XRD], Some(XRD));
        check("application/*;q=0.2, application/xrd+xml; Q=0.1", &[XRD, JRD], Some(JRD));
        check("APPLICATION/XRD+XML", &[JRD, XRD], Some(XRD));
        check("application/xrd+xml;q=0", &[XRD], None);
        check(
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            &["application/atom+xml", "text/html"],
            Some("text/html"),
        );
    }

    #[test]
    fn parameters_narrow_a_range_and_quotes_hide_commas() {
        let ld = r#"application/ld+json; profile="https://www.w3.org/ns/activitystreams""#;
        check(&format!("text/plain, {ld}"), &[ld], Some(ld));
        check(r#"application/ld+json; profile="a,b;c""#, &[ld], None);
        check("application/ld+json", &[ld], Some(ld));
        check("text/html;level=1;q=0.3, text/html;q=0.7", &["text/html;level=1", "text/html"], Some("text/html"));
        check("text/html", &["text/html; charset=utf-8"], Some("text/html; charset=utf-8"));
    }

    #[test]
    fn a_weight_has_at_most_three_digits() {
        assert_eq!(parse_weight("0.333"), Some(333));
        assert_eq!(parse_weight("1.000"), Some(1000));
        assert_eq!(parse_weight("0."), Some(0));
        for wrong in ["0.3333", "1.001", "2", "-1", ".5", "0.+5", "", "q"] {
            assert_eq!(parse_weight(wrong), None, "{wrong}");
        }
    }
}
