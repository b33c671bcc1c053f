//! The folder with the application's data, which is its user's alone: orders name people and what they buy.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

/// What SQLite puts beside a database.
const BESIDE_DATABASES: [&str; 3] = ["-wal", "-shm", "-journal"];
/// The bit of folders in which everybody may create files, such as /tmp.
const STICKY: u32 = 0o1000;

/// Makes the folder with mode 0700, or gives it that mode if it is there and belongs to this user.
///
/// # Errors
/// It cannot be made, or is not a folder.
pub fn make_private(folder: &Path) -> Result<()> {
    let context = || format!("cannot make the folder {}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(context)?;
    let metadata = folder.metadata().with_context(context)?;
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & STICKY != 0 {
        tracing::warn!("{} is shared with other users; the files in it are private", folder.display());
        return Ok(());
    }
    std::fs::set_permissions(folder, Permissions::from_mode(0o700)).with_context(context)
}

/// Gives a database and the files beside it mode 0600. The database is made, empty, if it is missing; SQLite gives
/// the files that it makes beside it the mode that the database has.
///
/// # Errors
/// The database cannot be made, or belongs to somebody else.
pub fn make_database_private(path: &Path) -> Result<()> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let made_private = opened.and_then(|file| set_private(&file));
    made_private.with_context(|| format!("cannot open {}", path.display()))?;
    for suffix in BESIDE_DATABASES {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        match File::open(&beside).and_then(|file| set_private(&file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot open {}", Path::new(&beside).display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn set_private(file: &File) -> io::Result<()> {
    match file.metadata()?.mode() & 0o077 {
        0 => Ok(()),
        _ => file.set_permissions(Permissions::from_mode(0o600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn folder_and_files_are_private_whether_they_were_there_or_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        make_private(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);

        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let database = folder.join("x.db");
        let wal = folder.join("x.db-wal");
        for file in [&database, &wal] {
            std::fs::write(file, "kept").unwrap();
            std::fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        make_private(&folder).unwrap();
        make_database_private(&database).unwrap();
        assert_eq!((mode(&folder), mode(&database), mode(&wal)), (0o700, 0o600, 0o600));
        assert_eq!(std::fs::read(&database).unwrap(), b"kept");
        assert!(!folder.join("x.db-shm").exists());
    }

    #[test]
    fn what_sqlite_makes_is_private_too() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("x.db");
        make_database_private(&database).unwrap();
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE a (x)").unwrap();
        for name in ["x.db", "x.db-wal", "x.db-shm"] {
            assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_folder_that_all_users_share_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let shared = root.path().join("tmp");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        make_private(&shared).unwrap();
        assert_eq!(mode(&shared), 0o1777);
    }
}
