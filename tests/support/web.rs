//! An HTTP peer played by the test: a WebSub subscriber (W3C WebSub §5.3, §7) that answers well or badly on demand, and
//! a plain GET that follows no redirect.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;

use super::client::websub::signature_fits;
use super::until;

/// What a GET brought.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Page {
    /// A header's value; empty if it is not there. Several of one name are joined as one list (RFC 9110 §5.3).
    pub fn header(&self, name: &str) -> String {
        joined(&self.headers, name)
    }
}

pub async fn get(url: &str) -> reqwest::Result<Page> {
    get_with(url, &[]).await
}

pub async fn get_with(url: &str, headers: &[(&str, &str)]) -> reqwest::Result<Page> {
    let mut request = client()?.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    page(request.send().await?).await
}

/// POST of a form.
pub async fn post(url: &str, form: &[(&str, &str)]) -> reqwest::Result<Page> {
    let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = client()?.post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    page(request.send().await?).await
}

fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(20)).build()
}

async fn page(response: reqwest::Response) -> reqwest::Result<Page> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Page { status, headers, body: response.text().await? })
}

/// How a callback answers the hub's question "did you want this?".
#[derive(Clone, Debug, Default)]
pub enum Intent {
    /// Echoes the challenge.
    #[default]
    Confirm,
    /// Answers 200 with something else: nobody's wish is confirmed by that.
    WrongChallenge,
    /// Answers 404: not wanted.
    Deny,
}

/// How a callback answers a push.
#[derive(Clone, Debug)]
pub enum Reception {
    Status(u16),
    /// Answers 200 after a while.
    Slow(Duration),
    /// Answers 307 to another address.
    Redirect(String),
}

/// One content distribution (WebSub §7) as it came.
#[derive(Clone, Debug)]
pub struct Push {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Push {
    pub fn header(&self, name: &str) -> String {
        joined(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether `X-Hub-Signature` proves that who sent this knows `secret` (WebSub §7.1).
    pub fn signed_with(&self, secret: &str) -> bool {
        signature_fits(&self.header("x-hub-signature"), &self.body, secret)
    }
}

/// A site with any number of callbacks, each at `/callback/<name>`.
pub struct Subscriber {
    base: String,
    callbacks: Arc<Mutex<HashMap<String, Callback>>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Callback {
    intent: Intent,
    reception: Option<Reception>,
    verifications: Vec<HashMap<String, String>>,
    pushes: Vec<Push>,
}

impl Subscriber {
    pub async fn start() -> Subscriber {
        let callbacks = Arc::new(Mutex::new(HashMap::new()));
        let routes =
            Router::new().route("/callback/{name}", on_get(verify).post(receive)).with_state(callbacks.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        let base = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Subscriber { base, callbacks, task }
    }

    pub fn callback(&self, name: &str) -> String {
        format!("{}/callback/{name}", self.base)
    }

    pub fn answer_intent(&self, name: &str, intent: Intent) {
        lock(&self.callbacks).entry(name.to_owned()).or_default().intent = intent;
    }

    pub fn answer_push(&self, name: &str, reception: Reception) {
        lock(&self.callbacks).entry(name.to_owned()).or_default().reception = Some(reception);
    }

    /// The query strings of the verifications of intent so far.
    pub fn verifications(&self, name: &str) -> Vec<HashMap<String, String>> {
        lock(&self.callbacks).get(name).map(|callback| callback.verifications.clone()).unwrap_or_default()
    }

    pub fn pushes(&self, name: &str) -> Vec<Push> {
        lock(&self.callbacks).get(name).map(|callback| callback.pushes.clone()).unwrap_or_default()
    }

    /// Waits for the first push whose body has `text` in it.
    pub async fn push_with(&self, name: &str, text: &str) -> Push {
        let mut found = None;
        until(Duration::from_secs(30), || {
            found = self.pushes(name).into_iter().find(|push| push.text().contains(text));
            found.is_some()
        })
        .await;
        let count = self.pushes(name).len();
        found.unwrap_or_else(|| panic!("none of {count} pushes to {name} has {text:?} in it"))
    }

    pub async fn verified(&self, name: &str) -> HashMap<String, String> {
        until(Duration::from_secs(30), || !self.verifications(name).is_empty()).await;
        self.verifications(name).pop().unwrap_or_else(|| panic!("no verification of intent came for {name}"))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Callbacks = Arc<Mutex<HashMap<String, Callback>>>;

async fn verify(
    State(callbacks): State<Callbacks>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut callbacks = lock(&callbacks);
    let callback = callbacks.entry(name).or_default();
    let challenge = query.get("hub.challenge").cloned().unwrap_or_default();
    callback.verifications.push(query);
    match callback.intent {
        Intent::Confirm => challenge.into_response(),
        Intent::WrongChallenge => "something else".into_response(),
        Intent::Deny => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn receive(
    State(callbacks): State<Callbacks>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let reception = {
        let mut callbacks = lock(&callbacks);
        let callback = callbacks.entry(name).or_default();
        callback.pushes.push(Push { headers, body });
        callback.reception.clone()
    };
    match reception {
        None => StatusCode::OK.into_response(),
        Some(Reception::Status(code)) => {
            StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
        Some(Reception::Slow(span)) => {
            tokio::time::sleep(span).await;
            StatusCode::OK.into_response()
        }
        Some(Reception::Redirect(to)) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
    }
}

fn joined(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(", ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
