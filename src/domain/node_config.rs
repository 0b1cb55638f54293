//! The configuration of a node (XEP-0060 §16.4.4) as fields of a form: defaults by kind, reading, checking, writing.

use serde::{Deserialize, Serialize};

use super::node::NodeKind;

/// Who may subscribe and read (XEP-0060 §4.5). `roster` is not offered: it needs the owner's roster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AccessModel {
    Open,
    Presence,
    Authorize,
    Whitelist,
}

/// Who may publish (`pubsub#publish_model`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PublishModel {
    Publishers,
    Subscribers,
    Open,
}

/// When a subscriber gets the last item unasked (`pubsub#send_last_published_item`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SendLast {
    Never,
    OnSub,
    OnSubAndPresence,
}

/// The `type` of notification messages (`pubsub#notification_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NotificationType {
    Normal,
    Headline,
}

macro_rules! words {
    ($type:ty { $($variant:path = $word:literal $label:literal),* $(,)? }) => {
        impl $type {
            /// The words of the form, each with a label for a person.
            pub const WORDS: &'static [(&'static str, &'static str)] = &[$(($word, $label)),*];
            pub fn as_str(self) -> &'static str { match self { $($variant => $word),* } }
            pub fn parse(word: &str) -> Option<Self> { match word { $($word => Some($variant),)* _ => None } }
        }
    };
}

words!(AccessModel {
    AccessModel::Open = "open" "Anybody may subscribe and read",
    AccessModel::Presence = "presence" "Whoever is subscribed to the owner's presence",
    AccessModel::Authorize = "authorize" "The owner approves each subscriber",
    AccessModel::Whitelist = "whitelist" "Only those on the list",
});
words!(PublishModel {
    PublishModel::Publishers = "publishers" "Only publishers",
    PublishModel::Subscribers = "subscribers" "Publishers and subscribers",
    PublishModel::Open = "open" "Anybody",
});
words!(SendLast {
    SendLast::Never = "never" "Never",
    SendLast::OnSub = "on_sub" "When somebody subscribes",
    SendLast::OnSubAndPresence = "on_sub_and_presence" "When somebody subscribes or comes online",
});
words!(NotificationType {
    NotificationType::Normal = "normal" "Normal messages",
    NotificationType::Headline = "headline" "Headlines",
});

/// All that an owner can set. Every field has its default in [`NodeConfig::default_for`], and nowhere else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    pub title: String,
    pub description: String,
    /// `pubsub#type`: the namespace of the payloads.
    pub payload_type: String,
    pub language: String,
    pub access_model: AccessModel,
    pub publish_model: PublishModel,
    /// `None` is `max`: as many as the service keeps.
    pub max_items: Option<u32>,
    /// Bytes of one canonical payload.
    pub max_payload_size: u32,
    pub persist_items: bool,
    pub deliver_payloads: bool,
    pub deliver_notifications: bool,
    pub notify_config: bool,
    pub notify_delete: bool,
    pub notify_retract: bool,
    pub send_last: SendLast,
    pub notification_type: NotificationType,
    /// `pubsub#subscribe`: whether subscriptions are taken at all.
    pub subscribe: bool,
}

/// As many items as any node keeps: `max`.
pub const ITEMS_MAX: u32 = 1_000_000;
/// As big as any payload gets; the stanza around it must pass Prosody's 512 KiB.
pub const PAYLOAD_MAX: u32 = 200_000;
/// The payload of microblog and comments nodes.
pub const ATOM: &str = "http://www.w3.org/2005/Atom";

/// The kind of a form's field (XEP-0004 §3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldType {
    Boolean,
    TextSingle,
    ListSingle,
}

/// Submitted fields of a configuration form or of publish-options, without FORM_TYPE: name and values.
pub type Fields = Vec<(String, Vec<String>)>;

/// One field of the form, with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    pub var: &'static str,
    pub kind: FieldType,
    pub label: &'static str,
    pub value: String,
    /// Of a list: word and label.
    pub options: &'static [(&'static str, &'static str)],
}

/// Why a submitted field cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldError {
    /// No such field.
    Unknown,
    /// Not a value of this field.
    Value,
    /// An access model that is known but not offered, or unknown.
    AccessModel,
}

impl NodeConfig {
    pub fn default_for(kind: NodeKind) -> Self {
        let base = NodeConfig {
            title: String::new(),
            description: String::new(),
            payload_type: String::new(),
            language: String::new(),
            access_model: AccessModel::Open,
            publish_model: PublishModel::Publishers,
            max_items: None,
            max_payload_size: PAYLOAD_MAX,
            persist_items: true,
            // COMPAT: Movim drops events without payload from user@host; XEP-0472 §5.1 would have them off.
            deliver_payloads: true,
            deliver_notifications: true,
            notify_config: false,
            notify_delete: true,
            notify_retract: true,
            send_last: SendLast::Never,
            notification_type: NotificationType::Headline,
            subscribe: true,
        };
        match kind {
            NodeKind::Microblog => NodeConfig { payload_type: ATOM.to_owned(), ..base },
            // Whoever may read a post may answer it, from wherever.
            NodeKind::Comments => {
                NodeConfig { payload_type: ATOM.to_owned(), publish_model: PublishModel::Open, ..base }
            }
            NodeKind::Leaf => base,
        }
    }

    /// Every field, in the order of a form.
    pub fn fields(&self) -> Vec<Field> {
        let text = |var, label, value: &str| Field {
            var,
            kind: FieldType::TextSingle,
            label,
            value: value.to_owned(),
            options: &[],
        };
        let flag = |var, label, value: bool| Field {
            var,
            kind: FieldType::Boolean,
            label,
            value: if value { "1" } else { "0" }.to_owned(),
            options: &[],
        };
        let list = |var, label, value: &str, options| Field {
            var,
            kind: FieldType::ListSingle,
            label,
            value: value.to_owned(),
            options,
        };
        let max_items = self.max_items.map_or_else(|| "max".to_owned(), |n| n.to_string());
        vec![
            text("pubsub#title", "A short name for the node", &self.title),
            text("pubsub#description", "What the node is about", &self.description),
            text("pubsub#type", "The namespace of the payloads", &self.payload_type),
            text("pubsub#language", "The language of the items", &self.language),
            list("pubsub#access_model", "Who may subscribe and read", self.access_model.as_str(), AccessModel::WORDS),
            list("pubsub#publish_model", "Who may publish", self.publish_model.as_str(), PublishModel::WORDS),
            text("pubsub#max_items", "How many items are kept ('max': as many as possible)", &max_items),
            text("pubsub#max_payload_size", "The largest payload, in bytes", &self.max_payload_size.to_string()),
            flag("pubsub#persist_items", "Whether items are kept", self.persist_items),
            flag("pubsub#deliver_payloads", "Whether notifications carry the payload", self.deliver_payloads),
            flag("pubsub#deliver_notifications", "Whether subscribers are notified", self.deliver_notifications),
            flag("pubsub#notify_config", "Whether subscribers are told of a new configuration", self.notify_config),
            flag("pubsub#notify_delete", "Whether subscribers are told of the node's end", self.notify_delete),
            flag("pubsub#notify_retract", "Whether subscribers are told of retracted items", self.notify_retract),
            list(
                "pubsub#send_last_published_item",
                "When the last item is sent unasked",
                self.send_last.as_str(),
                SendLast::WORDS,
            ),
            list(
                "pubsub#notification_type",
                "The type of notification messages",
                self.notification_type.as_str(),
                NotificationType::WORDS,
            ),
            flag("pubsub#subscribe", "Whether subscriptions are taken", self.subscribe),
        ]
    }

    /// Sets the field `var` to the submitted `values` (XEP-0060 §8.2.4). Nothing is changed after an error.
    pub fn set(&mut self, var: &str, values: &[&str]) -> Result<(), FieldError> {
        let one = || match values {
            [] => Ok(""),
            [value] => Ok(value.trim()),
            _ => Err(FieldError::Value),
        };
        let flag = || match one()? {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(FieldError::Value),
        };
        let text = |limit: usize| {
            let value = one()?;
            let fits = value.len() <= limit && !value.chars().any(char::is_control);
            fits.then(|| value.to_owned()).ok_or(FieldError::Value)
        };
        match var {
            "pubsub#title" => self.title = text(255)?,
            // A description may have lines: text-multi comes as several values.
            "pubsub#description" => {
                let value = values.join("\n");
                if value.len() > 4096 || value.chars().any(|c| c.is_control() && c != '\n') {
                    return Err(FieldError::Value);
                }
                self.description = value;
            }
            "pubsub#type" => self.payload_type = text(1023)?,
            "pubsub#language" => self.language = text(64)?,
            "pubsub#access_model" => self.access_model = AccessModel::parse(one()?).ok_or(FieldError::AccessModel)?,
            "pubsub#publish_model" => self.publish_model = PublishModel::parse(one()?).ok_or(FieldError::Value)?,
            // XEP-0060 §16.4.4: integer-or-max; an empty value is the default.
            "pubsub#max_items" => {
                self.max_items = match one()? {
                    "max" | "" => None,
                    number => {
                        Some(number.parse::<u32>().ok().filter(|n| *n >= 1).ok_or(FieldError::Value)?.min(ITEMS_MAX))
                    }
                }
            }
            "pubsub#max_payload_size" => {
                self.max_payload_size = match one()? {
                    "max" | "" => PAYLOAD_MAX,
                    number => number.parse::<u32>().ok().filter(|n| *n >= 1).ok_or(FieldError::Value)?.min(PAYLOAD_MAX),
                }
            }
            "pubsub#persist_items" => self.persist_items = flag()?,
            "pubsub#deliver_payloads" => self.deliver_payloads = flag()?,
            "pubsub#deliver_notifications" => self.deliver_notifications = flag()?,
            "pubsub#notify_config" => self.notify_config = flag()?,
            "pubsub#notify_delete" => self.notify_delete = flag()?,
            "pubsub#notify_retract" => self.notify_retract = flag()?,
            "pubsub#send_last_published_item" => self.send_last = SendLast::parse(one()?).ok_or(FieldError::Value)?,
            "pubsub#notification_type" => {
                self.notification_type = NotificationType::parse(one()?).ok_or(FieldError::Value)?
            }
            "pubsub#subscribe" => self.subscribe = flag()?,
            // Sent by clients with the values that we have in any case, or that nothing depends on here.
            "pubsub#notify_sub"
            | "pubsub#itemreply"
            | "pubsub#purge_offline"
            | "pubsub#presence_based_delivery"
            | "pubsub#tempsub"
            | "pubsub#roster_groups_allowed"
            | "pubsub#contact"
            | "pubsub#item_expire"
            | "pubsub#publish_node_full"
            | "pubsub#children_max"
            | "pubsub#node_type"
            | "pubsub#collection" => {}
            _ => return Err(FieldError::Unknown),
        }
        Ok(())
    }

    /// Whether the node already is as the publish option says (XEP-0060 §7.1.5: an unregistered option is a
    /// precondition on the configuration). `max` and the largest number are the same wish.
    pub fn meets(&self, var: &str, values: &[&str]) -> Result<bool, FieldError> {
        let mut wanted = self.clone();
        wanted.set(var, values)?;
        Ok(wanted == *self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_form_can_be_submitted_as_it_stands() {
        for kind in [NodeKind::Microblog, NodeKind::Comments, NodeKind::Leaf] {
            let config = NodeConfig::default_for(kind);
            let mut copy = config.clone();
            for field in config.fields() {
                copy.set(field.var, &[&field.value]).unwrap_or_else(|e| panic!("{}: {e:?}", field.var));
                assert!(field.options.is_empty() || field.options.iter().any(|(word, _)| *word == field.value));
                assert_eq!(config.meets(field.var, &[&field.value]), Ok(true), "{}", field.var);
            }
            assert_eq!(copy, config);
        }
    }

    #[test]
    fn a_wrong_value_is_refused_and_changes_nothing() {
        let config = NodeConfig::default_for(NodeKind::Leaf);
        for (var, values, error) in [
            ("pubsub#max_items", &["0"][..], FieldError::Value),
            ("pubsub#max_items", &["-1"], FieldError::Value),
            ("pubsub#persist_items", &["maybe"], FieldError::Value),
            ("pubsub#persist_items", &["1", "0"], FieldError::Value),
            ("pubsub#access_model", &["roster"], FieldError::AccessModel),
            ("pubsub#title", &["a\u{7}"], FieldError::Value),
            ("pubsub#nonsense", &["1"], FieldError::Unknown),
        ] {
            let mut copy = config.clone();
            assert_eq!(copy.set(var, values), Err(error), "{var}");
            assert_eq!(copy, config);
        }
    }

    #[test]
    fn a_publish_option_that_differs_is_no_match() {
        let config = NodeConfig::default_for(NodeKind::Microblog);
        assert_eq!(config.meets("pubsub#access_model", &["whitelist"]), Ok(false));
        assert_eq!(config.meets("pubsub#max_items", &["max"]), Ok(true));
        assert_eq!(config.meets("pubsub#max_items", &["1"]), Ok(false));
    }
}
