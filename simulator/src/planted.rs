//! Mistakes that are planted on purpose: each is found by the simulator, or the simulator is no good.
//!
//! A mistake is a statement that the components send and another one that is run in its place, so that no
//! other build of the components is needed.

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Orders are acknowledged before they are synced to disk.
    AcknowledgeBeforeSync,
    /// A worker whose lease ran out can still settle.
    NoFencing,
    /// A settlement is carried out whatever became of the order meanwhile.
    SettleAnyones,
    /// Orders without a message, and snoozed or retried ones, are never taken up.
    NoReconcile,
    /// Orders whose lease ran out are never taken up again.
    LostLeasesStayLost,
    /// A message starts an order again whatever its status is.
    MessagesStartAnything,
    /// An order can be cancelled whatever its status is.
    CancelAnything,
    /// An order can be retried whatever its status is.
    RetryAnything,
    /// The counters are not part of the change that they count.
    CountersOutsideTheChange,
    /// The key and what is done under it are two changes.
    KeyOutsideTheTransaction,
    /// Answers are not kept.
    ForgetAnswers,
    /// The number of attempts has no limit.
    NoLimitOfAttempts,
    /// An order that is sent again with other content takes that content on.
    OverwriteOnConflict,
    /// The history leaves changes out.
    HistoryWithGaps,
    /// An attempt that follows a lost one has the same number.
    SameNumberAfterLoss,
    /// Events are numbered apart from creations: a reader who follows the numbers skips some.
    NumbersOutOfOrder,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::AcknowledgeBeforeSync,
        Self::NoFencing,
        Self::SettleAnyones,
        Self::NoReconcile,
        Self::LostLeasesStayLost,
        Self::MessagesStartAnything,
        Self::CancelAnything,
        Self::RetryAnything,
        Self::CountersOutsideTheChange,
        Self::KeyOutsideTheTransaction,
        Self::ForgetAnswers,
        Self::NoLimitOfAttempts,
        Self::OverwriteOnConflict,
        Self::HistoryWithGaps,
        Self::SameNumberAfterLoss,
        Self::NumbersOutOfOrder,
    ];

    /// What is run in the place of `statement`; `None` leaves it as it is.
    pub fn rewrite(self, statement: &str) -> Option<String> {
        let replace = |from: &str, to: &str| statement.contains(from).then(|| statement.replace(from, to));
        let among = |mark: &str, from: &str, to: &str| {
            statement.contains(mark).then(|| {
                assert!(statement.contains(from), "the planted mistake no longer fits: {statement}");
                statement.replace(from, to)
            })
        };
        match self {
            Self::AcknowledgeBeforeSync => replace("PRAGMA synchronous = FULL", "PRAGMA synchronous = OFF"),
            Self::NoFencing => among("AS settled", "AND orders.attempts = settled.attempt", ""),
            Self::SettleAnyones => {
                let guards = "AND orders.attempts = settled.attempt\n       AND orders.status = 'Processing' AND orders.snoozed = 0";
                among("AS settled", guards, "")
            }
            Self::NoReconcile => among("SELECT 1 FROM orders WHERE lane = ?2", "LIMIT 1", "LIMIT 0"),
            Self::LostLeasesStayLost => among("SET quarantined = 1,", "WHERE seq = (", "WHERE 0 AND seq = ("),
            Self::MessagesStartAnything => among(
                "attempts = 1, started_at = ?2",
                "AND status = 'Pending' AND attempts = 0",
                "AND finished_at IS NULL",
            )
            .map(|statement| statement.replace("attempts = 1,", "attempts = attempts + 1,")),
            Self::CancelAnything => among("SET status = 'Cancelled'", "AND status = 'Pending'", ""),
            Self::RetryAnything => among(
                "attempts_forgiven = attempts\n     WHERE owner",
                "AND status = 'Failed'",
                "AND status <> 'Pending'",
            ),
            Self::CountersOutsideTheChange => among(
                "CREATE TRIGGER orders_status_changed",
                "WHEN OLD.status <> NEW.status",
                "WHEN OLD.status <> NEW.status AND NEW.seq % 3 > 0",
            ),
            Self::KeyOutsideTheTransaction => match statement {
                "BEGIN IMMEDIATE" | "COMMIT" => Some("SELECT 1".to_owned()),
                _ => None,
            },
            Self::ForgetAnswers => {
                among("INSERT INTO idempotency_keys (owner", "value ->> 2,", "value ->> 2 || hex(randomblob(8)),")
            }
            Self::NoLimitOfAttempts => among("lane IN (2, 4)", "LIMIT 100", "LIMIT 0"),
            Self::OverwriteOnConflict => among(
                "INSERT INTO orders (seq, owner",
                "DO NOTHING",
                "DO UPDATE SET total_amount = excluded.total_amount WHERE total_amount <> excluded.total_amount",
            ),
            Self::HistoryWithGaps => {
                let when = "WHEN OLD.status <> NEW.status OR OLD.attempts <> NEW.attempts";
                among("CREATE TRIGGER orders_changed_history", when, "WHEN OLD.attempts <> NEW.attempts")
            }
            Self::SameNumberAfterLoss => {
                among("SET quarantined = 1,", "attempts = attempts + (snoozed = 0),", "attempts = attempts,")
            }
            Self::NumbersOutOfOrder => among(
                "SELECT last.number + 1, NEW.seq",
                "last.number + 1",
                "1 + coalesce((SELECT max(number) FROM order_events), last.number)",
            ),
        }
    }
}
