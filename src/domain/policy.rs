//! Who may do what to a node (XEP-0060 §4.1, §4.5): one table, and the one question of every read path.

use jid::BareJid;

use super::error::Refusal;
use super::item::{Audience, Item};
use super::node::Node;
use super::node_config::{AccessModel, PublishModel};
use super::subscription::{Affiliation, SubscriptionState};

/// What somebody wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Subscribe,
    Retrieve,
    Publish,
    /// Retract or replace an item of somebody else.
    Overrule,
    Purge,
    Configure,
    Delete,
    /// Subscriptions and affiliations of others.
    Manage,
}

/// What a bare JID is to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    pub affiliation: Affiliation,
    pub subscription: Option<SubscriptionState>,
    /// Whether the virtual JID approved its presence subscription.
    pub contact: bool,
}

/// Whether `who`, standing so to the node, may do `verb`; else the refusal of its section.
pub fn may(standing: Standing, verb: Verb, node: &Node) -> Result<(), Refusal> {
    use Affiliation::{Member, Outcast, Owner, PublishOnly, Publisher};
    let affiliation = standing.affiliation;
    if affiliation == Owner {
        return Ok(());
    }
    match verb {
        Verb::Subscribe | Verb::Retrieve => {
            if affiliation == Outcast {
                return Err(if verb == Verb::Subscribe { Refusal::Outcast } else { Refusal::RetrieveForbidden });
            }
            // XEP-0060 §4.1, table: publish-only may neither subscribe nor retrieve.
            if affiliation == PublishOnly {
                return Err(if verb == Verb::Subscribe {
                    Refusal::InsufficientPrivileges
                } else {
                    Refusal::RetrieveForbidden
                });
            }
            if verb == Verb::Subscribe && !node.config.subscribe {
                return Err(Refusal::SubscribeOff);
            }
            if matches!(affiliation, Publisher | Member) {
                return Ok(());
            }
            match node.access() {
                AccessModel::Open => Ok(()),
                AccessModel::Presence if standing.contact => Ok(()),
                AccessModel::Presence => Err(Refusal::PresenceRequired),
                AccessModel::Whitelist => Err(Refusal::ClosedNode),
                // To subscribe is to ask; to read, one must have been approved.
                AccessModel::Authorize => match (verb, standing.subscription) {
                    (Verb::Subscribe, _) | (_, Some(SubscriptionState::Subscribed)) => Ok(()),
                    // XEP-0060 §6.5.9.3: a pending subscription is none.
                    (_, Some(SubscriptionState::Pending) | None) => Err(Refusal::RetrieveUnsubscribed),
                },
            }
        }
        Verb::Publish => match (affiliation, node.config.publish_model) {
            (Outcast, _) => Err(Refusal::PublishForbidden),
            (Publisher | PublishOnly, _) => Ok(()),
            // Whoever cannot read the node cannot write into it either: an open publish model does not open it.
            (_, PublishModel::Subscribers) if standing.subscription != Some(SubscriptionState::Subscribed) => {
                Err(Refusal::PublishForbidden)
            }
            (_, PublishModel::Open | PublishModel::Subscribers) => {
                may(standing, Verb::Retrieve, node).map_err(|_| Refusal::PublishForbidden)
            }
            (_, PublishModel::Publishers) => Err(Refusal::PublishForbidden),
        },
        Verb::Overrule => Err(Refusal::RetractForbidden),
        Verb::Purge => Err(Refusal::PurgeForbidden),
        Verb::Configure => Err(Refusal::ConfigureForbidden),
        Verb::Delete => Err(Refusal::DeleteForbidden),
        Verb::Manage => Err(Refusal::ManageForbidden),
    }
}

/// Who looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Viewer<'a> {
    /// The web: whoever asks over HTTP, and every HTTP subscriber.
    Public,
    Jid {
        jid: &'a BareJid,
        standing: Standing,
    },
}

/// Whether `viewer` may see `item` of `node`. Every read path asks this: items, feed, page, fan-out.
pub fn may_see(viewer: Viewer<'_>, node: &Node, item: &Item) -> Result<(), Refusal> {
    match viewer {
        Viewer::Public => match (node.access(), item.audience) {
            (AccessModel::Open, Audience::Node) => Ok(()),
            _ => Err(Refusal::RetrieveForbidden),
        },
        Viewer::Jid { jid, standing } => {
            may(standing, Verb::Retrieve, node)?;
            match item.audience {
                Audience::Node => Ok(()),
                Audience::Owner if standing.affiliation == Affiliation::Owner || item.publisher == *jid => Ok(()),
                Audience::Owner => Err(Refusal::RetrieveForbidden),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::domain::node::{NodeId, NodeKind, NodeName};
    use crate::domain::node_config::NodeConfig;

    fn node(access: AccessModel, publish: PublishModel) -> Node {
        Node {
            id: NodeId(1),
            service: BareJid::new("social.example.org").unwrap(),
            name: NodeName::parse("news").unwrap(),
            kind: NodeKind::Leaf,
            creator: BareJid::new("alice@example.org").unwrap(),
            created: Timestamp(0),
            config: NodeConfig {
                access_model: access,
                publish_model: publish,
                ..NodeConfig::default_for(NodeKind::Leaf)
            },
            posts: None,
        }
    }

    fn stand(affiliation: Affiliation) -> Standing {
        Standing { affiliation, ..Standing::default() }
    }

    /// XEP-0060 §4.1, table 1: subscribe, retrieve, publish, purge, configure, delete.
    #[test]
    fn affiliations_may_what_the_table_says() {
        use Affiliation::*;
        let verbs = [Verb::Subscribe, Verb::Retrieve, Verb::Publish, Verb::Purge, Verb::Configure, Verb::Delete];
        for (affiliation, expected) in [
            (Owner, [true, true, true, true, true, true]),
            (Publisher, [true, true, true, false, false, false]),
            (PublishOnly, [false, false, true, false, false, false]),
            (Member, [true, true, false, false, false, false]),
            (None, [true, true, false, false, false, false]),
            (Outcast, [false, false, false, false, false, false]),
        ] {
            let open = node(AccessModel::Open, PublishModel::Publishers);
            let got = verbs.map(|verb| may(stand(affiliation), verb, &open).is_ok());
            assert_eq!(got, expected, "{affiliation:?}");
        }
    }

    #[test]
    fn access_models_refuse_in_their_own_words() {
        for (access, verb, refusal) in [
            (AccessModel::Presence, Verb::Subscribe, Refusal::PresenceRequired),
            (AccessModel::Presence, Verb::Retrieve, Refusal::PresenceRequired),
            (AccessModel::Whitelist, Verb::Subscribe, Refusal::ClosedNode),
            (AccessModel::Whitelist, Verb::Retrieve, Refusal::ClosedNode),
            (AccessModel::Authorize, Verb::Retrieve, Refusal::RetrieveUnsubscribed),
        ] {
            let node = node(access, PublishModel::Publishers);
            assert_eq!(may(Standing::default(), verb, &node), Err(refusal));
            assert_eq!(may(stand(Affiliation::Member), verb, &node), Ok(()));
        }
        let guarded = node(AccessModel::Authorize, PublishModel::Publishers);
        assert_eq!(may(Standing::default(), Verb::Subscribe, &guarded), Ok(()));
    }

    #[test]
    fn an_open_publish_model_does_not_open_a_closed_node() {
        let closed = node(AccessModel::Whitelist, PublishModel::Open);
        assert_eq!(may(Standing::default(), Verb::Publish, &closed), Err(Refusal::PublishForbidden));
        let open = node(AccessModel::Open, PublishModel::Open);
        assert_eq!(may(Standing::default(), Verb::Publish, &open), Ok(()));
        let subscribers = node(AccessModel::Open, PublishModel::Subscribers);
        assert_eq!(may(Standing::default(), Verb::Publish, &subscribers), Err(Refusal::PublishForbidden));
        let subscribed = Standing { subscription: Some(SubscriptionState::Subscribed), ..Standing::default() };
        assert_eq!(may(subscribed, Verb::Publish, &subscribers), Ok(()));
    }
}
