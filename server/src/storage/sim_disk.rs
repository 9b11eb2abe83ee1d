//! A disk that loses what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile};

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A directory in memory. Clones are the same directory.
///
/// Reads see every write at once; [`crash`](Self::crash) then decides, sector by sector, which of the
/// writes since the last sync had reached the disk. What happens is a function of the seed and of the
/// calls.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The epoch in which the process lives that this was attached to; its calls fail in any other.
    process: Option<u64>,
}

struct State {
    rng: StdRng,
    files: BTreeMap<u64, Inode>,
    /// Files by name, as seen now.
    names: BTreeMap<String, u64>,
    /// Files by name, as a crash would leave them.
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the directory was synced.
    dir_ops: Vec<DirOp>,
    next_inode: u64,
    /// Counts crashes. Files opened before one are of no use after it.
    epoch: u64,
    syncs_until_error: Option<u64>,
    writes_until_error: Option<u64>,
    capacity: Option<u64>,
    lies: bool,
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone)]
enum DirOp {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

impl SimDisk {
    /// An empty directory.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                files: BTreeMap::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                dir_ops: Vec::new(),
                next_inode: 0,
                epoch: 0,
                syncs_until_error: None,
                writes_until_error: None,
                capacity: None,
                lies: false,
            })),
            process: None,
        }
    }

    /// The power fails. Of what was not synced, any part may be left: all, nothing, or single
    /// sectors, and of the changes of names the first few. Calls on open files fail from now on.
    pub fn crash(&self) {
        let (mut rng, dir_ops) = {
            let mut state = self.state.lock();
            (
                StdRng::seed_from_u64(state.rng.random()),
                state.dir_ops.len(),
            )
        };
        let mode = rng.random_range(0..4);
        let mut choose = |changes: usize| match mode {
            0 => changes,
            1 => 0,
            _ => rng.random_range(0..=changes),
        };
        let dir_ops = choose(dir_ops);
        self.crash_as(dir_ops, &mut |_, _, changes| choose(changes));
    }

    /// The disk as a process has it that starts now: calls fail once that process has ended, by [`crash`](Self::crash) or
    /// [`abandon`](Self::abandon).
    #[must_use]
    pub fn attach(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            process: Some(self.state.lock().epoch),
        }
    }

    /// The process that has files open ends. What it wrote stays; its calls fail from now on.
    pub fn abandon(&self) {
        self.state.lock().epoch += 1;
    }

    /// The power fails. Of what was not synced, just those sectors are left that `keeps` picks by
    /// file name and sector number; changes of names are lost.
    pub fn crash_keeping(&self, mut keeps: impl FnMut(&str, u64) -> bool) {
        self.crash_as(0, &mut |name, sector, changes| {
            if keeps(name, sector) { changes } else { 0 }
        });
    }

    /// `choose` gets the name of a file, a sector of it, and the number of unsynced changes, and says
    /// how many of them have reached that sector.
    fn crash_as(&self, dir_ops: usize, choose: &mut dyn FnMut(&str, u64, usize) -> usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for (name, inode) in &state.names {
            if let Some(file) = state.files.get_mut(inode) {
                file.settle(&mut |sector, changes| choose(name, sector, changes));
            }
        }
        let ops: Vec<_> = state.dir_ops.drain(..).take(dir_ops).collect();
        for op in ops {
            op.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        state.drop_orphans();
        for file in state.files.values_mut() {
            file.pending.clear();
            file.now.clone_from(&file.durable);
        }
        state.epoch += 1;
        state.syncs_until_error = None;
        state.writes_until_error = None;
    }

    /// The `nth` sync from now on, counted from 1, fails, and takes with it any part of what it
    /// should have made durable: later syncs will not bring that back.
    pub fn fail_sync(&self, nth: u64) {
        self.state.lock().syncs_until_error = Some(nth);
    }

    /// The `nth` write from now on, counted from 1, fails.
    pub fn fail_write(&self, nth: u64) {
        self.state.lock().writes_until_error = Some(nth);
    }

    /// No write and no sync is to fail any more.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.syncs_until_error = None;
        state.writes_until_error = None;
    }

    /// How many changes a crash could take.
    pub fn unsynced(&self) -> usize {
        let state = self.state.lock();
        let of_files = state.files.values().map(|file| file.pending.len());
        of_files.sum::<usize>() + state.dir_ops.len()
    }

    /// Bytes that fit on the disk; no limit if `None`. Writes into existing bytes always succeed.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// From now on a sync of a file only says that it was done: a control, which checkers have to find out.
    pub fn lie(&self) {
        self.state.lock().lies = true;
    }

    /// Another disk in the same state, unsynced changes included.
    pub fn copy(&self) -> Self {
        let state = self.state.lock();
        let copy = Self::new(0);
        {
            let mut other = copy.state.lock();
            other.names = state.names.clone();
            other.durable_names = state.durable_names.clone();
            other.dir_ops = state.dir_ops.clone();
            other.next_inode = state.next_inode;
            other.files = state.files.clone();
        }
        copy
    }

    /// The sectors of `name` that a crash could lose or keep.
    pub fn unsynced_sectors(&self, name: &str) -> Vec<u64> {
        let state = self.state.lock();
        let file = state.names.get(name).and_then(|id| state.files.get(id));
        let mut sectors: Vec<u64> = file
            .into_iter()
            .flat_map(|file| &file.pending)
            .flat_map(|change| match change {
                Change::Write { offset, bytes } => {
                    offset / SECTOR..(offset + bytes.len() as u64).div_ceil(SECTOR)
                }
                Change::SetLen(_) => 0..0,
            })
            .collect();
        sectors.sort_unstable();
        sectors.dedup();
        sectors
    }

    /// Changes bytes behind the back of whoever uses the file, durably.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let inode = state.names[name];
        let file = state.files.get_mut(&inode).expect("a name has a file");
        change(&mut file.durable);
        file.now.clone_from(&file.durable);
    }

    /// The state, for a call of the process that it is attached to.
    fn of_process(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match self.process {
            Some(process) if process != state.epoch => Err(gone()),
            _ => Ok(state),
        }
    }
}

impl State {
    fn inode(&mut self, id: u64, epoch: u64) -> io::Result<&mut Inode> {
        if epoch != self.epoch {
            return Err(gone());
        }
        self.files.get_mut(&id).ok_or_else(not_found)
    }

    fn change_names(&mut self, op: DirOp) {
        op.clone().apply(&mut self.names);
        self.dir_ops.push(op);
    }

    /// Removes files that no name leads to. (Ours are never used after they were removed.)
    fn drop_orphans(&mut self) {
        let Self {
            files,
            names,
            durable_names,
            dir_ops,
            ..
        } = self;
        files.retain(|id, _| {
            names
                .values()
                .chain(durable_names.values())
                .any(|inode| inode == id)
                || dir_ops
                    .iter()
                    .any(|op| matches!(op, DirOp::Link(_, inode) if inode == id))
        });
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.now.len() as u64).sum()
    }

    fn grow(&self, by: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if by > 0 && self.used() + by > capacity => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "no space left on device",
            )),
            _ => Ok(()),
        }
    }
}

impl Inode {
    /// Moves to `durable` what of the pending changes has reached the disk. `choose` gets a sector
    /// and the number of changes, and says how many of them did.
    fn settle(&mut self, choose: &mut dyn FnMut(u64, usize) -> usize) {
        let changes = self.pending.len();
        let mut chosen = BTreeMap::<u64, usize>::new();
        for (i, change) in self.pending.drain(..).enumerate() {
            match change {
                Change::SetLen(len) => {
                    if i < *chosen
                        .entry(u64::MAX)
                        .or_insert_with(|| choose(u64::MAX, changes))
                    {
                        self.durable.resize(len as usize, 0);
                    }
                }
                Change::Write { offset, bytes } => {
                    let end = offset + bytes.len() as u64;
                    let mut at = offset;
                    while at < end {
                        let sector = at / SECTOR;
                        let next = end.min((sector + 1) * SECTOR);
                        if i < *chosen
                            .entry(sector)
                            .or_insert_with(|| choose(sector, changes))
                        {
                            let piece = &bytes[(at - offset) as usize..(next - offset) as usize];
                            put(&mut self.durable, at, piece);
                        }
                        at = next;
                    }
                }
            }
        }
    }
}

impl DirOp {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name, inode);
            }
            Self::Unlink(name) => {
                names.remove(&name);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.of_process()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.of_process()?;
        let inode = *state.names.get(name).ok_or_else(not_found)?;
        Ok(SimFile {
            disk: self.clone(),
            inode,
            epoch: state.epoch,
        })
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        {
            let mut state = self.of_process()?;
            if state.names.contains_key(name) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, name));
            }
            state.next_inode += 1;
            let inode = state.next_inode;
            state.files.insert(inode, Inode::default());
            state.change_names(DirOp::Link(name.to_owned(), inode));
        }
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.of_process()?;
        if !state.names.contains_key(from) {
            return Err(not_found());
        }
        state.change_names(DirOp::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.of_process()?;
        if !state.names.contains_key(name) {
            return Err(not_found());
        }
        state.change_names(DirOp::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.of_process()?;
        state.dir_ops.clear();
        state.durable_names = state.names.clone();
        state.drop_orphans();
        Ok(())
    }
}

/// A file of a [`SimDisk`].
pub struct SimFile {
    disk: SimDisk,
    inode: u64,
    epoch: u64,
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut Inode) -> io::Result<T>) -> io::Result<T> {
        f(self.disk.state.lock().inode(self.inode, self.epoch)?)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.now.len() as u64))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.with(|file| {
            let from = file
                .now
                .get(offset as usize..)
                .and_then(|rest| rest.get(..buf.len()))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(from);
            Ok(())
        })
    }

    fn write_at(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if tick(&mut state.writes_until_error) {
            return Err(io::Error::other("injected write error"));
        }
        let end = offset + buf.len() as u64;
        let len = state.inode(self.inode, self.epoch)?.now.len() as u64;
        state.grow(end.saturating_sub(len))?;
        let file = state.inode(self.inode, self.epoch)?;
        put(&mut file.now, offset, buf);
        file.pending.push(Change::Write {
            offset,
            bytes: buf.to_vec(),
        });
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let now = state.inode(self.inode, self.epoch)?.now.len() as u64;
        state.grow(len.saturating_sub(now))?;
        let file = state.inode(self.inode, self.epoch)?;
        file.now.resize(len as usize, 0);
        file.pending.push(Change::SetLen(len));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if state.lies {
            return Ok(());
        }
        let fails = tick(&mut state.syncs_until_error);
        let mut rng = StdRng::seed_from_u64(if fails { state.rng.random() } else { 0 });
        let file = state.inode(self.inode, self.epoch)?;
        if fails {
            file.settle(&mut |_, changes| rng.random_range(0..=changes));
            return Err(io::Error::other("injected sync error"));
        }
        file.settle(&mut |_, changes| changes);
        Ok(())
    }
}

/// Counts down; true when it gets to zero.
fn tick(counter: &mut Option<u64>) -> bool {
    if let Some(left) = counter {
        *left -= 1;
        if *left == 0 {
            *counter = None;
            return true;
        }
    }
    false
}

fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset as usize..end].copy_from_slice(bytes);
}

fn gone() -> io::Error {
    io::Error::other("the process is gone, or its machine has crashed")
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}
