//! Pages for people: an account with its latest posts, the permalink of each post, and what this service is. No script;
//! what strangers wrote is shown only as the sanitiser left it, under a strict Content-Security-Policy (CSP Level 3).

use std::sync::LazyLock;
use std::time::Duration;

use askama::Template;
use aws_lc_rs::digest;
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::time::timeout;

use super::feeds::{self, settled, validators};
use super::{ASK_AGAIN, Place, Web, before, document, missing, moved, place, varies};
use crate::base::clock::Timestamp;
use crate::domain::address::{Addresses, LocalName};
use crate::domain::entry::Entry;
use crate::domain::item::{Item, ItemId};
use crate::domain::node::NodeName;
use crate::format::canonical::Canonical;
use crate::format::html::one_line;
use crate::format::{atom, feed, uri};
use crate::http::accept::negotiate;
use crate::http::problem::{busy, problem};
use crate::service::Registration;
use crate::service::retrieve::FeedPage;
use crate::service::topics::{self, PAGE};
use crate::store::Account;

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("templates/style.css");

/// Nothing is loaded but pictures, and the one style sheet that stands in the page.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src https: data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

/// What all pages have.
struct Frame {
    title: String,
    lang: String,
    style: &'static str,
    /// The root, without the closing slash.
    home: String,
    host: String,
}

impl Frame {
    fn new(addresses: &Addresses, title: String, lang: &str) -> Self {
        Frame {
            title,
            lang: if lang.is_empty() { "en" } else { lang }.to_owned(),
            style: STYLE,
            home: addresses.public_url.clone(),
            host: addresses.public_host.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    frame: Frame,
    component: String,
    chat: String,
    help: String,
    open_to_all: bool,
    hosts: Vec<String>,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    frame: Frame,
    canonical: String,
    page: String,
    feed: String,
    node: String,
    subscribe: String,
    jid: String,
    chat: String,
    component: String,
    acct: String,
    title: String,
    about: Option<String>,
    posts: Vec<Post>,
    newest: Option<String>,
    older: Option<String>,
}

#[derive(Template)]
#[template(path = "item.html")]
struct ItemPage {
    frame: Frame,
    page: String,
    feed: String,
    acct: String,
    title: String,
    node_item: String,
    post: Post,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    frame: Frame,
    status: u16,
    words: &'a str,
}

/// A post as it is shown.
struct Post {
    permalink: String,
    /// Absent where it only repeats how the text begins.
    title: Option<String>,
    /// If it is not the account itself.
    author: Option<String>,
    reply_to: Option<String>,
    summary: Option<String>,
    /// From the sanitiser.
    xhtml: String,
    images: Vec<Attached>,
    files: Vec<Attached>,
    published: String,
    published_words: String,
    edited_words: Option<String>,
    comments: Option<String>,
    tags: Vec<String>,
    lang: Option<String>,
}

struct Attached {
    href: String,
    words: String,
}

/// `/`: what this is.
pub(super) async fn home(State(web): State<Web>, method: Method, headers: HeaderMap) -> Response {
    let service = &web.0.service;
    let addresses = &service.addresses;
    let rules = service.rules();
    let page = Home {
        frame: Frame::new(addresses, addresses.public_host.clone(), "en"),
        component: addresses.component.to_string(),
        chat: chat(addresses),
        help: format!("{}?message;body=help", uri::xmpp(addresses.component.as_str())),
        open_to_all: rules.registration == Registration::Open,
        hosts: match rules.registration {
            Registration::Hosts => rules.auto_register_hosts.clone(),
            _ => Vec::new(),
        },
    };
    show(&page, None, None, &method, &headers)
}

/// `/@alice`, `/@alice.atom`.
pub(super) async fn account(State(web): State<Web>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    match place(&uri) {
        Some(Place::Page(name)) => profile(&web, &name, &method, &uri, &headers).await,
        Some(Place::Feed(name)) => feeds::feed(&web, &name, &method, &uri, &headers).await,
        Some(Place::Moved(name)) => canonical(&web, &name, &headers).await,
        _ => missing(StatusCode::NOT_FOUND, &headers),
    }
}

/// `/@alice/<item>`.
pub(super) async fn below_account(State(web): State<Web>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    match place(&uri) {
        Some(Place::Item(name, id)) => match ItemId::parse(&id) {
            Ok(id) => item(&web, &name, id, &method, &headers).await,
            Err(_) => missing(StatusCode::NOT_FOUND, &headers),
        },
        Some(Place::Moved(name)) => canonical(&web, &name, &headers).await,
        _ => missing(StatusCode::NOT_FOUND, &headers),
    }
}

pub(super) async fn nothing(headers: HeaderMap) -> Response {
    missing(StatusCode::NOT_FOUND, &headers)
}

/// A page that says only one thing.
pub(super) fn message(status: StatusCode, words: &str) -> Response {
    let frame = Frame {
        title: status.as_u16().to_string(),
        lang: "en".to_owned(),
        style: STYLE,
        // Whoever is here came to our host: the root is enough.
        home: String::new(),
        host: "this service".to_owned(),
    };
    match (MessagePage { frame, status: status.as_u16(), words }).render() {
        Ok(body) => {
            let mut response = (status, document(about(), body)).into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
            response
        }
        Err(_) => problem(status, words),
    }
}

async fn canonical(web: &Web, name: &LocalName, headers: &HeaderMap) -> Response {
    match web.0.service.feed(name.clone(), None, 0).await {
        Ok(page) => moved(&page.account.profile_url),
        Err(refusal) => web.refused(name, refusal, headers).await,
    }
}

/// The longest that a request waits until its page may be made.
const MAKING_WAITS: Duration = Duration::from_secs(5);

async fn profile(web: &Web, name: &LocalName, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
    let Ok(before) = before(uri) else { return missing(StatusCode::NOT_FOUND, headers) };
    let Ok(_place) = timeout(MAKING_WAITS, web.0.making.acquire()).await else {
        return busy("too many pages are asked for", 5);
    };
    let page = match web.0.service.feed(name.clone(), before, PAGE).await {
        Ok(page) => page,
        Err(refusal) => return web.refused(name, refusal, headers).await,
    };
    let links = feed_link(&page.account);
    let changed = settled(page.changed, web.0.service.clock.now());
    let service = web.0.service.clone();
    // A page of long posts takes milliseconds: not on the executor.
    let shown = tokio::task::spawn_blocking(move || account_page(&service.addresses, &page, before)).await;
    match shown {
        Ok(shown) => show(&shown, changed, links, method, headers),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here"),
    }
}

fn account_page(addresses: &Addresses, page: &FeedPage, before: Option<u64>) -> AccountPage {
    let account = &page.account;
    let jid = addresses.virtual_jid(&account.name);
    let title = title(account, &page.config.title);
    let microblog = NodeName::microblog();
    let at = |place: u64| format!("{}?before={place}", account.profile_url);
    let subscribe = uri::XmppUri {
        jid: jid.to_string(),
        action: Some("subscribe".to_owned()),
        node: Some(microblog.as_str().to_owned()),
        item: None,
    };
    AccountPage {
        frame: Frame::new(addresses, format!("{title} ({})", bare_acct(account)), &page.config.language),
        canonical: before.map_or_else(|| account.profile_url.clone(), at),
        page: account.profile_url.clone(),
        feed: account.feed_url.clone(),
        node: uri::xmpp_node(jid.as_str(), microblog.as_str()),
        subscribe: subscribe.write(),
        jid: jid.to_string(),
        chat: chat(addresses),
        component: addresses.component.to_string(),
        acct: bare_acct(account).to_owned(),
        title,
        about: Some(page.config.description.clone()).filter(|text| !text.is_empty()),
        posts: page.items.iter().filter_map(|(item, payload)| post(addresses, account, item, payload)).collect(),
        newest: before.map(|_| account.profile_url.clone()),
        older: page.older.map(at),
    }
}

/// A post, as a page or as its Atom entry.
async fn item(web: &Web, name: &LocalName, id: ItemId, method: &Method, headers: &HeaderMap) -> Response {
    let service = &web.0.service;
    let (account, item, payload) = match service.post(name.clone(), id).await {
        Ok(found) => found,
        Err(refusal) => return web.refused(name, refusal, headers).await,
    };
    let addresses = &service.addresses;
    let response = match negotiate(headers, &["text/html", feed::MEDIA_TYPE]) {
        Some(feed::MEDIA_TYPE) => {
            let own = uri::xmpp(addresses.virtual_jid(name).as_str());
            let author = topics::author(&account);
            match feed::write_entry(&stored(&payload), Some(&own), Some(&author)) {
                Ok(entry) => {
                    let about = [
                        (header::CONTENT_TYPE, feed::MEDIA_TYPE.to_owned()),
                        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                    ];
                    let validators = validators(entry.as_bytes(), settled(item.updated, service.clock.now()));
                    let mut response = document(about, entry);
                    response.headers_mut().insert(header::CACHE_CONTROL, ASK_AGAIN);
                    validators.answer(method, headers, response)
                }
                Err(_) => missing(StatusCode::NOT_FOUND, headers),
            }
        }
        _ => {
            let Some(post) = post(addresses, &account, &item, &payload) else {
                return missing(StatusCode::NOT_FOUND, headers);
            };
            let links = feed_link(&account);
            // The page names the feed as the feed names itself.
            let feed = match service.feed(name.clone(), None, 0).await {
                Ok(feed) => feed,
                Err(refusal) => return web.refused(name, refusal, headers).await,
            };
            let page = item_page(addresses, &account, &item, post, &feed.config.title);
            show(&page, settled(feed.changed, service.clock.now()), links, method, headers)
        }
    };
    varies(response)
}

fn item_page(addresses: &Addresses, account: &Account, item: &Item, post: Post, configured: &str) -> ItemPage {
    let jid = addresses.virtual_jid(&account.name);
    let words = match item.title.as_str() {
        "" => account.name.to_string(),
        words => format!("{words} ({})", bare_acct(account)),
    };
    ItemPage {
        frame: Frame::new(addresses, words, post.lang.as_deref().unwrap_or_default()),
        page: account.profile_url.clone(),
        feed: account.feed_url.clone(),
        acct: bare_acct(account).to_owned(),
        title: title(account, configured),
        node_item: uri::xmpp_item(jid.as_str(), NodeName::microblog().as_str(), item.id.as_str()),
        post,
    }
}

/// A stored item as it is shown; `None` for what is no entry.
fn post(addresses: &Addresses, account: &Account, item: &Item, payload: &Bytes) -> Option<Post> {
    let entry = atom::read_entry(&stored(payload))?;
    let text = entry.text().to_owned();
    let permalink = match entry.permalink() {
        Some(url) => url.to_owned(),
        None => addresses.permalink(&account.name, item.id.as_str()),
    };
    let (images, files): (Vec<_>, Vec<_>) = entry.enclosures().filter(|link| is_web(&link.href)).partition(|link| {
        let media_type = link.media_type.as_deref().unwrap_or_default();
        // A picture of another kind than these may be a document that runs scripts.
        matches!(media_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp" | "image/avif")
    });
    let attached = |link: &crate::domain::entry::Link| Attached {
        href: link.href.clone(),
        words: link.title.clone().unwrap_or_else(|| last_segment(&link.href)),
    };
    let own = uri::xmpp(addresses.virtual_jid(&account.name).as_str());
    let author = entry.authors.first().filter(|author| author.uri.as_deref() != Some(&own));
    Some(Post {
        title: entry.title.clone().filter(|title| !repeats(title, &text, &entry)),
        author: author.and_then(|author| author.name.clone()),
        reply_to: entry.in_reply_to.iter().find_map(|reply| reply.href.clone()).filter(|href| is_web(href)),
        summary: entry.summary.clone(),
        xhtml: entry.content.as_ref().map(|content| content.xhtml.clone()).unwrap_or_default(),
        images: images.into_iter().map(attached).collect(),
        files: files.into_iter().map(attached).collect(),
        published: item.published.rfc3339(),
        published_words: words(item.published),
        edited_words: (item.updated.secs() > item.published.secs()).then(|| words(item.updated)),
        comments: entry.comments().map(|link| link.href.clone()),
        tags: entry.categories.iter().map(|tag| tag.label.clone().unwrap_or_else(|| tag.term.clone())).collect(),
        lang: entry.lang.clone(),
        permalink,
    })
}

/// Whether a title only repeats how the text begins, as those do that we made ourselves.
fn repeats(title: &str, text: &str, entry: &Entry) -> bool {
    entry.content.is_some() && one_line(text).starts_with(title.trim_end_matches('…'))
}

fn stored(payload: &Bytes) -> Canonical {
    Canonical::stored(String::from_utf8_lossy(payload).into_owned())
}

fn is_web(href: &str) -> bool {
    href.starts_with("https://") || href.starts_with("http://")
}

fn last_segment(href: &str) -> String {
    let path = href.split(['?', '#']).next().unwrap_or(href);
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(href).to_owned()
}

/// `2026-11-22 05:02 UTC`.
fn words(at: Timestamp) -> String {
    let text = at.rfc3339();
    format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..16).unwrap_or_default())
}

fn title(account: &Account, configured: &str) -> String {
    if configured.is_empty() { account.name.to_string() } else { configured.to_owned() }
}

fn bare_acct(account: &Account) -> &str {
    account.acct.strip_prefix("acct:").unwrap_or(&account.acct)
}

/// A chat with the component.
fn chat(addresses: &Addresses) -> String {
    format!("{}?message", uri::xmpp(addresses.component.as_str()))
}

/// The headers of every page.
fn about() -> Vec<(HeaderName, String)> {
    vec![
        (header::CONTENT_TYPE, HTML.to_owned()),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ]
}

/// Only the feed is a topic: a page that named the hub would be taken for one (WebSub §4).
fn feed_link(account: &Account) -> Option<String> {
    Some(format!("<{}>; rel=\"alternate\"; type=\"{}\"", account.feed_url, feed::MEDIA_TYPE))
}

/// The answer with a page that changed last at `changed`, if that is known.
fn show(
    page: &impl Template,
    changed: Option<Timestamp>,
    link: Option<String>,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    let Ok(body) = page.render() else { return busy("the page cannot be shown", 60) };
    let validators = validators(body.as_bytes(), changed);
    let mut about = about();
    about.extend(link.map(|link| (header::LINK, link)));
    let mut response = document(about, body);
    response.headers_mut().insert(header::CACHE_CONTROL, ASK_AGAIN);
    validators.answer(method, headers, response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_sheet_cannot_end_its_element() {
        assert!(!STYLE.contains('<'));
    }

    #[test]
    fn a_title_that_begins_the_text_is_not_shown_twice() {
        let entry = Entry { content: Some(Default::default()), ..Entry::default() };
        assert!(repeats("It was the…", "It was\n the lark", &entry));
        assert!(!repeats("News", "It was the lark", &entry));
        assert!(!repeats("News", "News", &Entry::default()));
    }
}
