//! Conditional requests (RFC 9110 §8.8 and §13): entity tags, dates, and which answer they lead to.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::base::clock::Timestamp;

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ETag {
    pub weak: bool,
    /// Without the quotes.
    opaque: String,
}

impl ETag {
    /// A strong tag: the same tag only for the same bytes. Characters that a tag cannot have are left out.
    pub fn strong(opaque: &str) -> Self {
        ETag { weak: false, opaque: opaque.chars().filter(|c| is_etag_char(*c)).collect() }
    }

    /// A weak tag: the same tag for what means the same.
    pub fn weak(opaque: &str) -> Self {
        ETag { weak: true, ..ETag::strong(opaque) }
    }

    /// RFC 9110 §8.8.3.2.
    pub fn matches_strongly(&self, other: &ETag) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// RFC 9110 §8.8.3.2. COMPAT: nginx makes a strong tag weak when it compresses, so caches ask with weak ones.
    pub fn matches_weakly(&self, other: &ETag) -> bool {
        self.opaque == other.opaque
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\"{}\"", if self.weak { "W/" } else { "" }, self.opaque)
    }
}

fn is_etag_char(c: char) -> bool {
    c.is_ascii_graphic() && c != '"'
}

/// What identifies the present state of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<ETag>,
    pub last_modified: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were no condition.
    Proceed,
    /// 304, with the validators and without a body.
    NotModified,
    /// 412.
    PreconditionFailed,
}

impl Validators {
    /// Writes `ETag` and `Last-Modified`; a 304 carries them too (RFC 9110 §15.4.5).
    pub fn write(&self, headers: &mut HeaderMap) {
        let date = self.last_modified.map(Timestamp::http_date);
        let etag = self.etag.as_ref().map(ETag::to_string);
        for (name, value) in [(header::ETAG, etag), (header::LAST_MODIFIED, date)] {
            if let Some(value) = value.and_then(|text| HeaderValue::from_str(&text).ok()) {
                headers.insert(name, value);
            }
        }
    }

    /// The answer of an existing resource to the conditions of a request, in the order of RFC 9110 §13.2.2.
    pub fn evaluate(&self, method: &Method, headers: &HeaderMap) -> Verdict {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match TagList::of(headers, &header::IF_MATCH) {
            Some(wanted) if !wanted.any(self.etag.as_ref(), ETag::matches_strongly) => {
                return Verdict::PreconditionFailed;
            }
            None if self.changed_since(headers, &header::IF_UNMODIFIED_SINCE) == Some(true) => {
                return Verdict::PreconditionFailed;
            }
            _ => {}
        }
        let known = match TagList::of(headers, &header::IF_NONE_MATCH) {
            Some(known) => known.any(self.etag.as_ref(), ETag::matches_weakly),
            // §13.1.3: only without If-None-Match, only for GET and HEAD.
            None => reads && self.changed_since(headers, &header::IF_MODIFIED_SINCE) == Some(false),
        };
        match (known, reads) {
            (false, _) => Verdict::Proceed,
            (true, true) => Verdict::NotModified,
            (true, false) => Verdict::PreconditionFailed,
        }
    }

    /// The whole answer to a GET or HEAD: `response` with validators, or 304 or 412 in its place. `Cache-Control`,
    /// `Vary` and the like of `response` go into the 304 as well (RFC 9110 §15.4.5).
    pub fn answer(&self, method: &Method, request: &HeaderMap, mut response: Response) -> Response {
        self.write(response.headers_mut());
        match self.evaluate(method, request) {
            Verdict::Proceed => response,
            Verdict::PreconditionFailed => {
                super::problem::problem(StatusCode::PRECONDITION_FAILED, "the resource is in another state")
            }
            Verdict::NotModified => {
                let mut answer = StatusCode::NOT_MODIFIED.into_response();
                for (name, value) in response.headers() {
                    if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
                        answer.headers_mut().append(name, value.clone());
                    }
                }
                answer
            }
        }
    }

    /// Whether this changed after the date in the header; `None` if one of the two is not known. Whole seconds, as the
    /// header has no others.
    fn changed_since(&self, headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
        let date = parse_http_date(headers.get(name)?.to_str().ok()?)?;
        Some(self.last_modified?.secs() > date.secs())
    }
}

/// An HTTP-date in any of its three forms (RFC 9110 §5.6.7).
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let since = httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_secs(i64::try_from(since.as_secs()).ok()?))
}

/// The value of `Retry-After` (RFC 9110 §10.2.3): seconds, or a date, which may lie in the past.
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    match text.trim().parse() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => Some(parse_http_date(text)?.since(now)),
    }
}

/// The value of `If-Match` or `If-None-Match`.
enum TagList {
    Star,
    Tags(Vec<ETag>),
}

impl TagList {
    /// `None` without the header. What is not a tag is passed over.
    fn of(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut tags = None;
        for value in headers.get_all(name) {
            let Ok(text) = value.to_str() else { continue };
            if text.trim() == "*" {
                return Some(TagList::Star);
            }
            parse_tags(text, tags.get_or_insert_with(Vec::new));
        }
        // A header that is there but unreadable is a list without tags, not the absence of a condition.
        tags.or_else(|| headers.contains_key(name).then(Vec::new)).map(TagList::Tags)
    }

    fn any(&self, current: Option<&ETag>, matches: fn(&ETag, &ETag) -> bool) -> bool {
        match self {
            TagList::Star => true,
            TagList::Tags(tags) => current.is_some_and(|current| tags.iter().any(|tag| matches(current, tag))),
        }
    }
}

/// Reads `"a", W/"b,c"`. A comma may stand inside of a tag.
fn parse_tags(mut text: &str, tags: &mut Vec<ETag>) {
    while let Some((before, rest)) = text.split_once('"') {
        let Some((opaque, after)) = rest.split_once('"') else { return };
        if opaque.chars().all(is_etag_char) {
            tags.push(ETag { weak: before.trim_end().ends_with("W/"), opaque: opaque.to_owned() });
        }
        text = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Conditions<'a> = &'a [(HeaderName, &'a str)];

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const SECOND_LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const SECOND_EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn evaluate(method: Method, conditions: Conditions) -> Verdict {
        // Half a second after the date that is shown.
        let last_modified = Some(Timestamp(784_111_777_500_000));
        let validators = Validators { etag: Some(ETag::strong("v,1")), last_modified };
        let mut headers = HeaderMap::new();
        for (name, value) in conditions {
            headers.append(name, value.parse().unwrap());
        }
        validators.evaluate(&method, &headers)
    }

    #[test]
    fn conditions_lead_to_the_answers_of_rfc_9110_section_13() {
        use Verdict::*;
        use header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
        let table: &[(Verdict, Method, Conditions)] = &[
            (Proceed, Method::GET, &[]),
            (NotModified, Method::GET, &[(IF_NONE_MATCH, "\"v,1\"")]),
            (NotModified, Method::HEAD, &[(IF_NONE_MATCH, "\"v,1\"")]),
            (NotModified, Method::GET, &[(IF_NONE_MATCH, "W/\"v,1\"")]),
            (NotModified, Method::GET, &[(IF_NONE_MATCH, "\"a\" , W/\"v,1\"")]),
            (NotModified, Method::GET, &[(IF_NONE_MATCH, "\"a\""), (IF_NONE_MATCH, "\"v,1\"")]),
            (NotModified, Method::GET, &[(IF_NONE_MATCH, "*")]),
            (Proceed, Method::GET, &[(IF_NONE_MATCH, "\"v\"")]),
            (Proceed, Method::GET, &[(IF_NONE_MATCH, "v,1")]),
            (PreconditionFailed, Method::POST, &[(IF_NONE_MATCH, "*")]),
            (NotModified, Method::GET, &[(IF_MODIFIED_SINCE, DATE)]),
            (NotModified, Method::GET, &[(IF_MODIFIED_SINCE, SECOND_LATER)]),
            (NotModified, Method::GET, &[(IF_MODIFIED_SINCE, "Sunday, 06-Nov-94 08:49:37 GMT")]),
            (NotModified, Method::GET, &[(IF_MODIFIED_SINCE, "Sun Nov  6 08:49:37 1994")]),
            (Proceed, Method::GET, &[(IF_MODIFIED_SINCE, SECOND_EARLIER)]),
            (Proceed, Method::GET, &[(IF_MODIFIED_SINCE, "yesterday")]),
            (Proceed, Method::POST, &[(IF_MODIFIED_SINCE, DATE)]),
            // If-None-Match makes If-Modified-Since void, also if nothing in it matches.
            (Proceed, Method::GET, &[(IF_NONE_MATCH, "\"old\""), (IF_MODIFIED_SINCE, DATE)]),
            (Proceed, Method::GET, &[(IF_MATCH, "\"v,1\"")]),
            (Proceed, Method::GET, &[(IF_MATCH, "*")]),
            (PreconditionFailed, Method::GET, &[(IF_MATCH, "W/\"v,1\"")]),
            (PreconditionFailed, Method::POST, &[(IF_MATCH, "\"old\"")]),
            (Proceed, Method::POST, &[(IF_UNMODIFIED_SINCE, DATE)]),
            (PreconditionFailed, Method::POST, &[(IF_UNMODIFIED_SINCE, SECOND_EARLIER)]),
            (Proceed, Method::POST, &[(IF_MATCH, "\"v,1\""), (IF_UNMODIFIED_SINCE, SECOND_EARLIER)]),
        ];
        for (expected, method, conditions) in table {
            assert_eq!(evaluate(method.clone(), conditions), *expected, "{method} {conditions:?}");
        }
    }

    #[test]
    fn a_304_has_the_validators_and_the_cache_rules_but_no_content() {
        let validators = Validators { etag: Some(ETag::weak("x\"\n1")), last_modified: parse_http_date(DATE) };
        let mut request = HeaderMap::new();
        let full =
            || ([(header::CACHE_CONTROL, "max-age=60"), (header::CONTENT_TYPE, "text/x")], "body").into_response();
        let response = validators.answer(&Method::GET, &request, full());
        assert_eq!((response.status(), &response.headers()["etag"]), (StatusCode::OK, &"W/\"x1\"".parse().unwrap()));
        request.insert(header::IF_NONE_MATCH, "\"x1\"".parse().unwrap());
        let response = validators.answer(&Method::GET, &request, full());
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.headers()["last-modified"], DATE);
        assert_eq!(response.headers()["cache-control"], "max-age=60");
        assert!(!response.headers().contains_key("content-type"));
    }
}
