# What scripts/demo, scripts/test and .ci/run share; sourced by bash in the checkout's top folder.

export PATH="$HOME/.cargo/bin:$PATH"

# Everything that is built goes here.
target=${CARGO_TARGET_DIR:-target}

# Says why, and ends.
die() {
	echo "$*" >&2
	exit 1
}

# A heading with the time since the start.
stage() {
	printf '\n=== %s  [%d:%02d]\n' "$*" $((SECONDS / 60)) $((SECONDS % 60))
}

# What building needs besides the packages named: a C compiler (for the allocator and the cryptography) and Rust.
need() {
	# Debian's own names; elsewhere the programs must be there already.
	if command -v dpkg-query >/dev/null; then
		command -v cc >/dev/null || set -- "$@" gcc libc6-dev
		scripts/lib/packages ca-certificates "$@" </dev/null
	fi
	command -v cargo >/dev/null || die "there is no cargo: install Rust 1.90 or newer, see https://rustup.rs"
}

# Builds a test program of tests/ and says where it is: test_program NAME [--release].
test_program() {
	cargo test --locked --no-run --test "$@" --message-format=json | python3 -c '
import json, sys
built = [json.loads(line) for line in sys.stdin if line.startswith("{")]
name = sys.argv[1]
print([b["executable"] for b in built if b.get("target", {}).get("name") == name and b.get("executable")][-1])' "$1"
}
