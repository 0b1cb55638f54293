//! What a hub sends: verification of intent (WebSub §5.3, PuSH 0.3 §6.2, PuSH 0.4 §5.3) and content distribution
//! (WebSub §7): the whole topic as it is now, signed if the subscriber gave a secret.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{self, HeaderName, HeaderValue};
use url::Url;

use super::Inner;
use crate::domain::address::LocalName;
use crate::domain::delivery::{Outcome, Scope};
use crate::domain::error::Refusal;
use crate::domain::event::What;
use crate::domain::hub::{HubSubscription, Intent, Mode};
use crate::domain::item::ItemId;
use crate::format::{feed, signature};
use crate::http::client::{Connection, FetchError, Limits, Overlong, Redirects, Request, Response};
use crate::network::{Report, Task};
use crate::service::topics::{PAGE, Topic, Window};

/// The longest that a subscriber may make us wait by `Retry-After`.
const WAIT_MOST: Duration = Duration::from_secs(24 * 3600);

/// And the shortest: an hour ago, or at once, is no time at all.
const WAIT_LEAST: Duration = Duration::from_secs(5);

/// A callback whose name leads nowhere is asked no longer than this: names cost nothing, and each request in such a name
/// would wait here for hours.
const NAMELESS: Duration = Duration::from_secs(600);

/// A callback that is to be verified has us wait no longer than this: what was asked for in its name keeps a place.
const ASK_MOST: Duration = Duration::from_secs(900);

/// Asks the callback whether it wants what was asked for in its name.
pub(super) async fn verify(inner: &Inner, task: &Task) -> Outcome {
    let What::Verify(intent) = &task.event.what else {
        return Outcome::Refused("there is nothing to verify".to_owned());
    };
    let Ok(callback) = Url::parse(&intent.callback) else {
        return Outcome::Refused("the callback is no URL".to_owned());
    };
    // Where it leads now.
    let addresses = match inner.client.addresses(&callback).await {
        Ok(addresses) => addresses,
        Err(error @ (FetchError::Dns(_) | FetchError::Refused(_)))
            if inner.service.clock.lived_since(task.at) >= NAMELESS =>
        {
            return Outcome::Refused(format!("the callback leads nowhere: {error}"));
        }
        Err(error) => return failed(&error),
    };
    // Each waits longer than the time before: thousands that came back every second would leave no room for anybody.
    if inner.bounds.asking(&addresses, inner.service.clock.moment()).is_err() {
        return not_now("too many callbacks are asked in its network".to_owned());
    }
    // The request goes there and nowhere else.
    let _pin = inner.client.pin(&callback, addresses);
    // WebSub §5.2: what was closed since it was asked for is denied.
    let closed = match inner.account_of(&task.event) {
        Some(name) if intent.mode == Mode::Subscribe => inner.service.hub_topic(name).await.err().and_then(over),
        _ => None,
    };
    let request = Request {
        redirects: Redirects::None,
        // One byte more than the right answer has: a longer one is not equal.
        limits: Limits { body: intent.challenge.len() + 1, overlong: Overlong::Cut, total: Duration::from_secs(30) },
        // One that was left open would lead to where an earlier question, or a push, for this name went.
        connection: Connection::Own,
        ..Request::get(match closed {
            Some(reason) => denial(callback, &intent.topic, reason),
            None => question(callback, intent),
        })
    };
    let response = match inner.client.fetch(request).await {
        Ok(response) => response,
        Err(error) => return failed(&error),
    };
    if let Some(reason) = closed {
        return Outcome::Refused(reason.to_owned());
    }
    let status = response.status;
    if status.is_success() {
        // WebSub §5.3.1: the body must be the challenge. Without this check anybody could have us flood anybody.
        return match response.body == intent.challenge.as_bytes() {
            true => Outcome::Done,
            false => Outcome::Refused("the callback did not answer with the challenge".to_owned()),
        };
    }
    let why = format!("the callback answered {}", status.as_u16());
    match status {
        // Anybody may ask in anybody's name: the answer holds up nobody who is subscribed there, and hastens nobody.
        _ if is_later(status) || status.is_server_error() => later(inner, &response, why, Scope::Task, ASK_MOST),
        // WebSub §5.3.1: 404 says no; so does, for us, every other answer.
        _ => Outcome::Refused(why),
    }
}

/// The callback with what it is asked behind its own query (WebSub §5.3).
fn question(mut callback: Url, intent: &Intent) -> Url {
    {
        let mut query = callback.query_pairs_mut();
        query.append_pair("hub.mode", intent.mode.as_str());
        query.append_pair("hub.topic", &intent.topic);
        query.append_pair("hub.challenge", &intent.challenge);
        if intent.mode == Mode::Subscribe {
            query.append_pair("hub.lease_seconds", &intent.lease_seconds.to_string());
        }
        if let Some(token) = &intent.verify_token {
            query.append_pair("hub.verify_token", token);
        }
    }
    callback
}

/// The callback with the word that nothing comes of a subscription, or nothing more (WebSub §5.2).
fn denial(mut callback: Url, topic: &str, reason: &str) -> Url {
    callback
        .query_pairs_mut()
        .append_pair("hub.mode", "denied")
        .append_pair("hub.topic", topic)
        .append_pair("hub.reason", reason);
    callback
}

/// Brings `tasks`, in order, to the subscriber `id`. One push tells all of them that it shows.
pub(super) async fn distribute(inner: &Inner, id: u64, tasks: &[Task], report: &Report) {
    let mut rest = tasks;
    while !rest.is_empty() {
        let (told, outcome) = match next_push(inner, id, rest).await {
            Ok((subscription, topic, told)) => (told, push(inner, &subscription, &topic).await),
            Err(outcome) => (rest.len(), outcome),
        };
        let (now, behind) = rest.split_at(told.clamp(1, rest.len()));
        if let Outcome::Retry { .. } = outcome {
            // What stands behind it was not handed over, and has no outcome.
            if let Some(task) = now.first() {
                report.ended(task.seq, outcome);
            }
            return;
        }
        let over = outcome != Outcome::Done;
        for task in if over { rest } else { now } {
            report.ended(task.seq, outcome.clone());
        }
        rest = if over { &[] } else { behind };
    }
}

/// Tells a subscriber that the hub ends its subscription (WebSub §5.2). Nothing is made of the answer: only who cannot
/// be reached is told later.
async fn deny(inner: &Inner, subscription: &HubSubscription, reason: &str) -> Outcome {
    let ended = Outcome::Gone(reason.to_owned());
    let Ok(callback) = Url::parse(&subscription.callback) else { return ended };
    let callback = denial(callback, &subscription.topic, reason);
    let limits = Limits { body: 1, overlong: Overlong::Cut, total: Duration::from_secs(30) };
    let request = Request { redirects: Redirects::None, limits, ..Request::get(callback) };
    match inner.client.fetch(request).await {
        Ok(response) if is_later(response.status) => later(
            inner,
            &response,
            format!("the callback answered {}", response.status.as_u16()),
            Scope::Host,
            WAIT_MOST,
        ),
        Ok(_) => ended,
        Err(error) => match failed(&error) {
            retry @ Outcome::Retry { .. } => retry,
            _ => ended,
        },
    }
}

/// What to send now: to whom, the document, and how many of `tasks` it tells. Errors: the outcome of all of them; who is
/// subscribed to what cannot be had any more was told so.
async fn next_push(inner: &Inner, id: u64, tasks: &[Task]) -> Result<(HubSubscription, Arc<Topic>, usize), Outcome> {
    let read = inner.service.store.in_background().read(move |r| r.hub_subscription_by_id(id)).await;
    let (_, subscription) = match read {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Outcome::Gone("the subscription has ended".to_owned())),
        Err(error) => return Err(not_now(error.to_string())),
    };
    if subscription.until <= inner.service.clock.now() {
        // WebSub §5.1: a subscription ends with its lease.
        return Err(Outcome::Gone("the lease has ended".to_owned()));
    }
    if tasks.iter().any(|task| task.event.what == What::Deleted) {
        // Nothing of what came before can be shown any more.
        return Err(deny(inner, &subscription, "the feed was deleted").await);
    }
    let name = tasks.first().and_then(|task| inner.account_of(&task.event));
    let name = name.ok_or_else(|| Outcome::Gone("the topic has ended".to_owned()))?;
    match choose(inner, &name, tasks).await {
        Ok((topic, told)) => Ok((subscription, topic, told)),
        Err(refusal) => Err(match over(refusal) {
            Some(reason) => deny(inner, &subscription, reason).await,
            None => not_now(refusal.to_string()),
        }),
    }
}

/// The document that tells the first of `tasks`, and how many it tells. Mostly the topic as it is, which tells all. Where
/// more posts are waiting than it shows, as after a long silence of the subscriber, older ones come first, in documents
/// of the same form, so that each post is seen once at least and in order.
async fn choose(inner: &Inner, name: &LocalName, tasks: &[Task]) -> Result<(Arc<Topic>, usize), Refusal> {
    let newest = inner.topics.get(name, Window::Newest).await?;
    let items: Vec<ItemId> = tasks.iter().filter_map(published).cloned().collect();
    let mut found = inner.service.post_places(name.clone(), items).await?.into_iter();
    // Where each task's post stands; `None` for what every document tells: a post that is gone, a retraction.
    let places: Vec<Option<u64>> =
        tasks.iter().map(|task| published(task).and_then(|_| found.next().flatten())).collect();
    let told_by = |topic: &Topic| {
        let told = |place: &&Option<u64>| place.is_none_or(|place| topic.places.contains(&place));
        places.iter().take_while(told).count()
    };
    let told = told_by(&newest);
    if told > 0 || places.is_empty() {
        return Ok((newest, told));
    }
    let run: Vec<u64> = places.iter().map_while(|p| p.filter(|p| !newest.places.contains(p))).take(PAGE).collect();
    for up_to in [run.iter().copied().max(), run.first().copied()].into_iter().flatten() {
        let older = inner.topics.get(name, Window::UpTo(up_to)).await?;
        let told = told_by(&older);
        if told > 0 {
            return Ok((older, told));
        }
    }
    // It went in this moment: then the topic tells it.
    Ok((newest, 1))
}

fn published(task: &Task) -> Option<&ItemId> {
    match &task.event.what {
        What::Published { item, .. } => Some(item),
        _ => None,
    }
}

/// One push (WebSub §7).
async fn push(inner: &Inner, subscription: &HubSubscription, topic: &Topic) -> Outcome {
    let Ok(callback) = Url::parse(&subscription.callback) else {
        return Outcome::Gone("the callback is no URL".to_owned());
    };
    let mut request = Request::post(callback, topic.body.clone())
        .header(header::CONTENT_TYPE, HeaderValue::from_static(feed::MEDIA_TYPE));
    let signature =
        subscription.secret.as_ref().map(|secret| signature::sign(subscription.digest, secret, &topic.body));
    let links = topic.links(&inner.service.addresses);
    let headers = [(header::LINK, Some(links)), (HeaderName::from_static("x-hub-signature"), signature)];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            request = request.header(name, value);
        }
    }
    let response = match inner.client.fetch(request).await {
        Ok(response) => response,
        Err(error) => return failed(&error),
    };
    let status = response.status;
    let why = format!("the callback answered {}", status.as_u16());
    match status {
        _ if status.is_success() => Outcome::Done,
        // WebSub §7: the subscriber does not want it any more.
        StatusCode::GONE => Outcome::Gone(why),
        _ if is_later(status) => later(inner, &response, why, Scope::Host, WAIT_MOST),
        // Redirects are not followed (WebSub §7): the address that was verified is the one that gets it.
        _ => later(inner, &response, why, Scope::Destination, WAIT_MOST),
    }
}

/// Answers by which a whole host asks us to wait.
fn is_later(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// `most`: the longest that we wait because it asks for it.
fn later(inner: &Inner, response: &Response, why: String, scope: Scope, most: Duration) -> Outcome {
    let after = response.retry_after(inner.service.clock.now(), most).map(|after| after.max(WAIT_LEAST));
    Outcome::Retry { why, after, scope }
}

/// What an exchange that did not come about means.
fn failed(error: &FetchError) -> Outcome {
    let why = error.to_string();
    let scope = match error {
        error if error.is_host_level() => Scope::Host,
        FetchError::Busy | FetchError::Timeout | FetchError::Exchange(_) => Scope::Task,
        _ => Scope::Destination,
    };
    match error {
        FetchError::Refused(_) if !error.is_temporary() => Outcome::Refused(why),
        _ => Outcome::Retry { why, after: None, scope },
    }
}

/// Why a topic that is refused so is over; `None` if it may be had later.
fn over(refusal: Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::NoSuchAccount => Some("the account has ended"),
        Refusal::RetrieveForbidden => Some("the feed is not public any more"),
        _ => None,
    }
}

fn not_now(why: String) -> Outcome {
    Outcome::Retry { why, after: None, scope: Scope::Task }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hub::Digest;

    #[test]
    fn the_question_stands_behind_the_callbacks_own_query() {
        let mut intent = Intent {
            mode: Mode::Subscribe,
            topic: "https://p.example/@a.atom".into(),
            callback: String::new(),
            secret: None,
            lease_seconds: 300,
            challenge: "c".into(),
            verify_token: None,
            digest: Digest::Sha256,
        };
        let ask = |callback: &str, intent: &Intent| question(Url::parse(callback).unwrap(), intent).to_string();
        let asked =
            "hub.mode=subscribe&hub.topic=https%3A%2F%2Fp.example%2F%40a.atom&hub.challenge=c&hub.lease_seconds=300";
        assert_eq!(ask("https://s.example/cb", &intent), format!("https://s.example/cb?{asked}"));
        assert_eq!(ask("https://s.example/cb?id=%41+b&x", &intent), format!("https://s.example/cb?id=%41+b&x&{asked}"));
        intent.mode = Mode::Unsubscribe;
        intent.verify_token = Some("t&1".into());
        let asked = ask("https://s.example/", &intent);
        assert!(asked.ends_with("&hub.challenge=c&hub.verify_token=t%261"), "{asked}");
    }
}
