//! Behind a reverse proxy: what is canonical comes from `http.public_url`, never from the request.
//!
//! `Host`, `Forwarded` (RFC 7239) and `X-Forwarded-*` are written by whoever asks, or by a proxy set up in a hurry. An id
//! or link made from them could be poisoned, kept in caches and signed. So nothing here reads them: a [`Canonical`] is
//! made once from the configuration, and a proxy may pass on any host, port and scheme. The one thing the proxy must
//! keep is the path, with its percent-encoding as it was.

use url::Url;

/// Makes our own absolute URLs. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    /// Without the closing slash.
    origin: String,
    host: String,
}

impl Canonical {
    /// `public_url`: `http.public_url`, which is the root of a host.
    pub fn new(public_url: &Url) -> Self {
        let origin = public_url.origin().ascii_serialization();
        Canonical { origin, host: public_url.host_str().unwrap_or_default().to_owned() }
    }

    /// `https://social.example.org`, with the port if it is not the scheme's.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The host alone, ASCII: the authority of our `tag:` ids.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The URL of `path`, which begins with `/` and is percent-encoded already, see [`super::path::encode_segment`].
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// The path and query of `url`, if it is one of ours in any spelling (default port, upper case); beginning with `/`.
    pub fn path_of(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        if url.origin().ascii_serialization() != self.origin || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        match url.query() {
            Some(query) => Some(format!("{}?{query}", url.path())),
            None => Some(url.path().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_urls_come_from_the_configured_one() {
        let c = Canonical::new(&Url::parse("https://Social.example.org:443/").unwrap());
        assert_eq!((c.origin(), c.host()), ("https://social.example.org", "social.example.org"));
        assert_eq!(c.url("/@alice.atom"), "https://social.example.org/@alice.atom");
        let local = Canonical::new(&Url::parse("http://127.0.0.1:8080").unwrap());
        assert_eq!((local.url("/"), local.host()), ("http://127.0.0.1:8080/".to_owned(), "127.0.0.1"));
    }

    #[test]
    fn a_url_is_ours_only_with_our_origin() {
        let c = Canonical::new(&Url::parse("https://social.example.org").unwrap());
        assert_eq!(c.path_of("HTTPS://SOCIAL.example.org:443/@alice?page=2#x").as_deref(), Some("/@alice?page=2"));
        assert_eq!(c.path_of("https://social.example.org").as_deref(), Some("/"));
        for foreign in [
            "http://social.example.org/",
            "https://social.example.org:8443/",
            "https://social.example.org.evil.example/",
            "https://social.example.org@evil.example/",
            "https://x@social.example.org/",
            "data:,x",
            "/@alice",
        ] {
            assert_eq!(c.path_of(foreign), None, "{foreign}");
        }
    }
}
