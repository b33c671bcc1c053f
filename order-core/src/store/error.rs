//! Why a store could not do what it was asked.

/// The kinds of failure that the rest of the service tells apart, whatever the database is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Others held what was needed for too long: a lock, or a place among the writers. Nothing was changed, and trying
    /// again is safe.
    #[error("the database is busy")]
    Busy,
    /// It was undone for the sake of somebody who did something else at the same moment. Nothing was changed, and trying
    /// again at once is right: in a transaction, from its beginning.
    #[error("others changed the same at the same moment")]
    Conflict,
    /// The database cannot do it now and may later: it is full, read-only, or out of reach. A change may have been made
    /// where the answer to it was lost.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database has a later schema than this build knows: a newer build runs, or ran, beside this one. Nothing was
    /// changed.
    #[error("the database has schema version {found}, and this build knows versions up to {known}")]
    NewerSchema {
        /// The version of the database.
        found: i64,
        /// The last version that this build knows.
        known: i64,
    },
    /// The database is damaged, or not what this code expects; waiting will not help.
    #[error("the database is broken: {0}")]
    Broken(String),
}
