//! Answers that are no document: a status and one line of plain text for whoever reads it.

use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

/// `words`: lower case, no full stop, nothing that the peer wrote. Not cached (404 and 410 would be by default,
/// RFC 9110 §15.1).
pub fn problem(status: StatusCode, words: &str) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, format!("{words}\n")).into_response()
}

/// 503 with `Retry-After` in seconds (RFC 9110 §15.6.4).
pub fn busy(words: &str, retry_after: u32) -> Response {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, words);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    response
}
