//! A WebSub subscriber: finds a feed's hub, subscribes, and prints each push with the verdict on its signature.
//!
//! `cargo run --example subscriber -- http://127.0.0.1:8080/@alice.atom`

mod client;

use std::collections::HashMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use clap::Parser;
use client::ATOM;
use client::websub::signature_fits;
use minidom::Element;

#[derive(Parser)]
struct Arguments {
    /// The feed
    topic: String,
    /// What the hub signs its pushes with
    #[arg(long, default_value = "a rose by any other name")]
    secret: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { topic, secret } = Arguments::parse();
    let http = reqwest::Client::new();

    // WebSub §4: the feed names its hub and itself; what it calls itself is the topic.
    let feed = Element::from_reader(http.get(&topic).send().await?.error_for_status()?.text().await?.as_bytes())?;
    let link = |rel: &str| {
        let links = feed.children().filter(|child| child.is("link", ATOM) && child.attr("rel") == Some(rel));
        links
            .filter_map(|link| link.attr("href"))
            .next()
            .map(str::to_owned)
            .ok_or(format!("the feed has no link rel={rel}"))
    };
    let (hub, topic) = (link("hub")?, link("self")?);
    println!("the hub of {topic} is {hub}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let callback = format!("http://{}/callback", listener.local_addr()?);
    let site = Router::new().route("/callback", get(verify).post(receive)).with_state((topic.clone(), secret.clone()));
    let site = tokio::spawn(async move { axum::serve(listener, site).await });

    let wish = [("hub.mode", "subscribe"), ("hub.topic", &topic), ("hub.callback", &callback), ("hub.secret", &secret)];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(wish).finish();
    let request = http.post(&hub).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    println!("asked for pushes to {callback}: {}", request.send().await?.error_for_status()?.status());
    Ok(site.await??)
}

/// WebSub §5.3.1: echoes the challenge, if it is about what we asked for.
async fn verify(
    State((topic, _)): State<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<String, StatusCode> {
    let value = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    if value("hub.mode") != "subscribe" || value("hub.topic") != topic {
        return Err(StatusCode::NOT_FOUND);
    }
    println!("verified: the hub asked whether we meant it, for {} seconds", value("hub.lease_seconds"));
    Ok(value("hub.challenge").to_owned())
}

async fn receive(State((_, secret)): State<(String, String)>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get("x-hub-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let verdict = if signature_fits(signature, &body, &secret) { "signature good" } else { "SIGNATURE WRONG" };
    let method = signature.split('=').next().unwrap_or_default();
    println!("push: newest entry: {}; {verdict} ({method})", newest(&body));
    StatusCode::OK
}

fn newest(feed: &[u8]) -> String {
    let Ok(feed) = Element::from_reader(feed) else { return "not well-formed".to_owned() };
    let title = feed.get_child("entry", ATOM).and_then(|entry| entry.get_child("title", ATOM));
    title.map(Element::text).unwrap_or_default()
}
