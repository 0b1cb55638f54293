//! The administrator's listener: `/healthz`, `/readyz`, and `/metrics` in the OpenMetrics text format 1.0.
//!
//! Nothing is counted here: each part of the house keeps its own figures, and `app` hands them in as [`Source`]s.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use crate::http::problem::problem;
use crate::store::Store;

/// A store that has not answered for this long is not ready.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(3);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One figure at this moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// Without our prefix and without `_total`: `queue_done`. Lower case, `_` between words, the unit last.
    pub name: Cow<'static, str>,
    /// For a person, one line. The same for all figures of this name.
    pub help: &'static str,
    pub kind: Kind,
    /// Few and bounded in number: no addresses, no names of people.
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, from the start of the process on.
    Counter,
    Gauge,
}

impl Figure {
    pub fn counter(name: impl Into<Cow<'static, str>>, help: &'static str, value: u64) -> Self {
        Figure { name: name.into(), help, kind: Kind::Counter, labels: Vec::new(), value: value as f64 }
    }

    pub fn gauge(name: impl Into<Cow<'static, str>>, help: &'static str, value: f64) -> Self {
        Figure { name: name.into(), help, kind: Kind::Gauge, labels: Vec::new(), value }
    }

    pub fn label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((name, value.into()));
        self
    }
}

/// Who has figures. Asked at each scrape: it answers at once, from memory.
pub trait Source: Send + Sync + 'static {
    fn figures(&self) -> Vec<Figure>;
}

impl<F: Fn() -> Vec<Figure> + Send + Sync + 'static> Source for F {
    fn figures(&self) -> Vec<Figure> {
        self()
    }
}

/// What makes the service ready, beside the store: the words of what is wrong, for an administrator.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the routes need.
pub struct Health {
    pub store: Store,
    /// Whether the component link is online, and whatever else must be.
    pub checks: Vec<Check>,
    pub sources: Vec<Arc<dyn Source>>,
}

/// The routes of the administrator's listener.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { (no_store(), "alive\n") }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here") })
        .with_state(Arc::new(health))
}

fn no_store() -> [(header::HeaderName, &'static str); 1] {
    [(header::CACHE_CONTROL, "no-store")]
}

/// 200 only if a request from a user could be served now; else 503 with every reason on a line of its own.
async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let mut wrong: Vec<String> = health.checks.iter().filter_map(|check| check().err()).collect();
    match timeout(STORE_ANSWERS_WITHIN, health.store.read(|r| r.get(b"mschema").map(drop))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => wrong.push(format!("the store cannot be read: {error}")),
        Err(_) => wrong.push("the store does not answer".to_owned()),
    }
    // One look at the disk, which may hang as any other.
    let store = health.store.clone();
    match timeout(STORE_ANSWERS_WITHIN, tokio::task::spawn_blocking(move || store.takes_writes())).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => wrong.push(format!("nothing can be stored: {error}")),
        Ok(Err(_)) | Err(_) => wrong.push("the disk does not answer".to_owned()),
    }
    match wrong.is_empty() {
        true => (no_store(), "ready\n").into_response(),
        false => problem(StatusCode::SERVICE_UNAVAILABLE, &wrong.join("\n")),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let figures = health.sources.iter().flat_map(|source| source.figures()).collect();
    match render(figures) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS), (header::CACHE_CONTROL, "no-store")], text).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written"),
    }
}

fn render(figures: Vec<Figure>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("rookery");
    registry.register_collector(Box::new(Snapshot(figures)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The figures of one scrape.
#[derive(Debug)]
struct Snapshot(Vec<Figure>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        // All lines of one name stand together (OpenMetrics 1.0, "MetricFamily").
        let mut families: BTreeMap<&str, Vec<&Figure>> = BTreeMap::new();
        for figure in &self.0 {
            families.entry(&figure.name).or_default().push(figure);
        }
        for (name, figures) in families {
            let Some(first) = figures.first() else { continue };
            let kind = match first.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, first.help, None, kind)?;
            for figure in &figures {
                if figure.labels.is_empty() {
                    write_value(&mut family, first.kind, figure.value)?;
                } else {
                    write_value(&mut family.encode_family(&figure.labels)?, first.kind, figure.value)?;
                }
            }
        }
        Ok(())
    }
}

fn write_value(line: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => line.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Kind::Gauge => line.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_name_make_one_family() {
        let waiting = |lane, n| Figure::gauge("queue_waiting", "Deliveries waiting", n).label("lane", lane);
        let text = render(vec![
            waiting("asked", 1.0),
            Figure::counter("queue_done", "Deliveries made", 7),
            waiting("back\"ground", 2.5),
        ])
        .unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "# HELP rookery_queue_done Deliveries made",
                "# TYPE rookery_queue_done counter",
                "rookery_queue_done_total 7.0",
                "# HELP rookery_queue_waiting Deliveries waiting",
                "# TYPE rookery_queue_waiting gauge",
                "rookery_queue_waiting{lane=\"asked\"} 1.0",
                "rookery_queue_waiting{lane=\"back\\\"ground\"} 2.5",
                "# EOF",
            ]
        );
    }
}
