//! `rookery export` and `rookery import`: the whole store as one file, of a service that does not run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{ask_running, backend, open_as_owner, owned};
use crate::base::clock::Clock;
use crate::base::progress::Progress;
use crate::config::Config;
use crate::control::Command;
use crate::store;
use crate::store::tables::SCHEMA;
use crate::store::transfer::{self, Head, Moved, TransferError};

/// Callbacks that are named; of more, only the number.
const NAMED: usize = 20;

type Lines = Result<Vec<String>, String>;

/// Writes the store to `file`, which must not be there yet, or to standard output (`-`). Lines for a person come back.
pub async fn export(config: &Config, file: &Path, with_secrets: bool, progress: &Progress) -> Lines {
    on_disk(config)?;
    let running = ask_running(config, &Command::Status, &Progress::silent()).await;
    if running.map_err(|error| error.to_string())?.is_some() {
        return Err("rookery is running, and an export is of one moment: stop it, export, start it again".to_owned());
    }
    let store = open_as_owner(config).await.map_err(|error| error.to_string())?;
    let head = Head {
        schema: SCHEMA,
        component: config.component.jid.to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        made: Clock::system().now().rfc3339(),
        secrets: with_secrets,
    };
    let (to, progress, reader) = (file.to_owned(), progress.clone(), store.clone());
    let written = tokio::task::spawn_blocking(move || {
        write(&to, |out| reader.at_rest(|r| transfer::export(r, &head, out, &progress)))
    });
    let moved = done(written).await?.map_err(|error| error.to_string())?;
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    let mut lines = vec![format!("{} rows are in {}", moved.rows, file.display())];
    lines.extend(left_out(&moved, "will end at the import, since its secret is not in the file", "will not be asked"));
    if moved.keys > 0 {
        lines.push(format!("{} keys are not in the file: new ones are made", moved.keys));
    }
    if moved.unreadable > 0 {
        lines.push(format!("{} rows are not in the file: they cannot be read, see `rookery check`", moved.unreadable));
    }
    if lines.len() > 1 {
        lines.push("with --with-secrets the file has all of it, and is a secret itself".to_owned());
    }
    Ok(lines)
}

/// Reads `file`, or standard input (`-`), into the configured store, which must be empty.
pub async fn import(config: &Config, file: &Path, progress: &Progress) -> Lines {
    let path = on_disk(config)?.to_owned();
    owned(config).map_err(|error| error.to_string())?;
    let (from, progress, component) = (file.to_owned(), progress.clone(), config.component.jid.to_string());
    let (backend, into) = (backend(config), path.clone());
    let read = tokio::task::spawn_blocking(move || -> Result<Moved, String> {
        let input: Box<dyn io::Read> = match from.as_os_str() == "-" {
            true => Box::new(io::stdin()),
            false => Box::new(File::open(&from).map_err(|error| format!("{}: {error}", from.display()))?),
        };
        let mut input = BufReader::with_capacity(1 << 20, input);
        let head = transfer::read_head(&mut input).map_err(|error| error.to_string())?;
        if head.component != component {
            return Err(format!(
                "the file is of the component {}, and this configuration of {component}: addresses and ids in it are \
                 for ever those of the first",
                head.component
            ));
        }
        let kv = store::open_kv(backend, &into).map_err(|error| error.to_string())?;
        transfer::import(kv, &mut input, &progress).map_err(|error| match error {
            TransferError::NotEmpty => error.to_string(),
            error => format!("{error}; the store is not complete and does not open: run rookery import again"),
        })
    });
    let moved = done(read).await??;
    let mut lines =
        vec![format!("{} rows are in the store at {}, and read back as they were", moved.rows, path.display())];
    lines.extend(left_out(
        &moved,
        "has ended, since its secret is not in the file; it comes back when its site asks again",
        "will not be asked whether it wants what was asked for in its name",
    ));
    Ok(lines)
}

fn on_disk(config: &Config) -> Result<&Path, String> {
    let path = config.store.path.as_deref().filter(|_| config.store.backend != crate::config::Backend::Memory);
    path.ok_or_else(|| "a store in memory has nothing to keep: set store.backend".to_owned())
}

/// A panic in an engine is one here.
async fn done<T>(work: tokio::task::JoinHandle<T>) -> Result<T, String> {
    match work.await {
        Ok(out) => Ok(out),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Writes a file that is there whole or not at all, for its owner alone.
fn write(
    to: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<Moved, TransferError>,
) -> Result<Moved, TransferError> {
    if to.as_os_str() == "-" {
        return write(&mut BufWriter::new(io::stdout().lock()));
    }
    if to.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", to.display())).into());
    }
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let moved = write(&mut out)?;
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    fs::rename(&part, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(moved)
}

fn left_out(moved: &Moved, ended: &str, unverified: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (callbacks, fate) in [(&moved.ended, ended), (&moved.unverified, unverified)] {
        lines.extend(callbacks.iter().take(NAMED).map(|callback| format!("the subscription of {callback} {fate}")));
        if callbacks.len() > NAMED {
            lines.push(format!("and {} more like it", callbacks.len() - NAMED));
        }
    }
    lines
}
