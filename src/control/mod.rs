//! The administrator's commands, the same whether the service runs (over its control socket) or not (on the store).

mod queue;
pub mod socket;

use serde::{Deserialize, Serialize};

use crate::base::jid::read_bare_jid;
use crate::base::progress::Progress;
use crate::base::turn::Turn;
use crate::domain::address::{LocalName, NameError};
use crate::domain::error::Refusal;
use crate::queue::Handle;
use crate::service::Service;
use crate::store::Account;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    AccountList,
    AccountAdd {
        name: String,
        owner: String,
    },
    AccountRemove {
        name: String,
    },
    AccountShow {
        name: String,
    },
    /// What waits to be delivered: `limit` destinations, behind the one at which an earlier list ended (`after`).
    QueueShow {
        what: Selection,
        limit: usize,
        after: Option<String>,
    },
    /// Events put aside.
    QueueParked {
        limit: usize,
    },
    QueueRetry {
        what: Selection,
    },
    QueueHold {
        what: Selection,
    },
    QueueRelease {
        what: Selection,
    },
    /// Only says how much it would be, unless `yes`.
    QueueDrop {
        what: Selection,
        yes: bool,
    },
    /// How the running service stands; only over the socket.
    Status,
}

/// Which deliveries a person means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// As lists name it (`hub:12`), or in the person's words: a callback, a Jabber address, a node, `event:7`.
    Destination(String),
    Host(String),
    /// Every Event put aside.
    Parked,
    All,
}

/// The answer: lines for a person, or what went wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It goes on: words for who waits. More replies follow.
    Progress(String),
    Done(Vec<String>),
    Failed(String),
}

/// What commands are carried out with.
#[derive(Clone)]
pub struct Desk {
    pub service: Service,
    /// The running queue, which must hear of what is done to deliveries; `None` if the service does not run.
    pub queue: Option<Handle>,
}

/// Carries out a command on the store.
pub async fn execute(desk: &Desk, command: Command, progress: &Progress) -> Reply {
    let service = &desk.service;
    let done = match command {
        Command::AccountList => list(service).await,
        Command::AccountAdd { name, owner } => add(service, &name, &owner).await,
        Command::AccountRemove { name } => remove(service, &name).await,
        Command::AccountShow { name } => show(service, &name).await,
        Command::QueueShow { what, limit, after } => queue::list(service, what, limit, after).await,
        Command::QueueParked { limit } => queue::parked(service, limit).await,
        Command::QueueRetry { what } => queue::retry(desk, what, progress).await,
        Command::QueueHold { what } => queue::hold(desk, what, progress).await,
        Command::QueueRelease { what } => queue::release(desk, what, progress).await,
        Command::QueueDrop { what, yes } => queue::discard(desk, what, yes, progress).await,
        Command::Status => Ok(vec!["rookery is not running".to_owned()]),
    };
    match done {
        Ok(lines) => Reply::Done(lines),
        Err(words) => Reply::Failed(words),
    }
}

async fn list(service: &Service) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let mut behind = None;
    loop {
        let page = service.accounts(behind.clone(), 500).await.map_err(|refusal| refusal.to_string())?;
        let Some(last) = page.last() else { break };
        behind = Some(last.name.clone());
        lines.extend(page.iter().map(line));
    }
    if lines.is_empty() {
        lines.push("no accounts yet: add one with `rookery account add NAME OWNER@HOST`".to_owned());
    }
    Ok(lines)
}

fn line(account: &Account) -> String {
    let state = if account.is_active() { "" } else { "  (removed; the name stays taken)" };
    format!("{:<24} {}{state}", account.name.as_str(), account.owner)
}

async fn add(service: &Service, name: &str, owner: &str) -> Result<Vec<String>, String> {
    let name = parse(name)?;
    let owner = read_bare_jid(owner).filter(|jid| jid.node().is_some());
    let owner = owner.ok_or("the owner must be a Jabber address such as alice@example.org")?;
    let account = service.add_account(name, owner).await.map_err(|refusal| match refusal {
        Refusal::NameTaken => "this name is taken, or belongs to the Jabber account of the same name".to_owned(),
        refusal => refusal.to_string(),
    })?;
    Ok(describe(service, &account))
}

async fn remove(service: &Service, name: &str) -> Result<Vec<String>, String> {
    let account = service.remove_account(Turn::free(), parse(name)?, None).await.map_err(unknown(name))?;
    Ok(vec![format!("{} is removed; its name will not be given again", account.name)])
}

async fn show(service: &Service, name: &str) -> Result<Vec<String>, String> {
    let account = service.account(Turn::free(), parse(name)?).await.map_err(unknown(name))?;
    Ok(describe(service, &account))
}

fn describe(service: &Service, account: &Account) -> Vec<String> {
    vec![
        format!("name      {}", account.name),
        format!("owner     {}", account.owner),
        format!("address   {}", service.addresses.virtual_jid(&account.name)),
        format!("identity  {}", account.acct),
        format!("page      {}", account.profile_url),
        format!("feed      {}", account.feed_url),
        format!("since     {}", account.created.rfc3339()),
    ]
}

fn parse(name: &str) -> Result<LocalName, String> {
    LocalName::parse(name).map_err(|error: NameError| error.to_string())
}

fn unknown(name: &str) -> impl FnOnce(Refusal) -> String {
    let name = name.to_owned();
    move |refusal| match refusal {
        Refusal::NoSuchAccount => format!("there is no account {name}: see `rookery account list`"),
        refusal => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use jid::BareJid;

    use super::*;
    use crate::base::clock::{Clock, Timestamp};
    use crate::base::id::Ids;
    use crate::domain::address::Addresses;
    use crate::service::{Quota, Registration, Rules};
    use crate::store::tables::event_key;
    use crate::store::{Lane, Store};

    fn service() -> Service {
        let addresses = Addresses::new(
            BareJid::new("social.example.org").unwrap(),
            &url::Url::parse("https://social.example.org").unwrap(),
            "example.org",
        );
        let rules = Rules {
            registration: Registration::Closed,
            auto_register_hosts: vec!["example.org".into()],
            admins: Vec::new(),
            create_nodes_hosts: Vec::new(),
            max_payload: 200_000,
            quota: Quota::default(),
        };
        Service::new(Store::in_memory(), addresses, rules, Clock::manual(Timestamp::from_secs(0)), Ids::seeded(1))
    }

    async fn ask(service: &Service, command: Command) -> Result<String, String> {
        let desk = Desk { service: service.clone(), queue: None };
        match execute(&desk, command, &Progress::silent()).await {
            Reply::Done(lines) => Ok(lines.join("\n")),
            Reply::Failed(words) | Reply::Progress(words) => Err(words),
        }
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_read_is_shown_left_as_it_is_and_dropped() {
        let service = service();
        let rubbish = service.store.commit(Lane::Asked, |tx| {
            for seq in [3, 5] {
                tx.put(event_key(seq), b"rubbish".to_vec())?;
                tx.park_event(seq)?;
            }
            Ok(Ok::<(), ()>(()))
        });
        rubbish.await.unwrap().unwrap();
        let ask = |command| ask(&service, command);
        let five = || Selection::Destination("event:5".into());
        let drop = |what| Command::QueueDrop { what, yes: true };
        let shown = ask(Command::QueueParked { limit: 9 }).await.unwrap();
        assert!(shown.contains("event:3  cannot be read") && shown.contains("event:5  cannot be read"), "{shown}");
        let refused = ask(Command::QueueRetry { what: five() }).await.unwrap_err();
        assert!(refused.contains("event:5 cannot be read"), "{refused}");
        let all = ask(Command::QueueRetry { what: Selection::Parked }).await.unwrap();
        assert!(all.contains("0 events promised anew") && all.contains("2 events left as they are"), "{all}");
        assert!(ask(drop(five())).await.unwrap().contains("1 event dropped"));
        assert!(ask(drop(five())).await.unwrap_err().contains("no event:5 is put aside"));
        assert!(ask(drop(Selection::Parked)).await.unwrap().contains("1 event dropped"));
        assert!(ask(Command::QueueParked { limit: 9 }).await.unwrap().contains("no event is put aside"));
    }

    #[tokio::test]
    async fn an_account_is_added_shown_and_removed_and_its_name_stays_taken() {
        let service = service();
        let add = |name: &str, owner: &str| Command::AccountAdd { name: name.into(), owner: owner.into() };
        let shown = ask(&service, add("alice", "alice@example.org")).await.unwrap();
        assert!(shown.contains("acct:alice@example.org") && shown.contains("https://social.example.org/@alice"));
        // acct:alice@example.org is the Jabber account alice@example.org and nobody else.
        assert!(ask(&service, add("bob", "alice@example.org")).await.unwrap_err().contains("taken"));
        assert!(ask(&service, add("admin", "admin@example.org")).await.unwrap_err().contains("reserved"));
        assert!(ask(&service, add("carol", "not an address")).await.unwrap_err().contains("Jabber address"));
        ask(&service, Command::AccountRemove { name: "alice".into() }).await.unwrap();
        assert!(ask(&service, Command::AccountShow { name: "alice".into() }).await.is_err());
        assert!(ask(&service, add("alice", "alice@example.org")).await.unwrap_err().contains("taken"));
        assert!(ask(&service, Command::AccountList).await.unwrap().contains("removed"));
    }

    #[tokio::test]
    async fn a_name_whose_page_would_be_anothers_feed_is_not_given_and_an_account_from_before_is_kept() {
        let service = service();
        let add = |name: &str| Command::AccountAdd { name: name.into(), owner: format!("{name}@example.org") };
        let refused = ask(&service, add("alice.atom")).await;
        assert!(refused.as_ref().is_err_and(|words| words.contains("reserved")), "{refused:?}");
        let mut account = service.add_account(parse("old").unwrap(), "old@example.org".parse().unwrap()).await.unwrap();
        account.name = parse("old.atom").unwrap();
        let row = account.clone();
        service.store.commit(Lane::Asked, move |tx| tx.put_account(&row).map(Ok::<(), ()>)).await.unwrap().unwrap();
        assert!(ask(&service, Command::AccountList).await.unwrap().contains("old.atom"));
        assert_eq!(service.add_account(account.name.clone(), account.owner.clone()).await, Ok(account));
        ask(&service, Command::AccountShow { name: "old.atom".into() }).await.unwrap();
        ask(&service, Command::AccountRemove { name: "old.atom".into() }).await.unwrap();
    }
}
