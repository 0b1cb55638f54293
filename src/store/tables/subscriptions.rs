//! Subscriptions, affiliations and contacts.

use jid::BareJid;

use super::*;
use crate::domain::policy::Standing;
use crate::domain::subscription::{Affiliation, Contact, Subscription};

/// So many resources of one account subscribe to one node, beside the account itself.
pub const RESOURCES_MOST: usize = 10;

impl dyn Read + '_ {
    pub fn subscription(&self, nid: NodeId, jid: &Jid) -> Result<Option<Subscription>> {
        row(self, &subscription_key(nid, jid))
    }

    /// A node's subscriptions in the order of their JIDs, behind `cursor` (a key that this gave, or empty), with keys.
    pub fn subscriptions(&self, nid: NodeId, cursor: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Subscription)>> {
        let from = if cursor.is_empty() { Vec::new() } else { next_key(cursor) };
        rows(self, &Key::new(b's').num(nid.0).done(), &from, limit)
    }

    /// The subscriptions of a bare JID and its resources to all nodes whose rows are there, at most
    /// `limit` of them: also to one that was deleted and is not swept yet.
    pub fn subscriptions_of(&self, jid: &BareJid, limit: usize) -> Result<Vec<(NodeId, Subscription)>> {
        let prefix = Key::new(b'b').text(jid.as_str()).done();
        let mut found = Vec::new();
        for (key, _) in self.range(&prefix, &after(&prefix), limit, false)? {
            let nid = NodeId(number(&key, prefix.len())?);
            let of_node = [Key::new(b's').num(nid.0).done().as_slice(), &key[prefix.len() + 8..]].concat();
            if let Some(subscription) = if_readable(row(self, &of_node))? {
                found.push((nid, subscription));
            }
        }
        Ok(found)
    }

    /// The subscriptions of a bare JID and its resources to one node: [`RESOURCES_MOST`] of them and itself.
    pub fn subscriptions_at(&self, nid: NodeId, jid: &BareJid) -> Result<Vec<Subscription>> {
        let prefix = Key::new(b'b').text(jid.as_str()).num(nid.0).done();
        let mut found = Vec::new();
        for (key, _) in self.range(&prefix, &after(&prefix), RESOURCES_MOST + 1, false)? {
            let of_node = [Key::new(b's').num(nid.0).done().as_slice(), &key[prefix.len()..]].concat();
            found.extend(if_readable(row::<Subscription>(self, &of_node))?);
        }
        Ok(found)
    }

    pub fn affiliation(&self, nid: NodeId, jid: &BareJid) -> Result<Affiliation> {
        Ok(row(self, &affiliation_key(nid, jid))?.unwrap_or_default())
    }

    /// A node's affiliations in the order of their JIDs.
    pub fn affiliations(&self, nid: NodeId, limit: usize) -> Result<Vec<(BareJid, Affiliation)>> {
        let prefix = Key::new(b'a').num(nid.0).done();
        let rows = rows::<Affiliation>(self, &prefix, &[], limit)?;
        Ok(rows.into_iter().filter_map(|(key, a)| Some((bare_at(&key, 9)?, a))).collect())
    }

    /// Owners of a node, at most `limit`, wherever they stand among its affiliations.
    pub fn owners(&self, nid: NodeId, limit: usize) -> Result<Vec<BareJid>> {
        let prefix = Key::new(b'a').num(nid.0).done();
        let (mut owners, mut from) = (Vec::new(), Vec::new());
        loop {
            let page = rows::<Affiliation>(self, &prefix, &from, 1000)?;
            let last = page.last().map(|(key, _)| next_key(key));
            let found = page.iter().filter(|(_, affiliation)| *affiliation == Affiliation::Owner);
            owners.extend(found.filter_map(|(key, _)| bare_at(key, 9)).take(limit - owners.len()));
            match last {
                Some(next) if owners.len() < limit && page.len() == 1000 => from = next,
                _ => return Ok(owners),
            }
        }
    }

    /// The affiliations of a bare JID to all nodes whose rows are there: also to one that was deleted and is not swept yet.
    pub fn affiliations_of(&self, jid: &BareJid, limit: usize) -> Result<Vec<(NodeId, Affiliation)>> {
        let prefix = Key::new(b'A').text(jid.as_str()).done();
        let mut found = Vec::new();
        for (key, _) in self.range(&prefix, &after(&prefix), limit, false)? {
            let nid = NodeId(number(&key, prefix.len())?);
            found.push((nid, self.affiliation(nid, jid)?));
        }
        Ok(found)
    }

    /// The contacts of a virtual JID in the order of theirs, behind `behind` if given; at most `limit`.
    pub fn contacts(&self, account: &BareJid, behind: Option<&BareJid>, limit: usize) -> Result<Vec<BareJid>> {
        let prefix = Key::new(b'r').text(account.as_str()).done();
        let from = behind.map_or_else(|| prefix.clone(), |jid| next_key(&contact_key(account, jid)));
        let rows = self.range(&from, &after(&prefix), limit, false)?;
        Ok(rows.iter().filter_map(|(key, _)| bare_at(key, prefix.len())).collect())
    }

    pub fn contact(&self, account: &BareJid, jid: &BareJid) -> Result<Option<Contact>> {
        row(self, &contact_key(account, jid))
    }

    /// What `jid` is to a node at `service`: all that a policy asks. Of an owner nothing else is asked, so nothing else is
    /// read.
    pub fn standing(&self, nid: NodeId, service: &BareJid, jid: &BareJid) -> Result<Standing> {
        let affiliation = self.affiliation(nid, jid)?;
        if affiliation == Affiliation::Owner {
            return Ok(Standing { affiliation, ..Standing::default() });
        }
        // The best of its subscriptions counts.
        let subscriptions = self.subscriptions_at(nid, jid)?;
        Ok(Standing {
            affiliation,
            subscription: subscriptions.iter().map(|s| s.state).max_by_key(|state| state.as_str() == "subscribed"),
            contact: self.contact(service, jid)?.is_some(),
        })
    }
}

impl Tx<'_> {
    pub fn put_subscription(&mut self, nid: NodeId, subscription: &Subscription) -> Result<()> {
        self.index_subscription(nid, subscription.jid.as_str().as_bytes(), None)?;
        self.put(subscription_key(nid, &subscription.jid), encode(subscription))
    }

    /// Has a subscription of `jid` that comes with the same Change count in the quota of `by`, an owner who gives it:
    /// nobody fills another's.
    pub fn give_subscription(&mut self, nid: NodeId, jid: &Jid, by: &BareJid) -> Result<()> {
        let by = Some(by.as_str()).filter(|by| *by != jid.to_bare().as_str());
        self.index_subscription(nid, jid.as_str().as_bytes(), by)
    }

    /// Writes what leads from an address to its subscription, if that is new.
    fn index_subscription(&mut self, nid: NodeId, jid: &[u8], by: Option<&str>) -> Result<()> {
        let key = subscribed_key(nid, jid);
        if self.read().get(&key)?.is_none() {
            self.put(key, encode(&by))?;
            self.count_subscription(by.map_or(bare_of(jid), str::as_bytes), true)?;
        }
        Ok(())
    }

    pub fn delete_subscription(&mut self, nid: NodeId, jid: &Jid) -> Result<()> {
        self.uncount_subscription(nid, jid.as_str().as_bytes())?;
        self.delete(subscription_key(nid, jid))
    }

    /// Removes what leads from an address to its subscription.
    pub(super) fn uncount_subscription(&mut self, nid: NodeId, jid: &[u8]) -> Result<()> {
        let key = subscribed_key(nid, jid);
        if let Some(by) = self.read().get(&key)? {
            self.delete(key)?;
            let by: Option<String> = if_readable(decode(&by))?;
            self.count_subscription(by.as_deref().map_or(bare_of(jid), str::as_bytes), false)?;
        }
        Ok(())
    }

    /// Sets an affiliation; `None` removes it.
    pub fn put_affiliation(&mut self, nid: NodeId, jid: &BareJid, affiliation: Affiliation) -> Result<()> {
        if affiliation == Affiliation::None {
            self.delete(affiliation_key(nid, jid))?;
            return self.delete(affiliated_key(nid, jid));
        }
        self.put(affiliation_key(nid, jid), encode(&affiliation))?;
        self.put(affiliated_key(nid, jid), encode(&()))
    }

    pub fn put_contact(&mut self, account: &BareJid, jid: &BareJid, contact: &Contact) -> Result<()> {
        self.put(contact_key(account, jid), encode(contact))
    }

    pub fn delete_contact(&mut self, account: &BareJid, jid: &BareJid) -> Result<()> {
        self.delete(contact_key(account, jid))
    }
}
