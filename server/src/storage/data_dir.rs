//! The data directory: what is where, and who may use it.
//!
//! ```text
//! <data-dir>/LOCK                  held by the process that uses it
//! <data-dir>/member/meta.json      format version, cluster id, member id
//! <data-dir>/member/log/           the log
//! <data-dir>/member/CURRENT        names the state in use
//! <data-dir>/member/state-<n>/     the applied state
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::fjall_store::{FjallStore, StateError};
use super::real_disk::RealDisk;

/// Format of the directory that this version writes.
const FORMAT: u32 = 1;

/// A data directory, locked for this process as long as the value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
    identity: Option<Identity>,
}

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of the member.
    pub member_id: u64,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    format: u32,
    #[serde(flatten)]
    identity: Identity,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process uses it.
    #[error(
        "data directory {0} is in use by another process: stop that one, or choose another --data-dir"
    )]
    Locked(PathBuf),
    /// A later version of the program wrote it.
    #[error(
        "data directory {path} has format {found}, and this version knows formats up to {known}: start the version that wrote it"
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// It belongs to another member, or to a member of another cluster.
    #[error(
        "data directory {path} belongs to member {:x} of cluster {:x}, but the configuration describes member {:x} of cluster {:x}: check --name, --initial-cluster and --initial-cluster-token, or choose another --data-dir",
        found.member_id, found.cluster_id, configured.member_id, configured.cluster_id
    )]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who was about to use it.
        configured: Identity,
    },
    /// It has the files of a member but does not say of which.
    #[error(
        "{path} cannot be read: {what}. Without it this member cannot know who it is: remove it from the cluster and add it again with an empty data directory, or restore a backup"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The system refused.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// Locks `path`, which is made if it does not exist. Only its owner gets access.
    ///
    /// # Errors
    /// See [`DataDirError`]; nothing was changed but for the lock file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        make_dir(&path).map_err(io(&path))?;
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::Locked(path)),
            Err(error) => return Err(io(&lock_path)(error.into())),
        }
        let identity = read_identity(&path)?;
        for dir in [path.join("member"), path.join("member/log")] {
            make_dir(&dir).map_err(io(&dir))?;
        }
        sync_dir(&path).map_err(io(&path))?;
        sync_dir(&path.join("member")).map_err(io(&path))?;
        Ok(Self {
            path,
            _lock: lock,
            identity,
        })
    }

    /// Whose directory it is; `None` if it was never [claimed](Self::claim).
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Checks that it is the directory of `configured`, or nobody's yet.
    ///
    /// # Errors
    /// [`DataDirError::OtherMember`] if it is another's.
    pub fn check(&self, configured: Identity) -> Result<(), DataDirError> {
        match self.identity {
            Some(found) if found != configured => Err(DataDirError::OtherMember {
                path: self.path.clone(),
                found,
                configured,
            }),
            _ => Ok(()),
        }
    }

    /// Makes it the directory of `configured`, durably.
    ///
    /// A directory that is claimed has a log: [check](Self::check) first, open the log with
    /// [`LogOptions::create`](super::log::LogOptions::create) only if [`identity`](Self::identity) is
    /// `None`, claim, and only then save a vote or an entry.
    ///
    /// # Errors
    /// [`DataDirError::OtherMember`] if it is another's.
    pub fn claim(&mut self, configured: Identity) -> Result<(), DataDirError> {
        self.check(configured)?;
        if self.identity.is_some() {
            return Ok(());
        }
        let meta = Meta {
            format: FORMAT,
            identity: configured,
        };
        let dir = self.path.join("member");
        serde_json::to_vec_pretty(&meta)
            .map_err(io::Error::from)
            .and_then(|json| write_durably(&dir, "meta.json", &json))
            .map_err(|source| DataDirError::Io {
                path: dir.join("meta.json"),
                source,
            })?;
        self.identity = Some(configured);
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log is.
    pub fn log_disk(&self) -> RealDisk {
        RealDisk::new(self.path.join("member/log"))
    }

    /// Opens the applied state.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if it must be [discarded](Self::discard_state) and rebuilt.
    pub fn open_state(&self) -> Result<FjallStore, StateError> {
        FjallStore::open(self.path.join("member"))
    }

    /// Removes the applied state, which is not open. It is rebuilt from the log or from a peer.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard_state(&self) -> io::Result<()> {
        FjallStore::discard(&self.path.join("member"))
    }
}

/// Reads whose directory it is.
pub(super) fn read_identity(data_dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = data_dir.join("member/meta.json");
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::Io { path, source }),
    };
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| DataDirError::Damaged {
        path: path.clone(),
        what: error.to_string(),
    };
    // The format first: a later one may have other fields.
    let Format { format } = serde_json::from_slice(&json).map_err(damaged)?;
    if format > FORMAT {
        return Err(DataDirError::NewerFormat {
            path: data_dir.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    let meta: Meta = serde_json::from_slice(&json).map_err(damaged)?;
    Ok(Some(meta.identity))
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => fs::set_permissions(path, fs::Permissions::from_mode(0o700)),
        _ => DirBuilder::new().recursive(true).mode(0o700).create(path),
    }
}

/// Writes a file so that after a crash it has the old or the new content.
pub(super) fn write_durably(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
