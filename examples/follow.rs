//! Logs in to a Jabber account, subscribes to a microblog (XEP-0060 §6.1) and prints what happens there until it is stopped.
//!
//! `cargo run --example follow -- --server 127.0.0.1:5222 --jid romeo@example.org --password … alice@social.example.org`

mod client;

use clap::Parser;
use client::{ATOM, Client, MICROBLOG, event_items, subscribe};
use minidom::Element;

#[derive(Parser)]
struct Arguments {
    /// The XMPP server's address; the connection is not encrypted, so use it on this machine only
    #[arg(long, default_value = "127.0.0.1:5222")]
    server: String,
    /// The Jabber account that follows
    #[arg(long)]
    jid: String,
    #[arg(long)]
    password: String,
    /// Whom to follow: an account's address at Rookery
    whom: String,
}

#[tokio::main]
async fn main() -> Result<(), client::Failure> {
    let Arguments { server, jid, password, whom } = Arguments::parse();
    let mut account = Client::login(&server, &jid, &password, "follow").await?;
    account.available().await?;
    let own = account.bare().to_owned();
    account.set(&whom, &subscribe(MICROBLOG, &own)).await?;
    println!("{own} is subscribed to {whom}");
    loop {
        let stanza = account.next().await?;
        if stanza.attr("from") != Some(&whom) {
            continue;
        }
        for item in event_items(&stanza, MICROBLOG) {
            println!("{}", describe(item));
        }
    }
}

fn describe(item: &Element) -> String {
    let id = item.attr("id").unwrap_or_default();
    if item.name() == "retract" {
        return format!("retracted: {id}");
    }
    let text =
        |name: &str| item.get_child("entry", ATOM).and_then(|entry| entry.get_child(name, ATOM)).map(Element::text);
    format!("event: {id}: {} ({})", text("title").unwrap_or_default(), text("id").unwrap_or_default())
}
