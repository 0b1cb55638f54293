//! Figures that the store has to be asked for: taken now and then, so that a scrape is answered from memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::shutdown::{Phase, Shutdown};
use crate::service::Service;
use crate::service::deliveries::QueueFigures;
use crate::web::health::{Figure, Source};

const EVERY: Duration = Duration::from_secs(15);

/// The queue as it was a moment ago.
#[derive(Clone, Default)]
pub(super) struct Sample(Arc<Mutex<QueueFigures>>);

impl Sample {
    /// Takes figures until the service stops.
    pub(super) async fn keep(self, service: Service, shutdown: Shutdown) {
        loop {
            match service.queue_figures().await {
                Ok(figures) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = figures,
                Err(error) => tracing::warn!(%error, "the queue's figures could not be read; the last ones are shown"),
            }
            tokio::select! {
                () = service.clock.sleep(EVERY) => {}
                () = shutdown.reached(Phase::Draining) => return,
            }
        }
    }

    pub(super) fn source(&self) -> Arc<dyn Source> {
        let sample = self.0.clone();
        Arc::new(move || {
            let now = *sample.lock().unwrap_or_else(PoisonError::into_inner);
            [
                ("queue_waiting_deliveries", "Deliveries that wait", now.deliveries as f64),
                ("queue_waiting_destinations", "Destinations for which something waits", now.waiting as f64),
                ("queue_failing_destinations", "Destinations whose last attempt failed", now.failing as f64),
                ("queue_failing_hosts", "Hosts of callbacks whose last attempt failed", now.hosts_failing as f64),
                ("queue_held_destinations", "Destinations that an administrator holds", now.held as f64),
                ("queue_parked_events", "Events that were put aside: nobody was told of them", now.parked as f64),
                ("queue_oldest_seconds", "Age of the oldest delivery that waits", now.oldest_seconds),
            ]
            .map(|(name, help, value)| Figure::gauge(name, help, value))
            .to_vec()
        })
    }
}
