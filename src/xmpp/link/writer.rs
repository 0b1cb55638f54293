//! The one task that writes: answers before fan-out, many stanzas in one write.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

use super::lanes::Taken;
use super::{Shared, Trouble, count};

/// About so many bytes go into one write.
const BATCH: usize = 64 * 1024;

/// Writes until the lanes of `session` end, then ends the stream (RFC 6120 §4.4); or until the server no longer takes it.
pub(super) async fn write(shared: Arc<Shared>, session: u64, mut socket: OwnedWriteHalf) -> Result<(), Trouble> {
    let mut out = Vec::with_capacity(2 * BATCH);
    loop {
        out.clear();
        // A single large stanza must not keep its memory for the rest of the session.
        out.shrink_to(2 * BATCH);
        let end = match shared.lanes.take(session, &mut out, BATCH) {
            Taken::Nothing => {
                shared.lanes.work().await;
                continue;
            }
            Taken::Over => return Ok(()),
            Taken::Stanzas(n) => {
                count(&shared.stats.stanzas_out, n);
                false
            }
            Taken::End => {
                out.extend_from_slice(b"</stream:stream>");
                true
            }
        };
        tokio::select! {
            // Most often it is written at once, and no timer is set.
            biased;
            written = socket.write_all(&out) => written.map_err(|e| Trouble::Broken { why: e.to_string() })?,
            () = shared.clock.sleep(shared.config.grace) => return Err(Trouble::NotReading),
        }
        count(&shared.stats.bytes_out, out.len());
        if end {
            // The half stays open for reading: the server still may have something to say.
            let _ = socket.shutdown().await;
            return Ok(());
        }
    }
}
