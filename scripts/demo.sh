#!/usr/bin/env bash
# Runs the tour from start to finish, unattended, in a data folder that is gone afterwards: a run that recovers and waits, an approval
# by a second person, and evidence that is checked as somebody elsewhere would check it. The last line is VALID, or the exit code is not 0.
#
#   make demo                        builds and runs it
#   DEMO_KEEP=/tmp/demo make demo    leaves data, evidence and trust root in that folder
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${DEMO_BIN:-$PWD/bin}:$PATH
command -v orrery >/dev/null || { echo "there is no orrery; build it first: make build" >&2; exit 1; }

if [ -n "${DEMO_KEEP:-}" ]; then
	mkdir -p "$DEMO_KEEP"
	place=$(cd "$DEMO_KEEP" && pwd)
else
	place=$(mktemp -d)
	trap 'rm -rf "$place"' EXIT
fi
export ORRERY_DATA=$place/data ORRERY_IDENTITY=ada
unset ORRERY_TENANT

# part says in plain words what comes.
part() { printf '\n\033[1m%s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }

# expect CODE COMMAND... shows a command, runs it, and ends the demo when it exits with another code.
expect() {
	local want=$1 rc=0 line='$' word
	shift
	for word; do
		case $word in *' '*) line+=" \"$word\"" ;; *) line+=" $word" ;; esac
	done
	printf '%s\n' "${line//$place\//}"
	"$@" 2>&1 || rc=$?
	[ "$rc" = "$want" ] || { echo "the demo stops: exit code $rc, expected $want" >&2; exit 1; }
}

part "1. What will run: a plan with a hash, before anything has happened"
expect 0 orrery plan examples/tour

part "2. Ada runs it. One step fails and is tried again; one step fans out; then a gate waits (exit code 8)"
expect 8 orrery run examples/tour --note "a first look"

part "3. Why does it wait?"
expect 0 orrery why @latest

part "4. Ada submitted it, so she may not approve it (exit code 4)"
expect 4 orrery approve @latest --reason "I like my own work"

part "5. Ben has a key of his own; his signature counts for this plan hash and no other"
expect 0 orrery keys generate ben
expect 0 orrery approve @latest --as ben --reason "three planets, three measurements"

part "6. What leaves this machine: one file of evidence, and the public keys to pin"
expect 0 orrery evidence export @latest -f "$place/tour.evidence.tar"
expect 0 orrery keys trust-root -f "$place/trust.json"

part "7. One byte is changed in a copy: the evidence does not hold any more (exit code 9)"
python3 - "$place/tour.evidence.tar" "$place/changed.evidence.tar" <<'PY'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
data[data.index(b"three planets")] ^= 1
open(sys.argv[2], "wb").write(data)
PY
expect 9 orrery verify "$place/changed.evidence.tar" --trust "$place/trust.json"

# From here on nothing of this data folder is used: as on another machine, years later.
export ORRERY_DATA=$place/elsewhere

part "8. Elsewhere: the scheduler decides again, from the history alone"
expect 0 orrery replay "$place/tour.evidence.tar"

part "9. Elsewhere: the evidence, under the pinned keys, with no server and no network"
expect 0 orrery verify "$place/tour.evidence.tar" --trust "$place/trust.json"
