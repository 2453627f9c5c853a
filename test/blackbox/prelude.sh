# The words that scripts have. Everything is printed, so a failure shows what went before.
set -euo pipefail
export ORRERY_IDENTITY=ada
mkdir "$HOME/streams"

fail() {
	printf 'FAILED: %s\n' "$*"
	exit 1
}

# exits CODE COMMAND... runs a command that must end with the code; out, err and json look at what it wrote.
exits() {
	local want=$1 rc=0
	shift
	printf '$ %s\n' "$*"
	"$@" >"$HOME/streams/out" 2>"$HOME/streams/err" </dev/null || rc=$?
	cat "$HOME/streams/out" "$HOME/streams/err"
	[ "$rc" = "$want" ] || fail "exit code $rc, not $want: $*"
}

# out, err: standard output, standard error has a line that the pattern fits; notout, noterr: has none.
out() { grep -Eq -e "$1" "$HOME/streams/out" || fail "not on standard output: $1"; }
err() { grep -Eq -e "$1" "$HOME/streams/err" || fail "not on standard error: $1"; }
notout() { ! grep -Eq -e "$1" "$HOME/streams/out" || fail "on standard output: $1"; }
noterr() { ! grep -Eq -e "$1" "$HOME/streams/err" || fail "on standard error: $1"; }

# json EXPRESSION: the document on standard output, d, is such that the Python expression holds. jsonerr: that on standard error.
json() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); ok=eval(sys.argv[2]); print(sys.argv[2], "is", ok); sys.exit(not ok)' "$HOME/streams/${2:-out}" "$1" || fail "not so: $1"; }
jsonerr() { json "$1" err; }
# value EXPRESSION prints something of the document.
value() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$HOME/streams/out" "$1"; }

# eventually COMMAND... tries for two minutes, which nothing that is well needs.
eventually() {
	local until=$((SECONDS + 120))
	while [ $SECONDS -lt $until ]; do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.1
	done
	fail "never came true: $*"
}

# hold_port sets $address to one that nobody gets by asking for any, so that a server can be killed and started again there.
hold_port() {
	python3 -c '
import signal, socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 0))
print("127.0.0.1:%d" % s.getsockname()[1], flush=True)
signal.pause()' >"$HOME/streams/port" 2>/dev/null </dev/null &
	eventually test -s "$HOME/streams/port"
	address=$(cat "$HOME/streams/port")
}

# left PATTERN: a process with it in its command line is there.
left() { pgrep -f -- "$1" >/dev/null; }

skip() {
	printf '\nSKIP %s\n' "$*"
	exit 0
}

# as_nobody COMMAND... runs a command as an ordinary user, with a home folder of its own.
as_nobody() {
	mkdir -p "$PWD/nobody"
	chown 65534:65534 "$PWD/nobody"
	env HOME="$PWD/nobody" TMPDIR="$PWD/nobody" setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# own_mounts begins the script again where it may mount file systems that nobody else sees.
own_mounts() {
	[ -z "${OWN_MOUNTS:-}" ] || return 0
	local alone="unshare -m"
	[ "$(id -u)" = 0 ] || alone="unshare --map-root-user -m"
	$alone true 2>/dev/null || skip "no namespace of mounts can be made here"
	rmdir "$HOME/streams"
	exec env OWN_MOUNTS=1 $alone bash "$0"
}

valid() { exits 0 orrery verify "$@"; out '^VALID$'; }
