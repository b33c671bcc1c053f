#!/bin/sh
# Fuzzes each target for a while: scripts/fuzz.sh [SECONDS], 10 by default. Needs cargo-fuzz, and installs it where
# it is missing. The compiler in use will do: no nightly is needed without a sanitizer, and the code is safe Rust.
set -eu
seconds=${1:-10}
cd "$(dirname "$0")/.."
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz
export RUSTC_BOOTSTRAP=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
host=$(rustc -vV | sed -n 's/^host: //p')
for target in $(cargo fuzz list); do
    echo "fuzzing $target for $seconds s"
    cargo fuzz run --sanitizer none --target "$host" "$target" -- -max_total_time="$seconds" -max_len=4096 -verbosity=0 2>"$log" || {
        tail -n 40 "$log"
        exit 1
    }
done
