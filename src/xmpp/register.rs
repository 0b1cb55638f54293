//! In-band registration at the component (XEP-0077): an account is a name; its owner is who asks.

use jid::BareJid;

use super::dispatch::{Answer, Request};
use super::envelope::{Xml, XmlWriter};
use super::forms::Form;
use super::ns;
use crate::base::turn::Turn;
use crate::domain::address::LocalName;
use crate::domain::error::Refusal;
use crate::service::Registration;

/// What is needed, and what there is already (§3.1).
pub(super) async fn get(r: Request) -> Answer {
    let service = r.service();
    let owner = r.from.to_bare();
    let accounts = service.accounts_of(r.turn, owner.clone()).await?;
    let mut w = XmlWriter::new();
    w.open("query", ns::REGISTER);
    match accounts.first() {
        Some(account) => {
            let jid = service.addresses.virtual_jid(&account.name);
            w.open("registered", "").close().leaf("username", "", account.name.as_str());
            w.leaf("instructions", "", &format!("You have the account {jid}. Publish to its microblog, or say help."));
        }
        None => {
            let words = match service.rules().registration {
                Registration::Hosts => "Send this to have the account that goes with the name of your Jabber address.",
                _ => "Choose a name for your account: the letters a to z, digits, '.', '_' and '-'.",
            };
            w.leaf("instructions", "", words);
            let proposed = own_name(&owner).map(|name| name.to_string()).unwrap_or_default();
            w.leaf("username", "", &proposed);
        }
    }
    Ok(w.finish())
}

/// Registers a name (§3.1), one's own local part if none is given, or ends one's accounts (§3.2).
pub(super) async fn set(r: Request) -> Answer {
    let query = r.envelope.child_element(r.payload()?).map_err(|_| Refusal::BadRequest)?;
    let (service, owner) = (r.service(), r.from.to_bare());
    if query.has_child("remove", ns::REGISTER) {
        let accounts = service.accounts_of(r.turn, owner.clone()).await?;
        if accounts.is_empty() {
            return Err(Refusal::RegistrationRequired);
        }
        for account in accounts {
            service.remove_account(Turn::free(), account.name, Some(owner.clone())).await?;
        }
        return Ok(Xml::default());
    }
    let form = query.get_child("x", ns::FORM).map(Form::read).transpose()?;
    if let Some(form) = &form {
        // XEP-0004 §3.1: who cancels a form wants nothing of it done.
        if form.cancel {
            return Ok(Xml::default());
        }
        if form.form_type.as_deref().is_some_and(|given| given != ns::REGISTER) {
            return Err(Refusal::BadRequest);
        }
    }
    let typed = query.get_child("username", ns::REGISTER).map(|name| name.text());
    let wanted = typed.or_else(|| form?.value("username").map(str::to_owned));
    let name = match wanted.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => LocalName::parse(name).ok(),
        None => own_name(&owner),
    };
    service.register(r.turn, name.ok_or(Refusal::NameReserved)?, owner).await?;
    Ok(Xml::default())
}

/// The name that goes with a Jabber account, if it can be one.
pub(super) fn own_name(owner: &BareJid) -> Option<LocalName> {
    LocalName::parse(owner.node()?.as_str()).ok().filter(LocalName::can_be_given)
}
