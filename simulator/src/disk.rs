//! A disk that forgets: an SQLite VFS between the engine and the real one, which knows what was synced. When
//! the machine dies, what was not synced is lost, some of it or all.
//!
//! Every file under a [`Disk`]'s folder is watched; all others are passed on. Syncing costs nothing here, time
//! and randomness are fixed, and nothing sleeps, so that a run can be replayed.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rusqlite::ffi;

/// A folder whose files lose what was not synced.
pub struct Disk {
    folder: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What each file holds for sure.
    synced: BTreeMap<PathBuf, Vec<u8>>,
    /// What was written since, in its order.
    pending: BTreeMap<PathBuf, Vec<Change>>,
    /// Set when the machine is dead: nothing changes a file any more.
    dead: bool,
}

enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                if file.len() < to {
                    file.resize(to, 0);
                }
                file[from..to].copy_from_slice(bytes);
            }
            Self::Truncate(length) => file.resize(*length as usize, 0),
        }
    }
}

/// The disks that there are, by folder.
fn disks() -> &'static Mutex<BTreeMap<PathBuf, Arc<Mutex<State>>>> {
    static DISKS: OnceLock<Mutex<BTreeMap<PathBuf, Arc<Mutex<State>>>>> = OnceLock::new();
    DISKS.get_or_init(Mutex::default)
}

impl Disk {
    /// Watches `folder`. The first disk of a process makes the VFS its default.
    pub fn new(folder: &Path) -> Self {
        static REGISTERED: OnceLock<()> = OnceLock::new();
        REGISTERED.get_or_init(vfs::register);
        let state = Arc::default();
        disks().lock().unwrap().insert(folder.to_owned(), Arc::clone(&state));
        Self { folder: folder.to_owned(), state }
    }

    /// The machine dies: from now on nothing reaches a file.
    pub fn die(&self) {
        self.state.lock().unwrap().dead = true;
    }

    /// The machine comes back, once every connection is closed: files hold what was synced, and of what was
    /// not, whatever `random` lets through.
    pub fn revive(&self, random: &mut StdRng) {
        let mut state = self.state.lock().unwrap();
        let pending = std::mem::take(&mut state.pending);
        let lose_all = random.random_bool(0.5);
        for (path, changes) in pending {
            if let Some(file) = state.synced.get_mut(&path) {
                for change in changes {
                    if !lose_all && random.random_bool(0.5) {
                        change.apply(file);
                    }
                }
            }
        }
        for entry in std::fs::read_dir(&self.folder).expect("the folder is there").flatten() {
            let path = entry.path();
            match state.synced.get(&path) {
                Some(file) => std::fs::write(&path, file).expect("the folder can be written"),
                None => std::fs::remove_file(&path).expect("the folder can be written"),
            }
        }
        state.dead = false;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        disks().lock().unwrap().remove(&self.folder);
    }
}

/// The part that speaks C.
#[allow(clippy::undocumented_unsafe_blocks)]
mod vfs {
    use super::*;

    /// What the engine sees as an open file. The real one's structure follows it in memory.
    #[repr(C)]
    struct File {
        base: ffi::sqlite3_file,
        watched: *mut Watched,
    }

    struct Watched {
        path: PathBuf,
        state: Arc<Mutex<State>>,
    }

    fn real_vfs() -> *mut ffi::sqlite3_vfs {
        static REAL: OnceLock<usize> = OnceLock::new();
        *REAL.get_or_init(|| unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) } as usize) as *mut _
    }

    unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
        unsafe { file.cast::<u8>().add(size_of::<File>()).cast() }
    }

    unsafe fn methods(file: *mut ffi::sqlite3_file) -> &'static ffi::sqlite3_io_methods {
        unsafe { &*(*real(file)).pMethods }
    }

    /// Runs `act` on the state of a watched file; `None` when the machine is dead.
    unsafe fn living<T>(file: *mut ffi::sqlite3_file, act: impl FnOnce(&Path, &mut State) -> T) -> Option<Option<T>> {
        let watched = unsafe { (*file.cast::<File>()).watched.as_ref() };
        match watched {
            None => Some(None),
            Some(watched) => {
                let mut state = watched.state.lock().unwrap();
                if state.dead { None } else { Some(Some(act(&watched.path, &mut state))) }
            }
        }
    }

    unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
        unsafe {
            let watched = (*file.cast::<File>()).watched;
            if !watched.is_null() {
                drop(Box::from_raw(watched));
            }
            methods(file).xClose.unwrap()(real(file))
        }
    }

    unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, amount: c_int, offset: i64) -> c_int {
        unsafe { methods(file).xRead.unwrap()(real(file), to, amount, offset) }
    }

    unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, offset: i64) -> c_int {
        unsafe {
            let bytes = std::slice::from_raw_parts(from.cast::<u8>(), amount as usize).to_vec();
            let kept = living(file, |path, state| {
                state.pending.entry(path.to_owned()).or_default().push(Change::Write(offset as u64, bytes));
            });
            match kept {
                None => ffi::SQLITE_IOERR_WRITE,
                Some(_) => methods(file).xWrite.unwrap()(real(file), from, amount, offset),
            }
        }
    }

    unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
        unsafe {
            let kept = living(file, |path, state| {
                state.pending.entry(path.to_owned()).or_default().push(Change::Truncate(size as u64));
            });
            match kept {
                None => ffi::SQLITE_IOERR_TRUNCATE,
                Some(_) => methods(file).xTruncate.unwrap()(real(file), size),
            }
        }
    }

    unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
        let synced = unsafe {
            living(file, |path, state| {
                let changes = state.pending.remove(path).unwrap_or_default();
                let content = state.synced.entry(path.to_owned()).or_default();
                changes.iter().for_each(|change| change.apply(content));
            })
        };
        if synced.is_some() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_FSYNC }
    }

    unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
        unsafe { methods(file).xFileSize.unwrap()(real(file), size) }
    }

    unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, kind: c_int) -> c_int {
        unsafe { methods(file).xLock.unwrap()(real(file), kind) }
    }

    unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, kind: c_int) -> c_int {
        unsafe { methods(file).xUnlock.unwrap()(real(file), kind) }
    }

    unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
        unsafe { methods(file).xCheckReservedLock.unwrap()(real(file), out) }
    }

    unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
        unsafe { methods(file).xFileControl.unwrap()(real(file), op, argument) }
    }

    unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
        unsafe { methods(file).xSectorSize.unwrap()(real(file)) }
    }

    unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
        unsafe { methods(file).xDeviceCharacteristics.unwrap()(real(file)) }
    }

    unsafe extern "C" fn shm_map(
        file: *mut ffi::sqlite3_file,
        page: c_int,
        size: c_int,
        extend: c_int,
        out: *mut *mut c_void,
    ) -> c_int {
        unsafe { methods(file).xShmMap.unwrap()(real(file), page, size, extend, out) }
    }

    unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
        unsafe { methods(file).xShmLock.unwrap()(real(file), offset, count, flags) }
    }

    unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
        unsafe { methods(file).xShmBarrier.unwrap()(real(file)) }
    }

    unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
        unsafe { methods(file).xShmUnmap.unwrap()(real(file), delete) }
    }

    /// Version 2: with shared memory, without memory-mapped files.
    static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
        iVersion: 2,
        xClose: Some(close),
        xRead: Some(read),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xFileSize: Some(file_size),
        xLock: Some(lock),
        xUnlock: Some(unlock),
        xCheckReservedLock: Some(check_reserved_lock),
        xFileControl: Some(file_control),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics),
        xShmMap: Some(shm_map),
        xShmLock: Some(shm_lock),
        xShmBarrier: Some(shm_barrier),
        xShmUnmap: Some(shm_unmap),
        xFetch: None,
        xUnfetch: None,
    };

    unsafe fn disk_of(name: *const c_char) -> Option<(PathBuf, Arc<Mutex<State>>)> {
        if name.is_null() {
            return None;
        }
        let path = PathBuf::from(unsafe { CStr::from_ptr(name) }.to_str().ok()?);
        let disks = disks().lock().unwrap();
        let state = disks.get(path.parent()?)?;
        Some((path, Arc::clone(state)))
    }

    unsafe extern "C" fn open(
        _: *mut ffi::sqlite3_vfs,
        name: ffi::sqlite3_filename,
        file: *mut ffi::sqlite3_file,
        flags: c_int,
        out_flags: *mut c_int,
    ) -> c_int {
        unsafe {
            let ours = file.cast::<File>();
            (*ours).base.pMethods = std::ptr::null();
            (*ours).watched = std::ptr::null_mut();
            let disk = disk_of(name);
            if disk.as_ref().is_some_and(|(_, state)| state.lock().unwrap().dead) {
                return ffi::SQLITE_CANTOPEN;
            }
            let code = (*real_vfs()).xOpen.unwrap()(real_vfs(), name, real(file), flags, out_flags);
            if code == ffi::SQLITE_OK {
                if let Some((path, state)) = disk {
                    // The entry in the folder is taken to be durable once the file is there.
                    state.lock().unwrap().synced.entry(path.clone()).or_default();
                    (*ours).watched = Box::into_raw(Box::new(Watched { path, state }));
                }
                (*ours).base.pMethods = &METHODS;
            }
            code
        }
    }

    unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
        unsafe {
            if let Some((path, state)) = disk_of(name) {
                let mut state = state.lock().unwrap();
                if state.dead {
                    return ffi::SQLITE_IOERR_DELETE;
                }
                state.synced.remove(&path);
                state.pending.remove(&path);
            }
            (*real_vfs()).xDelete.unwrap()(real_vfs(), name, sync)
        }
    }

    unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
        unsafe { (*real_vfs()).xAccess.unwrap()(real_vfs(), name, flags, out) }
    }

    unsafe extern "C" fn full_pathname(
        _: *mut ffi::sqlite3_vfs,
        name: *const c_char,
        size: c_int,
        out: *mut c_char,
    ) -> c_int {
        unsafe { (*real_vfs()).xFullPathname.unwrap()(real_vfs(), name, size, out) }
    }

    unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, size: c_int, out: *mut c_char) -> c_int {
        unsafe { std::ptr::write_bytes(out, 7, size as usize) };
        size
    }

    unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
        micros
    }

    unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
        unsafe { *out = 2_461_000.5 };
        ffi::SQLITE_OK
    }

    unsafe extern "C" fn current_time_millis(_: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
        unsafe { *out = 2_461_000 * 86_400_000 + 43_200_000 };
        ffi::SQLITE_OK
    }

    unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
        0
    }

    pub fn register() {
        unsafe {
            ffi::sqlite3_initialize();
            let real = &*real_vfs();
            let name = CString::new("forgetful").unwrap().into_raw();
            let vfs = Box::new(ffi::sqlite3_vfs {
                iVersion: 2,
                szOsFile: size_of::<File>() as c_int + real.szOsFile,
                mxPathname: real.mxPathname,
                pNext: std::ptr::null_mut(),
                zName: name,
                pAppData: std::ptr::null_mut(),
                xOpen: Some(open),
                xDelete: Some(delete),
                xAccess: Some(access),
                xFullPathname: Some(full_pathname),
                xDlOpen: None,
                xDlError: None,
                xDlSym: None,
                xDlClose: None,
                xRandomness: Some(randomness),
                xSleep: Some(sleep),
                xCurrentTime: Some(current_time),
                xGetLastError: Some(last_error),
                xCurrentTimeInt64: Some(current_time_millis),
                xSetSystemCall: None,
                xGetSystemCall: None,
                xNextSystemCall: None,
            });
            let code = ffi::sqlite3_vfs_register(Box::into_raw(vfs), 1);
            assert_eq!(code, ffi::SQLITE_OK, "the VFS can be registered");
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn count(path: &Path) -> i64 {
        let db = rusqlite::Connection::open(path).unwrap();
        db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap_or(-1)
    }

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let mut lost = 0;
        for seed in 0..20 {
            for (synchronous, must_survive) in [("FULL", true), ("OFF", false)] {
                let folder = tempfile::tempdir().unwrap();
                let disk = Disk::new(folder.path());
                let path = folder.path().join("x.db");
                let db = rusqlite::Connection::open(&path).unwrap();
                db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
                db.execute_batch(&format!("PRAGMA synchronous = {synchronous}; INSERT INTO t VALUES (1)")).unwrap();
                disk.die();
                assert!(db.execute_batch("INSERT INTO t VALUES (2)").is_err());
                drop(db);
                disk.revive(&mut StdRng::seed_from_u64(seed));
                let left = count(&path);
                if must_survive {
                    assert_eq!(left, 1, "seed {seed}");
                } else {
                    lost += i32::from(left < 1);
                }
            }
        }
        assert!(lost > 5, "only {lost} of 20 were lost");
    }
}
