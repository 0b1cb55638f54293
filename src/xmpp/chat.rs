//! The chat words: what a person with any client at all can say to the component or to an account (RFC 6121 §5), and
//! the owner's answer to a subscription request, which comes as a message too (XEP-0060 §8.6).
//!
//! Bots must not talk to one another: nothing is said to errors, headlines, rooms, old or copied messages, and to one
//! address only so often.

use futures::future::BoxFuture;
use jid::{BareJid, Jid};

use super::dispatch::{Reply, Request};
use super::envelope::{Child, Envelope, Kind, STANZAS, Stanza, StanzaType, XmlWriter};
use super::forms::Form;
use super::{ns, owner, register};
use crate::base::turn::Turn;
use crate::domain::address::{LocalName, Whom};
use crate::domain::error::{ErrorType, Over, Refusal};
use crate::domain::node::{NodeAddress, NodeName};
use crate::domain::subscription::SubscriptionState;
use crate::service::Service;
use crate::service::publish::{Payload, Publish};

/// Whether a message is one that we may have to answer, as far as can be told without reading what is in it.
pub(super) fn may_be_for_us(envelope: &Envelope) -> bool {
    let of_a_person = matches!(envelope.head.type_, StanzaType::Absent | StanzaType::Normal | StanzaType::Chat);
    let old_or_copied = |c: &Child| c.ns == ns::DELAY || c.ns == ns::CARBONS;
    of_a_person
        && !envelope.children.iter().any(old_or_copied)
        && (envelope.child("x", ns::FORM).is_some() || envelope.child("body", STANZAS).is_some())
}

/// What a message says to us.
enum Said {
    Words(String),
    Decision(Result<owner::Decision, Refusal>),
}

impl Said {
    /// `None`: nothing that is for us to answer. Builds trees: only for what was let in.
    fn read(envelope: &Envelope) -> Option<Said> {
        if let Some(form) = envelope.child("x", ns::FORM) {
            let form = Form::read(&envelope.child_element(form).ok()?).ok()?;
            if let Some(decision) = owner::Decision::read(&form) {
                return Some(Said::Decision(decision));
            }
        }
        let body = envelope.child("body", STANZAS)?;
        let body = envelope.child_element(body).ok()?.text();
        Some(body.trim().to_owned()).filter(|body| !body.is_empty()).map(Said::Words)
    }
}

/// Hears a message. `look`: the sender's turn before the request's own.
pub(super) async fn hear(r: Request, look: Turn, reply: &Reply) -> Result<(), Refusal> {
    let words = match Said::read(&r.envelope) {
        None => return Ok(()),
        Some(Said::Decision(decision)) => {
            drop(look);
            return owner::decide(r, decision?).await;
        }
        Some(Said::Words(words)) => words,
    };
    let asked = match &r.whom {
        Whom::Service => None,
        Whom::Local(name) => Some(name.clone()),
        Whom::Remote { .. } | Whom::Made { .. } => return Err(Refusal::NoSuchAccount),
        Whom::Nobody => return Err(Refusal::UnknownRequest),
    };
    let (service, by) = (r.service(), r.from.to_bare());
    let own = service.accounts_of(look, by.clone()).await?;
    let mut turn = r.turn;
    // One after the other: a person's second word means what the first has done.
    turn.come().await;
    let own_name = match &asked {
        Some(name) if own.iter().any(|account| account.name == *name) => Some(name.clone()),
        _ => own.first().map(|account| account.name.clone()).or_else(|| register::own_name(&by)),
    };
    if asked.is_some() && asked != own_name {
        service.entity(Turn::free(), r.to.clone()).await?;
    }
    if !r.edge.gate().chat(&by) {
        return Ok(());
    }
    let (word, rest) = split(&words);
    let chat = Chat { service, from: r.from.clone(), by, own_name, asked, rest };
    let found = WORDS.iter().find(|w| w.name == word);
    let answer = match found {
        Some(word) => (word.run)(chat).await,
        None => Ok(format!("I do not know the word \u{201c}{word}\u{201d}. Say help, and I tell what I know.")),
    };
    let answer = answer.unwrap_or_else(in_words);
    let type_ = (r.envelope.head.type_ == StanzaType::Chat).then_some("chat");
    let body = XmlWriter::new().leaf("body", "", &answer).finish();
    debug_assert_eq!(r.envelope.head.kind, Kind::Message);
    reply.say(Stanza::message(&r.to.into(), &r.from, type_, None, body));
    drop(turn);
    Ok(())
}

/// One word of the vocabulary.
struct Word {
    name: &'static str,
    /// How it is said, and what comes of it: a line of `help`.
    usage: &'static str,
    about: &'static str,
    run: fn(Chat) -> BoxFuture<'static, Result<String, Refusal>>,
}

const WORDS: &[Word] = &[
    Word { name: "help", usage: "help", about: "what you can say", run: |c| Box::pin(help(c)) },
    Word {
        name: "post",
        usage: "post <text>",
        about: "publish a post, of one line or many",
        run: |c| Box::pin(post(c)),
    },
    Word {
        name: "follow",
        usage: "follow <address>",
        about: "get somebody's posts, e.g. follow alice",
        run: |c| Box::pin(follow(c)),
    },
    Word { name: "unfollow", usage: "unfollow <address>", about: "get them no longer", run: |c| Box::pin(unfollow(c)) },
    Word { name: "list", usage: "list", about: "whom you follow", run: |c| Box::pin(list(c)) },
];

/// The first word, in lower case, and the rest.
fn split(words: &str) -> (String, String) {
    let (word, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    (word.chars().take(40).collect::<String>().to_lowercase(), rest.trim().to_owned())
}

/// What a word has to work with.
struct Chat {
    service: Service,
    from: Jid,
    by: BareJid,
    /// The sender's account, or the name of the one that a first post makes.
    own_name: Option<LocalName>,
    /// The account that was spoken to.
    asked: Option<LocalName>,
    rest: String,
}

async fn help(c: Chat) -> Result<String, Refusal> {
    let mut text = String::from("You can say:");
    for word in WORDS {
        text.push_str(&format!("\n{} \u{2013} {}", word.usage, word.about));
    }
    if let Some(name) = &c.own_name {
        text.push_str(&format!("\nYour posts stand at {}", c.service.addresses.profile_url(name)));
    }
    Ok(text)
}

async fn post(c: Chat) -> Result<String, Refusal> {
    if c.rest.is_empty() {
        return Ok("What shall I post? Say: post <text>".to_owned());
    }
    let Some(name) = c.own_name else { return Err(Refusal::RegistrationRequired) };
    let at = NodeAddress { service: c.service.addresses.virtual_jid(&name), name: NodeName::microblog() };
    let payload = Some(Payload::Text(c.rest));
    let publish = Publish { by: c.from, at, item: None, payload, options: Vec::new() };
    let id = match c.service.publish(Turn::free(), publish).await {
        // Not theirs, and not to be had by a first write: they need another name.
        Err(Refusal::NoSuchAccount | Refusal::PublishForbidden) => return Err(Refusal::RegistrationRequired),
        id => id?,
    };
    Ok(format!("Posted: {}", c.service.addresses.permalink(&name, id.as_str())))
}

async fn follow(c: Chat) -> Result<String, Refusal> {
    let name = match c.whom() {
        Ok(name) => name,
        Err(words) => return Ok(words),
    };
    let at = NodeAddress { service: c.service.addresses.virtual_jid(&name), name: NodeName::microblog() };
    let subscription = c.service.subscribe(Turn::free(), c.from.clone(), c.by.into(), at).await?;
    Ok(match subscription.state {
        SubscriptionState::Subscribed => format!("You follow {name} now. To end it, say: unfollow {name}"),
        SubscriptionState::Pending => format!("I have asked {name}, who approves each follower. You will be told."),
    })
}

async fn unfollow(c: Chat) -> Result<String, Refusal> {
    let name = match c.whom() {
        Ok(name) => name,
        Err(words) => return Ok(words),
    };
    let at = NodeAddress { service: c.service.addresses.virtual_jid(&name), name: NodeName::microblog() };
    match c.service.unsubscribe(Turn::free(), c.from.clone(), c.by.into(), at, None).await {
        Err(Refusal::NotSubscribed) => Ok(format!("You do not follow {name}. Say list, and I tell whom you follow.")),
        done => done.map(|()| format!("You follow {name} no longer.")),
    }
}

async fn list(c: Chat) -> Result<String, Refusal> {
    let found = c.service.following(Turn::free(), c.by).await?;
    if found.is_empty() {
        return Ok("You follow nobody yet. Say, for instance: follow alice".to_owned());
    }
    let mut text = String::from("You follow:");
    for (service, node, state) in found.iter().take(LISTED) {
        let name = match c.service.addresses.whom(service) {
            Some(Whom::Local(name)) if *node == NodeName::microblog() => {
                format!("{name} ({})", c.service.addresses.profile_url(&name))
            }
            _ => format!("{} at {service}", node.as_str()),
        };
        text.push('\n');
        text.push_str(&name);
        if *state == SubscriptionState::Pending {
            text.push_str(", not approved yet");
        }
    }
    if found.len() > LISTED {
        text.push_str(&format!("\nand {} more.", found.len() - LISTED));
    }
    Ok(text)
}

/// So many are named in one answer.
const LISTED: usize = 100;

impl Chat {
    /// Whom `follow` and `unfollow` mean; else what to say to it.
    fn whom(&self) -> Result<LocalName, String> {
        if self.rest.is_empty() {
            return match &self.asked {
                Some(name) => Ok(name.clone()),
                None => Err("Whom do you mean? Say, for instance: follow alice".to_owned()),
            };
        }
        let address = self.rest.strip_prefix("xmpp:").unwrap_or(&self.rest);
        let bare_name = address.strip_prefix('@').unwrap_or(address);
        if let Some(name) = self.service.addresses.account_of(address).or_else(|| LocalName::parse(bare_name).ok()) {
            return Ok(name);
        }
        let elsewhere = address.contains('@') || address.contains("://");
        Err(match elsewhere {
            true => format!("{address} is not one of our addresses; those of other sites come later."),
            false => format!("{address} is no address I can read. Say, for instance: follow alice"),
        })
    }
}

/// A refusal as one would say it to a person, with what to do next.
fn in_words(refusal: Refusal) -> String {
    match refusal {
        Refusal::RegistrationRequired | Refusal::NameTaken | Refusal::NameReserved => {
            "You have no account here yet, and your name is taken or cannot be used: register another one with your \
             client (it is called registration, or adding a service)."
                .to_owned()
        }
        Refusal::RegistrationClosed => "Accounts here are not open to your address.".to_owned(),
        Refusal::NoSuchAccount | Refusal::NodeNotFound => "There is nobody of that name here.".to_owned(),
        Refusal::PresenceRequired => {
            "Only contacts may read that: add the address to your contacts first, then say it again.".to_owned()
        }
        Refusal::ClosedNode | Refusal::Outcast | Refusal::SubscribeOff => "That is not open to you.".to_owned(),
        Refusal::PayloadTooBig(Over { size, most }) => {
            format!("That is too long for one post: {size} bytes, and at most {most} are taken.")
        }
        other if other.row().kind == ErrorType::Wait => "That did not work just now. Try again in a while.".to_owned(),
        other => format!("That did not work: {other}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_read_in_any_case_and_the_text_keeps_its_lines() {
        assert_eq!(split("Post hello\n\nworld"), ("post".into(), "hello\n\nworld".into()));
        assert_eq!(split("HELP"), ("help".into(), String::new()));
        assert_eq!(split("post\nhello"), ("post".into(), "hello".into()));
    }

    #[test]
    fn each_word_is_known_once_and_found_by_its_name() {
        for word in WORDS {
            assert_eq!(WORDS.iter().filter(|w| w.name == word.name).count(), 1);
            assert!(word.usage.starts_with(word.name) && split(word.name).0 == word.name);
        }
    }
}
