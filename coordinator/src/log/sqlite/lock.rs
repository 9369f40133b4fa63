//! One coordinator per file.
//!
//! SQLite's own locks would let two coordinators take turns on one file, each believing that it owns
//! the log. A lock on a file beside it, held for life and given back by the kernel when the process
//! dies, refuses the second at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::log::Error;

/// Held as long as the database is in use.
#[derive(Debug)]
pub(super) struct DataLock {
    _file: File,
}

/// How long to wait for a lock that is being given up: a fork and an exec, on a busy machine.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

impl DataLock {
    /// Takes the lock of a database file; waits a moment for one that is just being given up.
    ///
    /// A lock lives as long as any copy of its descriptor. A process that holds one and starts
    /// another shares it with its child from fork to exec, so it may outlive its owner by a moment.
    pub(super) async fn take(database: &Path) -> Result<Self, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_take(database) {
                Err(Error::InUse(_)) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                taken => return taken,
            }
        }
    }

    fn try_take(database: &Path) -> Result<Self, Error> {
        let path = lock_path(database);
        let failed = |e: io::Error| Error::Refused(format!("the lock file {}: {e}", path.display()));
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(database, &path)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // For people only. On a full disk the note is missing and the lock holds all the same.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn in_use(database: &Path, lock: &Path) -> Error {
    let holder = fs::read_to_string(lock).unwrap_or_default();
    let holder = match holder.trim() {
        "" => "another process".to_owned(),
        id => format!("the process {id}"),
    };
    Error::InUse(format!(
        "{} is in use by {holder}: a SQLite log serves one coordinator; stop that one, or give this one \
         another --data-dir, or use PostgreSQL for several",
        database.display()
    ))
}

/// Makes the database file, and the directory above it, readable for nobody else. SQLite gives the
/// files that it makes beside it the same rights.
pub(super) fn create_private(database: &Path) -> Result<(), Error> {
    let failed = |e: io::Error| Error::Refused(format!("{}: {e}", database.display()));
    if let Some(directory) = database.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(failed)?;
    }
    private(OpenOptions::new().write(true).create(true).truncate(false)).open(database).map_err(failed)?;
    Ok(())
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}
