//! Refusals, and how each is told: stanza condition (RFC 6120 §8.3.3), PubSub condition (XEP-0060 §16.3), section.
//!
//! One table; the edge renders it and the tests read it.

use std::fmt;

/// The `type` of a stanza error (RFC 6120 §8.3.2): what the asker may do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorType {
    Auth,
    Cancel,
    Modify,
    Wait,
}

impl ErrorType {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorType::Auth => "auth",
            ErrorType::Cancel => "cancel",
            ErrorType::Modify => "modify",
            ErrorType::Wait => "wait",
        }
    }
}

/// How a refusal looks on the wire, and where that is written.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub refusal: Refusal,
    pub kind: ErrorType,
    /// Element name in `urn:ietf:params:xml:ns:xmpp-stanzas`.
    pub condition: &'static str,
    /// Element name in `http://jabber.org/protocol/pubsub#errors`.
    pub pubsub: Option<&'static str>,
    /// The `feature` attribute of `unsupported`.
    pub feature: Option<&'static str>,
    /// Section of XEP-0060, unless it names another document.
    pub section: &'static str,
    /// For a person. Where a limit was passed, [`Refusal`]'s `Display` puts the figures behind it.
    pub text: &'static str,
    /// What the figures of a passed limit count.
    pub unit: Option<&'static str>,
}

/// A limit that was passed, and by what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Over {
    /// What came; at least so much, where nobody counted to the end.
    pub size: usize,
    /// What is taken.
    pub most: usize,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident$(($unit:literal))?: $kind:ident $condition:literal $pubsub:expr, $feature:expr, $section:literal, $text:literal;)*) => {
        /// Why a request is refused.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Refusal { $($(#[$doc])* $name$((over!(type $unit)))?,)* }

        /// Every refusal, in the order of the specification.
        pub const TABLE: &[Row] = &[$(Row {
            refusal: Refusal::$name$((over!(none $unit)))?, kind: ErrorType::$kind, condition: $condition,
            pubsub: $pubsub, feature: $feature, section: $section, text: $text, unit: over!(unit $($unit)?),
        },)*];

        impl Refusal {
            /// Its place in the table.
            fn index(self) -> usize {
                enum At { $($name,)* }
                match self { $(Refusal::$name { .. } => At::$name as usize,)* }
            }
        }
    };
}

/// What a row with a unit has more than the others: the figures.
macro_rules! over {
    (type $unit:literal) => {
        Over
    };
    (none $unit:literal) => {
        Over { size: 0, most: 0 }
    };
    (unit $unit:literal) => {
        Some($unit)
    };
    (unit) => {
        None
    };
}

refusals! {
    // Subscribe, §6.1.3
    SubscriberNotSender: Modify "bad-request" Some("invalid-jid"), None, "6.1.3.1", "you can subscribe only your own address";
    PresenceRequired: Auth "not-authorized" Some("presence-subscription-required"), None, "6.1.3.2", "subscribe to this address's presence first";
    ClosedNode: Cancel "not-allowed" Some("closed-node"), None, "6.1.3.4", "only those on the node's list may do this";
    PendingSubscription: Auth "not-authorized" Some("pending-subscription"), None, "6.1.3.7", "your request waits for the owner's approval";
    Outcast: Auth "forbidden" None, None, "6.1.3.8", "you are barred from this node";
    TooManySubscriptions: Wait "policy-violation" Some("too-many-subscriptions"), None, "6.1.3.9", "you have too many subscriptions";
    SubscribeOff: Cancel "feature-not-implemented" Some("unsupported"), Some("subscribe"), "6.1.3.10", "this node takes no subscriptions";
    NodeNotFound: Cancel "item-not-found" None, None, "6.1.3.12", "there is no such node";
    // Unsubscribe, §6.2.3
    NotSubscribed: Cancel "unexpected-request" Some("not-subscribed"), None, "6.2.3.2", "that address is not subscribed";
    InsufficientPrivileges: Auth "forbidden" None, None, "6.2.3.3", "you may not do this";
    InvalidSubid: Modify "not-acceptable" Some("invalid-subid"), None, "6.2.3.5", "the subscription has another subid";
    SubscriptionOptionsUnsupported: Cancel "feature-not-implemented" Some("unsupported"), Some("subscription-options"), "6.3.4.6", "subscriptions have no options here";
    DefaultOptionsUnsupported: Cancel "feature-not-implemented" Some("unsupported"), Some("retrieve-default-sub"), "6.4.3.2", "subscriptions have no options here";
    // Items, §6.5.9
    RetrieveUnsubscribed: Auth "not-authorized" Some("not-subscribed"), None, "6.5.9.3", "only those whose subscription was approved may read this node";
    RetrieveForbidden: Auth "forbidden" None, None, "6.5.9.9", "you may not read this node";
    // Publish, §7.1.3
    PublishForbidden: Auth "forbidden" None, None, "7.1.3.1", "you may not publish to this node";
    PublishNodeNotFound: Cancel "item-not-found" None, None, "7.1.3.3", "there is no such node";
    PayloadTooBig("bytes"): Modify "not-acceptable" Some("payload-too-big"), None, "7.1.3.4", "the payload is too big";
    InvalidPayload: Modify "bad-request" Some("invalid-payload"), None, "7.1.3.5", "the payload cannot be used";
    PayloadRequired: Modify "bad-request" Some("payload-required"), None, "7.1.3.5", "an item here needs a payload";
    ItemRequired: Modify "bad-request" Some("item-required"), None, "7.1.3.5", "exactly one item can be published at a time";
    InvalidItemId: Modify "bad-request" Some("invalid-payload"), None, "7.1.3.5", "an item id has 1 to 256 bytes without control characters or white space at its ends";
    ItemIdTooLong("bytes"): Modify "bad-request" Some("invalid-payload"), None, "7.1.3.5", "the item id is too long";
    PreconditionNotMet: Cancel "conflict" Some("precondition-not-met"), None, "7.1.5", "the node is configured otherwise than the publish options say";
    OverwriteForbidden: Auth "forbidden" None, None, "7.1.3.1", "only its publisher or the node's owner may replace an item";
    // Retract, §7.2.3
    RetractForbidden: Auth "forbidden" None, None, "7.2.3.1", "only its publisher or the node's owner may retract an item";
    ItemNotFound: Cancel "item-not-found" None, None, "7.2.3.2", "there is no such item";
    NodeIdRequired: Modify "bad-request" Some("nodeid-required"), None, "7.2.3.3", "the request names no node";
    RetractItemRequired: Modify "bad-request" Some("item-required"), None, "7.2.3.4", "the request names no item";
    TooManyItems("items"): Modify "policy-violation" None, None, "RFC 6120 §8.3.3.12", "the request names too many items";
    PersistentItemsOff: Cancel "feature-not-implemented" Some("unsupported"), Some("persistent-items"), "7.2.3.5", "this node keeps no items";
    // Create, §8.1
    CreateForbidden: Auth "forbidden" None, None, "8.1.1", "you may not create nodes here";
    NodeExists: Cancel "conflict" None, None, "8.1.1", "a node of this name exists";
    TooManyNodes: Cancel "not-allowed" Some("max-nodes-exceeded"), None, "16.3", "you have made as many nodes here as one may; delete some first";
    InvalidNodeName: Modify "not-acceptable" Some("nodeid-required"), None, "8.1.2", "a node's name has 1 to 1023 bytes without control characters";
    UnsupportedAccessModel: Modify "not-acceptable" Some("unsupported-access-model"), None, "8.1.3", "this access model is not offered";
    CollectionsUnsupported: Cancel "feature-not-implemented" Some("unsupported"), Some("collections"), "8.1", "there are no collection nodes here";
    // Configure, delete, purge, §8.2.3, §8.4.3, §8.5.3
    ConfigureForbidden: Auth "forbidden" None, None, "8.2.3.2", "only an owner may do this";
    ConfigureNodeIdRequired: Modify "bad-request" Some("nodeid-required"), None, "8.2.3.3", "the request names no node";
    InvalidOptions: Modify "not-acceptable" None, None, "8.2.3", "the configuration form has a field or value that cannot be used";
    OwnerNodeNotFound: Cancel "item-not-found" None, None, "8.2.3.5", "there is no such node";
    DeleteForbidden: Auth "forbidden" None, None, "8.4.3.1", "only an owner may delete a node";
    PurgeForbidden: Auth "forbidden" None, None, "8.5.3.2", "only an owner may purge a node";
    PurgePersistentItemsOff: Cancel "feature-not-implemented" Some("unsupported"), Some("persistent-items"), "8.5.3.3", "this node keeps no items";
    // Subscriptions and affiliations of the owner, §8.8, §8.9
    ManageForbidden: Auth "forbidden" None, None, "8.8.1.3", "only an owner may do this";
    InvalidSubscriptionState: Modify "not-acceptable" None, None, "8.8.2.2", "this state or address cannot be set";
    InvalidAffiliation: Modify "not-acceptable" None, None, "8.9.2.2", "this affiliation cannot be set; a node keeps at least one owner";
    TooManyAffiliations: Cancel "policy-violation" None, None, "8.9.2", "the node has as many affiliations as it may; remove some first";
    TooManyChanges: Modify "policy-violation" None, None, "8.8.2 and 8.9.2", "these are too many changes for one request; send fewer at a time";
    // Accounts
    RegistrationRequired: Auth "registration-required" None, None, "8.1.1 and XEP-0077 §3.1", "register an account here first";
    NameTaken: Cancel "conflict" None, None, "XEP-0077 §3.1.1", "this name is taken; choose another";
    NameReserved: Modify "not-acceptable" None, None, "XEP-0077 §3.1.1", "this name cannot be used: it is reserved, or has other characters than a-z, 0-9, '.', '_' and '-'";
    NotYourName: Cancel "not-allowed" None, None, "XEP-0077 §3.1.1", "a name here belongs to the Jabber account of the same name; the administrator can give you another";
    TooManyNames: Cancel "not-allowed" None, None, "XEP-0077 §3.1.1", "you have taken as many names here as one may";
    RegistrationClosed: Cancel "not-allowed" None, None, "XEP-0077 §3.1.1", "accounts are not open to your address here";
    NoSuchAccount: Cancel "item-not-found" None, None, "RFC 6120 §8.3.3.7", "there is no such account here";
    // Everything else
    BadRequest: Modify "bad-request" None, None, "RFC 6120 §8.3.3.1", "the request cannot be understood";
    Unsupported: Cancel "feature-not-implemented" None, None, "RFC 6120 §8.3.3.3", "this is not offered here";
    UnknownRequest: Cancel "service-unavailable" None, None, "RFC 6120 §8.3.3.19", "this is not offered here";
    Busy: Wait "resource-constraint" None, None, "RFC 6120 §8.3.3.18", "there is too much to do at the moment; try again later";
    StanzaTooBig: Modify "policy-violation" None, None, "RFC 6120 §8.3.3.12", "the stanza is bigger than is read here";
    TooManyFields("values"): Modify "policy-violation" None, None, "RFC 6120 §8.3.3.12", "the form has too many fields";
    AnswerTooBig("bytes"): Modify "policy-violation" None, None, "RFC 6120 §8.3.3.12", "the answer would be too big; ask for less at a time";
    Failed: Wait "internal-server-error" None, None, "RFC 6120 §8.3.3.6", "something went wrong here, and is noted; try again later";
    StoreFailed: Wait "internal-server-error" None, None, "RFC 6120 §8.3.3.6", "the store failed, and whether this was done is not certain; look, and try again later";
}

impl Refusal {
    pub fn row(self) -> &'static Row {
        // The table is made of the same list as the variants, in the same order.
        &TABLE[self.index()]
    }

    /// By how much a limit was passed, where that is why.
    fn over(self) -> Option<Over> {
        match self {
            Refusal::PayloadTooBig(over)
            | Refusal::ItemIdTooLong(over)
            | Refusal::TooManyItems(over)
            | Refusal::TooManyFields(over)
            | Refusal::AnswerTooBig(over) => Some(over),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.row();
        f.write_str(row.text)?;
        match (self.over(), row.unit) {
            (Some(Over { size, most }), Some(unit)) => write!(f, ": {size} {unit}, at most {most} are taken"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6120 §8.3.3.
    const CONDITIONS: &[&str] = &[
        "bad-request",
        "conflict",
        "feature-not-implemented",
        "forbidden",
        "gone",
        "internal-server-error",
        "item-not-found",
        "jid-malformed",
        "not-acceptable",
        "not-allowed",
        "not-authorized",
        "policy-violation",
        "recipient-unavailable",
        "redirect",
        "registration-required",
        "remote-server-not-found",
        "remote-server-timeout",
        "resource-constraint",
        "service-unavailable",
        "subscription-required",
        "undefined-condition",
        "unexpected-request",
    ];

    #[test]
    fn each_refusal_finds_its_own_row() {
        for row in TABLE {
            assert_eq!(row.refusal.row().refusal, row.refusal);
            assert_eq!(row.pubsub == Some("unsupported"), row.feature.is_some(), "{:?}", row.refusal);
            assert!(!row.text.ends_with('.'));
            assert!(CONDITIONS.contains(&row.condition), "{}", row.condition);
            assert_eq!(row.refusal.over().is_some(), row.unit.is_some(), "{:?}", row.refusal);
        }
    }

    #[test]
    fn a_passed_limit_is_told_in_figures() {
        let told = Refusal::PayloadTooBig(Over { size: 300, most: 200 }).to_string();
        assert_eq!(told, "the payload is too big: 300 bytes, at most 200 are taken");
    }
}
