//! The two ends of a power cut that `scripts/strace-durability component` makes in between: a life of the whole
//! component under strace, and the look into a store as a cut has left it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rookery::domain::node::NodeName;
use rookery::store::{Backend, Store, open};

use crate::crash::people;
use crate::crash::server::Server;
use crate::support::rookery::{Rookery, Settings};
use crate::support::servers::{SECRET, SOCIAL};

/// What strace is to write down; as `CALLS` in the script, and what passes over the link.
const CALLS: &str = "trace=openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,syncfs,sync,\
                     sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,ftruncate,\
                     truncate,fallocate,lseek,copy_file_range,sendfile,mmap,dup,dup2,dup3,fcntl,connect,sendto,recvfrom,close";

/// Lets people live for `seconds` with a component under strace, which writes to `trace`. Gives the folder of the store
/// and the port of the server, as the script wants them.
pub async fn record(backend: &str, trace: &Path, seconds: u64, inject: Option<String>) -> String {
    let server = Arc::new(Server::start().await);
    let settings = Settings {
        jid: SOCIAL.to_owned(),
        server: server.address.clone(),
        secret: SECRET.to_owned(),
        backend: backend.to_owned(),
    };
    let mut rookery = Rookery::begin(&settings);
    rookery.kill();
    let store = rookery.folder().join("store");
    // From the very beginning: what is not in the trace is not on the disk.
    let _ = std::fs::remove_dir_all(&store);
    let file = trace.to_string_lossy().into_owned();
    let mut launcher: Vec<String> =
        ["strace", "-f", "-y", "-xx", "-s", "9000000", "-e", CALLS, "-o", &file].map(str::to_owned).to_vec();
    if let Some(inject) = inject {
        launcher.extend(["-e".to_owned(), inject]);
    }
    rookery.launch_by(&launcher);
    rookery.start_again().await;
    people::settle_in(&server).await;
    let end = Arc::new(AtomicBool::new(false));
    let life = tokio::spawn(people::live(server.clone(), 7, end.clone()));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    // Killed with everything under way, as a cut of power would.
    let strace = rookery.pid().expect("it runs");
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap_or_default();
    let child = children.split_whitespace().next().expect("strace has started it");
    let _ = std::process::Command::new("sh").args(["-c", &format!("kill -9 {child}")]).status();
    crate::support::until(Duration::from_secs(60), || rookery.ended().is_some()).await;
    end.store(true, Ordering::SeqCst);
    life.abort();
    let port = server.address.rsplit(':').next().unwrap_or_default().to_owned();
    format!("root {} port {port}", store.display())
}

/// Prints every item of the people's nodes: service, node, item, title, the Event that told of it, whether that lives.
pub async fn show(backend: &str, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store: Store = open(Backend::named(backend).ok_or("no such backend")?, folder)?;
    for (place, _) in people::places() {
        let (service, name) = (jid::BareJid::new(&place.0)?, NodeName::parse(&place.1)?);
        let shown = store.read(move |r| {
            let Some(node) = r.node_named(&service, &name)? else { return Ok(Vec::new()) };
            let mut shown = Vec::new();
            for item in r.items(node.id, 0, u64::MAX, 1_000_000, false)? {
                // Read to the end: a payload that is gone or torn is a failure.
                let payload = r.payload(item.version)?.unwrap_or_default();
                let (text, lives) = (String::from_utf8_lossy(&payload).into_owned(), r.event_alive(item.event)?);
                let title = text.split_once("<title").and_then(|(_, rest)| rest.split(['>', '<']).nth(1));
                let (title, whole) = (title.unwrap_or_default().to_owned(), text.ends_with("</entry>"));
                shown.push((item.id.as_str().to_owned(), title, item.event, lives, whole));
            }
            Ok(shown)
        });
        for (id, title, event, lives, whole) in shown.await? {
            println!(
                "item\t{}\t{}\t{id}\t{title}\t{event}\t{}\t{}",
                place.0,
                place.1,
                u8::from(lives),
                u8::from(whole)
            );
        }
    }
    println!("shown");
    Ok(())
}
