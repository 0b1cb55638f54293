//! The control socket, `<store.path>/control` with mode 0600: a command and its replies as lines of JSON. Long work tells
//! its progress; the last line is the outcome. Who hangs up ends the work at its next step.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{Command, Reply};
use crate::base::progress::Progress;
use crate::base::shutdown::{Phase, Shutdown};

/// A line has at most this many bytes.
const LINE: u64 = 64 * 1024;
/// How long a command may take to come. What it asks for may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A long outcome comes in pieces of about so many bytes, the last one as [`Reply::Done`]; who asks reads lines of at most
/// [`ANSWER_LINE`].
const PIECE: usize = 256 * 1024;
const ANSWER_LINE: u64 = 16 << 20;

/// A line of the answer.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Piece { piece: Vec<String> },
    Reply(Reply),
}

pub fn path(store: &Path) -> PathBuf {
    store.join("control")
}

/// Listens where no other `rookery` does: the caller holds the store's lock, so a socket that is there is a dead one.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers commands by `execute` until the service stops.
pub async fn serve<F, Fut>(listener: UnixListener, shutdown: Shutdown, execute: F)
where
    F: Fn(Command, Progress) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send,
{
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.reached(Phase::Stopped) => return,
        };
        let execute = execute.clone();
        tokio::spawn(async move {
            let _ = answer(stream, execute).await;
        });
    }
}

async fn answer<F, Fut>(mut stream: UnixStream, execute: F) -> io::Result<()>
where
    F: Fn(Command, Progress) -> Fut,
    Fut: Future<Output = Reply>,
{
    let (read, mut write) = stream.split();
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, BufReader::new(read).take(LINE).read_line(&mut line)).await??;
    let command = match serde_json::from_str(&line) {
        Ok(command) => command,
        Err(error) => {
            let words = format!("this is no command of this version of rookery: {error}");
            return send(&mut write, &Reply::Failed(words)).await;
        }
    };
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut work = std::pin::pin!(execute(command, Progress::new(move |words| drop(tell.send(words)))));
    let reply = loop {
        tokio::select! {
            biased;
            Some(words) = told.recv() => send(&mut write, &Reply::Progress(words)).await?,
            reply = &mut work => break reply,
        }
    };
    // What was told in the work's last step.
    while let Ok(words) = told.try_recv() {
        send(&mut write, &Reply::Progress(words)).await?;
    }
    let Reply::Done(mut lines) = reply else { return send(&mut write, &reply).await };
    let mut size = 0;
    while let Some(end) = lines.iter().position(|line| {
        size += line.len();
        size > PIECE
    }) {
        let rest = lines.split_off(end + 1);
        send(&mut write, &Line::Piece { piece: std::mem::replace(&mut lines, rest) }).await?;
        size = 0;
    }
    send(&mut write, &Reply::Done(lines)).await
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string(line).map_err(io::Error::other)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

/// Asks the running service; `progress` hears how long work goes on. `None`: there is none.
pub async fn ask(path: &Path, command: &Command, progress: &Progress) -> io::Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e),
    };
    let (read, mut write) = stream.split();
    let mut text = serde_json::to_string(command).map_err(io::Error::other)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await?;
    let mut read = BufReader::new(read);
    let mut before = Vec::new();
    loop {
        let mut line = String::new();
        if (&mut read).take(ANSWER_LINE).read_line(&mut line).await? == 0 {
            let words = "rookery ended before it had answered; what it had done by then is done";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
        }
        match serde_json::from_str(&line).map_err(io::Error::other)? {
            Line::Piece { mut piece } => before.append(&mut piece),
            Line::Reply(Reply::Progress(words)) => progress.say(words),
            Line::Reply(Reply::Done(mut lines)) => {
                before.append(&mut lines);
                return Ok(Some(Reply::Done(before)));
            }
            Line::Reply(failed) => return Ok(Some(failed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shutdown;

    #[tokio::test]
    async fn an_outcome_of_any_length_comes_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        let listener = bind(&path).unwrap();
        let (_trigger, shutdown) = shutdown::channel();
        // Some 20 MB: more than one line may have.
        let lines: Vec<String> = (0..20_000).map(|n| format!("{n} {}", "x".repeat(1_000))).collect();
        let told = lines.clone();
        let execute = move |_, _| std::future::ready(Reply::Done(told.clone()));
        let serving = tokio::spawn(serve(listener, shutdown, execute));
        let reply = ask(&path, &Command::AccountList, &Progress::silent()).await;
        assert!(reply.as_ref().is_ok_and(|reply| *reply == Some(Reply::Done(lines))), "{:.200}", format!("{reply:?}"));
        serving.abort();
    }

    #[tokio::test]
    async fn a_command_goes_there_and_its_reply_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        assert_eq!(ask(&path, &Command::Status, &Progress::silent()).await.unwrap(), None, "nobody listens");
        let listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (trigger, shutdown) = shutdown::channel();
        let execute = |command, progress: Progress| async move {
            progress.say("half way");
            Reply::Done(vec![format!("{command:?}")])
        };
        let serving = tokio::spawn(serve(listener, shutdown, execute));
        let (tell, mut told) = mpsc::unbounded_channel();
        let progress = Progress::new(move |words| tell.send(words).unwrap());
        let reply = ask(&path, &Command::AccountList, &progress).await.unwrap();
        assert_eq!(told.recv().await.as_deref(), Some("half way"));
        assert_eq!(reply, Some(Reply::Done(vec!["AccountList".into()])));
        let mut garbage = UnixStream::connect(&path).await.unwrap();
        garbage.write_all(b"{\"command\":\"dance\"}\n").await.unwrap();
        let mut line = String::new();
        garbage.read_to_string(&mut line).await.unwrap();
        assert!(line.contains("no command"), "{line}");
        trigger.set(Phase::Stopped);
        serving.await.unwrap();
        // A socket left behind by a killed process is dead, and is replaced.
        assert_eq!(ask(&path, &Command::Status, &Progress::silent()).await.unwrap(), None);
        drop(bind(&path).unwrap());
    }
}
