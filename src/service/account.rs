//! Accounts: XEP-0077 registration, the command line, and a listed owner's first write. Names are never given twice.

use jid::BareJid;

use super::{Decided, Inner, Registration, Service, of_hosts};
use crate::base::turn::Turn;
use crate::domain::address::{LocalName, Whom};
use crate::domain::error::Refusal;
use crate::store::{Account, Tx};

/// Registers `name` for `owner`, if the rules allow it; the account that is there already if it is theirs.
pub(super) fn register(inner: &Inner, tx: &mut Tx<'_>, name: &LocalName, owner: &BareJid) -> Decided<Account> {
    let rules = inner.rules();
    let allowed = match rules.registration {
        Registration::Closed => false,
        Registration::Hosts => of_hosts(owner, &rules.auto_register_hosts),
        Registration::Open => true,
    };
    if !allowed {
        return Err(Refusal::RegistrationClosed.into());
    }
    let names = tx.read().accounts_of(owner)?;
    let has_it = names.iter().any(|account| account.name == *name);
    if !has_it && !name.can_be_given() {
        return Err(Refusal::NameReserved.into());
    }
    // Where every Jabber account has a name waiting for it, nobody takes another's: names are never given back.
    if rules.registration == Registration::Hosts && !has_it && !inner.is_namesake(name, owner) {
        return Err(Refusal::NotYourName.into());
    }
    if names.len() >= NAMES_MOST && !has_it {
        return Err(Refusal::TooManyNames.into());
    }
    create(inner, tx, name, owner)
}

/// Names that one Jabber account can take by itself, removed ones included: they are never given again.
const NAMES_MOST: usize = 10;

/// Makes the account `name` of `owner`; the one that is there already if it is theirs.
fn create(inner: &Inner, tx: &mut Tx<'_>, name: &LocalName, owner: &BareJid) -> Decided<Account> {
    if let Some(account) = tx.read().account(name)? {
        return match account.is_active() && account.owner == *owner {
            true => Ok(account),
            false => Err(Refusal::NameTaken.into()),
        };
    }
    if !name.can_be_given() {
        return Err(Refusal::NameReserved.into());
    }
    // Where the web's identities share a domain with Jabber accounts, x@W is one person.
    let addresses = &inner.addresses;
    let namesake = owner.node().is_some_and(|local| local.as_str() == name.as_str());
    let shared = inner.rules().auto_register_hosts.contains(&addresses.acct_domain);
    if shared && !(namesake && owner.domain().as_str() == addresses.acct_domain) {
        return Err(Refusal::NameTaken.into());
    }
    let account = Account {
        name: name.clone(),
        owner: owner.clone(),
        created: inner.clock.now(),
        removed: None,
        acct: addresses.acct(name),
        profile_url: addresses.profile_url(name),
        feed_url: addresses.feed_url(name),
    };
    tx.put_account(&account)?;
    Ok(account)
}

impl Service {
    /// Registers `name` for `owner` (XEP-0077 §3.1). Their account again, if it is theirs already.
    pub async fn register(&self, turn: Turn, name: LocalName, owner: BareJid) -> Result<Account, Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| register(&inner, tx, &name, &owner)).await
    }

    /// Makes an account whatever the rules of registration say: the administrator's way.
    pub async fn add_account(&self, name: LocalName, owner: BareJid) -> Result<Account, Refusal> {
        let inner = self.clone();
        self.decide(Turn::free(), move |tx| create(&inner, tx, &name, &owner)).await
    }

    /// Ends an account (XEP-0077 §3.2); its name stays taken. What it published cannot be seen from now on; its nodes
    /// are deleted by and by, and their subscribers told.
    pub async fn remove_account(&self, turn: Turn, name: LocalName, by: Option<BareJid>) -> Result<Account, Refusal> {
        let inner = self.clone();
        self.decide(turn, move |tx| {
            let account = tx.read().account(&name)?.filter(Account::is_active).ok_or(Refusal::NoSuchAccount)?;
            if by.as_ref().is_some_and(|by| *by != account.owner && !inner.rules().admins.contains(by)) {
                return Err(Refusal::InsufficientPrivileges.into());
            }
            let ended = Account { removed: Some(inner.clock.now()), ..account };
            tx.put_account(&ended)?;
            tx.mark_ended(&inner.addresses.virtual_jid(&ended.name))?;
            Ok(ended)
        })
        .await
    }

    /// The active account `name`.
    pub async fn account(&self, turn: Turn, name: LocalName) -> Result<Account, Refusal> {
        self.look(turn, move |r| Ok(r.account(&name)?.filter(Account::is_active).ok_or(Refusal::NoSuchAccount)?)).await
    }

    /// Whether the account at `service` is not there yet, and a first write of `by` makes it.
    pub async fn awaits(&self, service: BareJid, by: BareJid) -> Result<bool, Refusal> {
        let inner = self.clone();
        self.peek(move |r| match inner.addresses.whom(&service) {
            Some(Whom::Local(name)) => Ok(inner.is_namesake(&name, &by) && r.account(&name)?.is_none()),
            _ => Ok(false),
        })
        .await
    }

    /// The active accounts that a Jabber account owns.
    pub async fn accounts_of(&self, turn: Turn, owner: BareJid) -> Result<Vec<Account>, Refusal> {
        self.look_through(turn, move |r| Ok(r.accounts_of(&owner)?.into_iter().filter(Account::is_active).collect()))
            .await
    }

    /// Accounts, removed ones included, in the order of their names.
    pub async fn accounts(&self, behind: Option<LocalName>, limit: usize) -> Result<Vec<Account>, Refusal> {
        self.look_through(Turn::free(), move |r| Ok(r.accounts(behind.as_ref(), limit)?)).await
    }
}
