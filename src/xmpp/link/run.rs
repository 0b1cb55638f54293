//! The life of the link: connect, serve the session, try again; and the orderly end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::connect::{self, Session};
use super::reader::{self, Reader};
use super::{Handler, Instance, LinkConfig, LinkState, Shared, Trouble, count, instance, writer};
use crate::base::shutdown::{Phase, Shutdown};

/// A session that lasted so long was a good one: the next attempt is a first one again.
const GOOD: Duration = Duration::from_secs(30);

pub(super) async fn run(shared: Arc<Shared>, shutdown: Shutdown, handler: Arc<Handler>) {
    // Also if this future is dropped: nobody may wait for a link that is no more.
    let ended = Ended(shared.clone());
    let end = async {
        tokio::select! {
            () = closing(&shared) => {}
            () = shutdown.reached(Phase::Stopped) => {}
            () = drained(&shared, &shutdown) => {}
        }
    };
    let mut end = std::pin::pin!(end);
    let (mut session, mut attempts) = (0, 0u32);
    let mut last: Option<Trouble> = None;
    loop {
        let login = tokio::select! {
            login = connect::login(&shared.config, &shared.clock) => login,
            () = &mut end => break,
        };
        let trouble = match login {
            Err(trouble) => trouble,
            Ok(open) => {
                session += 1;
                let since = shared.clock.moment();
                count(&shared.stats.sessions, 1);
                shared.lanes.open(session, since);
                shared.state.send_replace(LinkState::Online { session, instance: Instance::Checking });
                tracing::info!("attached to {} as {}", shared.config.server, shared.config.jid);
                last = None;
                let served = serve(&shared, open, session, &*handler, &mut end).await;
                shared.state.send_replace(LinkState::Connecting { why: served.clone(), attempts: 0 });
                shared.lanes.lose(shared.clock.moment());
                shared.iqs.lose();
                let Some(trouble) = served else { break };
                count(&shared.stats.lost, 1);
                if shared.clock.moment().since(since) >= GOOD {
                    attempts = 0;
                }
                trouble
            }
        };
        let pause = backoff(&shared.config, attempts, &trouble, shared.ids.fraction());
        attempts = attempts.saturating_add(1);
        // Once is enough for what stays the same.
        if last.as_ref() == Some(&trouble) {
            tracing::debug!("{trouble}; next attempt in {pause:?}");
        } else {
            tracing::warn!("{trouble}; next attempt in {pause:?}");
        }
        shared.state.send_replace(LinkState::Connecting { why: Some(trouble.clone()), attempts });
        last = Some(trouble);
        tokio::select! {
            () = shared.clock.sleep(pause) => {}
            () = &mut end => break,
        }
    }
    drop(ended);
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let shared = &self.0;
        shared.state.send_replace(LinkState::Closed);
        shared.lanes.finish();
        shared.lanes.lose(shared.clock.moment());
        shared.iqs.lose();
    }
}

async fn closing(shared: &Shared) {
    let _ = shared.closing.subscribe().wait_for(|closing| *closing).await;
}

/// Who drains closes the link when all is said; should nobody, the link does so after a while.
async fn drained(shared: &Shared, shutdown: &Shutdown) {
    shutdown.reached(Phase::Draining).await;
    shared.clock.sleep(shared.config.drain).await;
}

/// Doubled with every attempt, shortened by chance (`fraction`, from 0 to 1) by up to a half, so that not all come back
/// at once.
fn backoff(config: &LinkConfig, attempts: u32, trouble: &Trouble, fraction: f64) -> Duration {
    let (first, most) = (config.backoff, config.backoff_max);
    let full = if trouble.needs_hands() { most } else { first.saturating_mul(1 << attempts.min(16)).min(most) };
    full.mul_f64(1.0 - fraction / 2.0)
}

/// One session. `None`: it ended because it was to end.
async fn serve(
    shared: &Arc<Shared>,
    open: Session,
    session: u64,
    handler: &Handler,
    end: &mut (impl Future<Output = ()> + Unpin),
) -> Option<Trouble> {
    let (read_half, write_half) = open.stream.into_split();
    let heard = AtomicU64::new(shared.clock.moment().0);
    let mut write = Writing(tokio::spawn(writer::write(shared.clone(), session, write_half)));
    let reader = Reader { shared, handler, scope: open.scope, heard: &heard };
    let mut read = std::pin::pin!(reader.read(read_half, open.framer));
    let mut silence = std::pin::pin!(reader::keepalive(shared, &heard));
    let mut probe = std::pin::pin!(async {
        instance::watch(shared, session).await;
        std::future::pending::<Infallible>().await
    });
    tokio::select! {
        trouble = &mut read => return Some(trouble),
        written = &mut write.0 => return Some(why_written(written)),
        trouble = &mut silence => return Some(trouble),
        () = shared.lanes.overflow() => return Some(Trouble::NotReading),
        never = &mut probe => match never {},
        () = &mut *end => {}
    }
    // The orderly end: both lanes are written, our half is closed, the server closes its own.
    shared.lanes.finish();
    let close = async {
        let mut written = false;
        loop {
            tokio::select! {
                _ = &mut read => break,
                _ = &mut write.0, if !written => written = true,
            }
        }
    };
    tokio::select! {
        () = close => {}
        () = shared.clock.sleep(shared.config.drain) => tracing::warn!("the server did not close its stream in time"),
    }
    None
}

/// The writing task ends with its session.
struct Writing(JoinHandle<Result<(), Trouble>>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn why_written(ended: Result<Result<(), Trouble>, tokio::task::JoinError>) -> Trouble {
    match ended {
        Ok(Err(trouble)) => trouble,
        Ok(Ok(())) => Trouble::Closed,
        Err(e) => Trouble::Broken { why: e.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jid::BareJid;

    #[test]
    fn a_server_that_starts_with_us_is_met_at_once_and_one_that_stays_away_is_left_in_peace() {
        let host = BareJid::new("example.org").unwrap();
        let config = LinkConfig::new(BareJid::new("c.example.org").unwrap(), "s:1".into(), "x".into(), host);
        let refused = Trouble::Refused { server: "s:1".into() };
        let pauses: Vec<_> = (0..20).map(|n| backoff(&config, n, &refused, 0.0)).collect();
        // It opens its port some 50 ms after we looked for it the first time.
        assert!(pauses[0] + pauses[1] <= Duration::from_millis(150), "{pauses:?}");
        assert!(pauses.windows(2).all(|two| two[1] == (two[0] * 2).min(config.backoff_max)), "{pauses:?}");
        assert_eq!(pauses[19], config.backoff_max);
        // By chance, never below a half; what needs a person has no hurry.
        assert_eq!(backoff(&config, 0, &refused, 1.0), pauses[0] / 2);
        assert_eq!(backoff(&config, 0, &Trouble::WrongSecret { jid: "c".into() }, 0.0), config.backoff_max);
    }
}
