//! Ordinary PubSub nodes at the component's own JID, and what anybody may ask about the service.

use crate::support::client::{
    Client, EVENT, MICROBLOG, OWNER, PUBSUB, entry, event_items, item_ids, items, publish, subscribe,
};
use crate::support::rookery::Rookery;
use crate::support::servers::{SOCIAL, Server, at_social};

use super::story::post;

const INFO: &str = "http://jabber.org/protocol/disco#info";
const ITEMS: &str = "http://jabber.org/protocol/disco#items";

pub async fn a_leaf_node_lives_and_dies_at_the_component(server: Server) {
    let _rookery = Rookery::start(&server).await;
    let mut juliet = server.login("juliet").await;
    let mut romeo = server.login("romeo").await;

    // juliet makes a node and says how it shall be, in one request (XEP-0060 §8.1.3).
    juliet
        .set(SOCIAL, &create("balcony", &[("pubsub#title", "The balcony"), ("pubsub#max_items", "5")]))
        .await
        .unwrap();
    let twice = juliet.set(SOCIAL, &create("balcony", &[])).await.unwrap_err();
    assert_eq!(twice.refusal().map(|r| r.condition.as_str()), Some("conflict"), "{twice}");

    // She is its owner: she may read and change the configuration, romeo may not.
    let configure = format!("<pubsub xmlns='{OWNER}'><configure node='balcony'/></pubsub>");
    let form = juliet.get(SOCIAL, &configure).await.unwrap();
    assert!(String::from(&form).contains("The balcony"), "{}", String::from(&form));
    let refused = romeo.get(SOCIAL, &configure).await.unwrap_err();
    assert_eq!(refused.refusal().map(|r| (r.kind.as_str(), r.condition.as_str())), Some(("auth", "forbidden")));
    let change = format!(
        "<pubsub xmlns='{OWNER}'><configure node='balcony'>{}</configure></pubsub>",
        form_of(&[("pubsub#title", "The garden")])
    );
    juliet.set(SOCIAL, &change).await.unwrap();
    let form = juliet.get(SOCIAL, &configure).await.unwrap();
    assert!(String::from(&form).contains("The garden"), "{}", String::from(&form));

    // romeo listens but may not speak.
    romeo.set(SOCIAL, &subscribe("balcony", "romeo@montague.test")).await.unwrap();
    let refused =
        romeo.set(SOCIAL, &publish("balcony", "his", &entry("I would I were thy bird", "his"))).await.unwrap_err();
    assert_eq!(refused.refusal().map(|r| (r.kind.as_str(), r.condition.as_str())), Some(("auth", "forbidden")));
    juliet.set(SOCIAL, &publish("balcony", "hers", &entry("Sweet, so would I", "hers"))).await.unwrap();
    romeo.event(SOCIAL, "balcony", "hers").await.unwrap();
    let found = romeo.get(SOCIAL, &items("balcony")).await.unwrap();
    assert_eq!(item_ids(&found), ["hers"]);

    // It ends; he is told; nothing is left to ask for.
    juliet.set(SOCIAL, &format!("<pubsub xmlns='{OWNER}'><delete node='balcony'/></pubsub>")).await.unwrap();
    romeo
        .expect("the end of the node", |stanza| {
            let event = stanza.get_child("event", EVENT);
            event.and_then(|event| event.get_child("delete", EVENT)).and_then(|it| it.attr("node")) == Some("balcony")
        })
        .await
        .unwrap();
    let gone = romeo.get(SOCIAL, &items("balcony")).await.unwrap_err();
    assert_eq!(gone.refusal().map(|r| r.condition.as_str()), Some("item-not-found"), "{gone}");
    assert!(event_items(&found, "balcony").is_empty(), "an answer is no event");
}

pub async fn everybody_may_ask_who_we_are(server: Server) {
    let _rookery = Rookery::start(&server).await;
    let mut alice = server.login("alice").await;
    let mut nurse = server.login("nurse").await;
    post(&mut alice, "first", "Good morrow").await;
    alice.set(SOCIAL, &create("news", &[])).await.unwrap();
    let hers = at_social("alice");

    let about = disco(&mut nurse, SOCIAL, None).await;
    assert!(about.contains("category='pubsub'") && about.contains("type='service'"), "{about}");
    for feature in [PUBSUB, INFO, "urn:xmpp:ping", "jabber:iq:version", "urn:xmpp:time", "jabber:iq:register"] {
        assert!(about.contains(feature), "{feature} is not offered: {about}");
    }
    let about = disco(&mut nurse, &hers, None).await;
    assert!(about.contains("category='pubsub'") && about.contains("type='pep'"), "{about}");
    let about = disco(&mut nurse, &hers, Some(MICROBLOG)).await;
    assert!(about.contains("type='leaf'"), "{about}");

    let nodes = nurse.get(SOCIAL, &format!("<query xmlns='{ITEMS}'/>")).await.unwrap();
    assert!(String::from(&nodes).contains("news"), "{}", String::from(&nodes));
    let nodes = nurse.get(&hers, &format!("<query xmlns='{ITEMS}'/>")).await.unwrap();
    assert!(String::from(&nodes).contains(MICROBLOG), "{}", String::from(&nodes));

    // XEP-0199, XEP-0092, XEP-0202.
    nurse.get(SOCIAL, "<ping xmlns='urn:xmpp:ping'/>").await.unwrap();
    nurse.get(&hers, "<ping xmlns='urn:xmpp:ping'/>").await.unwrap();
    let version = nurse.get(SOCIAL, "<query xmlns='jabber:iq:version'/>").await.unwrap();
    assert!(String::from(&version).contains(env!("CARGO_PKG_VERSION")), "{}", String::from(&version));
    let time = nurse.get(SOCIAL, "<time xmlns='urn:xmpp:time'/>").await.unwrap();
    assert!(String::from(&time).contains("<utc>"), "{}", String::from(&time));

    // What we do not know is refused, not passed over.
    let unknown = nurse.get(SOCIAL, "<query xmlns='urn:example:nothing'/>").await.unwrap_err();
    assert_eq!(unknown.refusal().map(|r| r.condition.as_str()), Some("service-unavailable"), "{unknown}");
    let nobody = nurse.get(&at_social("nobody"), &format!("<query xmlns='{INFO}'/>")).await.unwrap_err();
    assert!(nobody.refusal().is_some(), "{nobody}");
}

/// `<pubsub/>` that creates a node with these fields configured.
pub fn create(node: &str, fields: &[(&str, &str)]) -> String {
    let form = form_of(fields);
    format!("<pubsub xmlns='{PUBSUB}'><create node='{node}'/><configure>{form}</configure></pubsub>")
}

fn form_of(fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| format!("<field var='{name}'><value>{value}</value></field>");
    let fields: String = fields.iter().map(field).collect();
    format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
         <value>http://jabber.org/protocol/pubsub#node_config</value></field>{fields}</x>"
    )
}

/// The answer to disco#info (XEP-0030 §3), as text with one kind of quotes.
async fn disco(client: &mut Client, jid: &str, node: Option<&str>) -> String {
    let node = node.map(|node| format!(" node='{node}'")).unwrap_or_default();
    let answer = client.get(jid, &format!("<query xmlns='{INFO}'{node}/>")).await;
    let answer = answer.unwrap_or_else(|failure| panic!("disco#info of {jid}: {failure}"));
    String::from(&answer).replace('"', "'")
}
