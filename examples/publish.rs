//! Logs in to a Jabber account and publishes one post to a microblog (XEP-0277), as a PubSub client would.
//!
//! `cargo run --example publish -- --server 127.0.0.1:5222 --jid alice@example.org --password … --to alice@social.example.org "Good morrow"`

mod client;

use clap::Parser;
use client::{Client, MICROBLOG, entry, publish};

#[derive(Parser)]
struct Arguments {
    /// The XMPP server's address; the connection is not encrypted, so use it on this machine only
    #[arg(long, default_value = "127.0.0.1:5222")]
    server: String,
    /// The Jabber account that publishes
    #[arg(long)]
    jid: String,
    #[arg(long)]
    password: String,
    /// Where the microblog lives: the account's address at Rookery
    #[arg(long)]
    to: String,
    /// The item's id in the node; the same id again replaces the post
    #[arg(long)]
    id: String,
    /// The post
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), client::Failure> {
    let Arguments { server, jid, password, to, id, text } = Arguments::parse();
    let mut account = Client::login(&server, &jid, &password, "publish").await?;
    account.set(&to, &publish(MICROBLOG, &id, &entry(&text, &id))).await?;
    println!("published: item {id} in {MICROBLOG} at {to}");
    Ok(())
}
