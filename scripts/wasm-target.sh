#!/bin/sh
# Makes sure that the compiler on PATH can build for wasm32-wasip2, the target of the components.
#
#   scripts/wasm-target.sh            does nothing when the target is there; else asks rustup for it;
#                                     where rustup is missing or cannot download, builds the target
#                                     from Debian's packages
#   scripts/wasm-target.sh --debian   takes the Debian way at once
#
# The Debian way: `rust-src` of the compiler's own version holds the standard library's source, and
# `wasi-libc` the C library it stands on. Both are fetched by apt with their signatures checked,
# through a configuration of this script's own: the machine's apt settings, lists and installed
# packages stay as they are. What is built goes where rustup would have put it.
set -eu

target=wasm32-wasip2
# The suites that carry the two packages.
rust_src_suite=trixie-backports
wasi_libc_suite=forky
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'wasm-target: %s\n' "$*" >&2; }
fail() {
    say "$*"
    say "install the target by hand, then run the command again: rustup target add $target"
    exit 1
}

command -v rustc >/dev/null || fail "there is no rustc on PATH: install Rust first"
sysroot=$(rustc --print sysroot)
rustlib=$sysroot/lib/rustlib

target_is_there() {
    set -- "$rustlib/$target"/lib/libstd-*.rlib
    [ -e "$1" ] && [ -e "$rustlib/$target/lib/self-contained/crt1-reactor.o" ]
}

if target_is_there; then
    exit 0
fi

if [ "${1:-}" != --debian ] && command -v rustup >/dev/null; then
    say "asking rustup for $target"
    # In the toolchain that rustc stands for, whichever way it was chosen.
    if rustup target add --toolchain "$(basename "$sysroot")" "$target" && target_is_there; then
        exit 0
    fi
    say "rustup could not install it"
fi

for tool in apt-get apt-cache dpkg cargo; do
    command -v "$tool" >/dev/null || fail "no $tool here, so Debian's packages are no way to $target"
done
[ -r "$keyring" ] || fail "no $keyring here, so Debian's signatures cannot be checked"
[ -w "$rustlib" ] || fail "$rustlib is not writable"

version=$(rustc -vV | sed -n 's/^release: //p')
say "building $target for rustc $version from Debian's packages rust-src and wasi-libc"

# The Debian mirror that this machine's apt uses; security and third-party archives do not have the suites.
mirror=$(apt-get indextargets --format '$(REPO_URI)' |
    grep -E '/debian/?$' | sort -u | head -n 1)
[ -n "$mirror" ] || fail "apt knows no Debian mirror"

work=$(mktemp -d "${TMPDIR:-/tmp}/wasm-target.XXXXXX")
linked=
cleanup() {
    if [ -n "$linked" ]; then rm -f "$linked"; fi
    rm -rf "$work"
}
trap cleanup EXIT INT TERM
# apt drops its privileges for downloads and must still reach the folder.
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/none"
for suite in "$rust_src_suite" "$wasi_libc_suite"; do
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite"
done >"$work/sources.list"

apt() {
    command=$1
    shift
    "$command" -q \
        -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts="$work/none" \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" -o Dir::State::Status=/dev/null \
        "$@"
}
apt apt-get update >"$work/apt.log" 2>&1 || {
    cat "$work/apt.log" >&2
    fail "apt could not read the package lists of $rust_src_suite and $wasi_libc_suite"
}

rust_src=$(apt apt-cache madison rust-src | awk '{ print $3 }' | grep -E "^$version[+~-]" | head -n 1 || true)
[ -n "$rust_src" ] || fail "Debian has no rust-src of version $version (it has: $(
    apt apt-cache madison rust-src | awk '{ print $3 }' | tr '\n' ' '))"
wasi_libc=$(apt apt-cache madison wasi-libc | awk 'NR == 1 { print $3 }')
[ -n "$wasi_libc" ] || fail "Debian has no wasi-libc in $wasi_libc_suite"
say "using rust-src $rust_src and wasi-libc $wasi_libc"

(cd "$work" && apt apt-get download "rust-src=$rust_src" "wasi-libc=$wasi_libc" >"$work/apt.log" 2>&1) || {
    cat "$work/apt.log" >&2
    fail "apt could not download the two packages"
}
for package in "$work"/*.deb; do
    dpkg -x "$package" "$work/root"
done
library=$(echo "$work"/root/usr/src/rustc-*/library)
[ -e "$library/std/Cargo.toml" ] || fail "rust-src $rust_src holds no library/std"
crt1=$(find "$work/root" -path "*/$target/crt1-reactor.o" | head -n 1)
[ -n "$crt1" ] || fail "wasi-libc $wasi_libc holds nothing for $target"
libc=$(dirname "$crt1")

# cargo looks for the library's source in the sysroot; the link is taken away again at the end.
if [ ! -e "$rustlib/src/rust/library" ]; then
    mkdir -p "$rustlib/src/rust"
    linked=$rustlib/src/rust/library
    ln -s "$library" "$linked"
fi

mkdir -p "$rustlib/$target/lib/self-contained" "$work/std/src"
cp "$libc"/*.o "$libc"/*.a "$rustlib/$target/lib/self-contained/"
printf '[package]\nname = "std-for-wasm"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' >"$work/std/Cargo.toml"
: >"$work/std/src/lib.rs"
# Building the standard library is a nightly feature of cargo; the source is that of this very compiler.
(cd "$work/std" && env -u CARGO_ENCODED_RUSTFLAGS RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes \
    CARGO_TARGET_DIR="$work/build" cargo build --quiet --release \
    -Zbuild-std=std,panic_abort --target "$target") ||
    fail "the standard library did not build for $target"
for rlib in "$work/build/$target"/release/deps/*.rlib; do
    case $rlib in
        */libstd_for_wasm-*) ;;
        *) cp "$rlib" "$rustlib/$target/lib/" ;;
    esac
done
target_is_there || fail "the build left no standard library in $rustlib/$target"
say "$target is installed in $sysroot"
