#!/bin/sh
# Prints a runtime configuration for `spin up` that keeps the queue in memory: in a file on tmpfs, which the processes of
# Spin share. Spin's own place for it is on disk, where every message costs a synced transaction. What is lost with the
# file is found again: the orders are in the database.
#
#   scripts/spin-runtime-config.sh > .spin/runtime.toml
#
# Each call makes a folder of its own that nobody else can read, so that no two deployments and no two users meet in it.
set -eu
umask 077
for base in "${XDG_RUNTIME_DIR:-}" /dev/shm "${TMPDIR:-/tmp}"; do
    if [ -n "$base" ] && [ -d "$base" ] && [ -w "$base" ]; then
        folder=$(mktemp -d "$base/order-processing.XXXXXXXX")
        printf '[key_value_store.default]\ntype = "spin"\npath = "%s/queue.db"\n' "$folder"
        exit 0
    fi
done
echo "spin-runtime-config: there is no folder for temporary files" >&2
exit 1
