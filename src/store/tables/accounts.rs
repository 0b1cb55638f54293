//! Local accounts.

use jid::BareJid;
use serde::{Deserialize, Serialize};

use super::*;

/// A local account. The row stays after its end, since names are never given twice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Account {
    pub name: LocalName,
    /// The Jabber account that owns it.
    pub owner: BareJid,
    pub created: Timestamp,
    /// When it was removed.
    pub removed: Option<Timestamp>,
    /// `acct:`, page and feed, as they were when the account was made: they never change.
    pub acct: String,
    pub profile_url: String,
    pub feed_url: String,
}

impl Account {
    pub fn is_active(&self) -> bool {
        self.removed.is_none()
    }
}

impl dyn Read + '_ {
    /// The account, also if it was removed.
    pub fn account(&self, name: &LocalName) -> Result<Option<Account>> {
        row(self, &account_key(name))
    }

    /// All accounts in the order of their names, behind `behind` if given.
    pub fn accounts(&self, behind: Option<&LocalName>, limit: usize) -> Result<Vec<Account>> {
        let from = behind.map(|name| next_key(&account_key(name))).unwrap_or_default();
        Ok(rows(self, b"p", &from, limit)?.into_iter().map(|(_, account)| account).collect())
    }

    /// The accounts of a Jabber account by name, removed ones included.
    pub fn accounts_of(&self, owner: &BareJid) -> Result<Vec<Account>> {
        let prefix = Key::new(b'o').text(owner.as_str()).done();
        let mut found = Vec::new();
        for (key, _) in self.range(&prefix, &after(&prefix), 1000, false)? {
            found.extend(if_readable(row::<Account>(self, &[b"p", &key[prefix.len()..]].concat()))?);
        }
        Ok(found)
    }
}

impl dyn Read + '_ {
    /// Accounts that have ended and whose nodes are still to be taken away.
    pub fn ended_accounts(&self, limit: usize) -> Result<Vec<BareJid>> {
        let rows = self.range(b"X", &after(b"X"), limit, false)?;
        Ok(rows.iter().filter_map(|(key, _)| bare_at(key, 1)).collect())
    }
}

impl Tx<'_> {
    /// Has the sweep take the nodes at an account's virtual JID away.
    pub fn mark_ended(&mut self, service: &BareJid) -> Result<()> {
        self.put(ended_key(service), encode(&()))
    }

    /// An ended account has no nodes left.
    pub fn unmark_ended(&mut self, service: &BareJid) -> Result<()> {
        self.delete(ended_key(service))
    }

    pub fn put_account(&mut self, account: &Account) -> Result<()> {
        self.put(owned_key(&account.owner, &account.name), encode(&()))?;
        self.put(account_key(&account.name), encode(account))
    }
}
