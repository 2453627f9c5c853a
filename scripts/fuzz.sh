#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other.
#
#   FUZZTIME    seconds for each, such as 5s (default 10s)
#   FUZZTOTAL   seconds for all together, such as 90s; each target then gets its share, at least one second
#
# Targets are found by their names. A package is built once; what fuzzing finds is written to its testdata/fuzz/.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds() { local s=${1%s}; [[ $s =~ ^[0-9]+$ ]] || { echo "fuzz: write seconds, such as 10s, not $1" >&2; exit 2; }; echo "$s"; }

each=$(seconds "${FUZZTIME:-10s}")
mapfile -t targets < <(grep -rEo --include='*_test.go' --exclude-dir=testdata '^func Fuzz[A-Z0-9_][A-Za-z0-9_]*' cmd internal api 2>/dev/null |
	sed -E 's,/[^/]+:func , ,' | sort)
if [ ${#targets[@]} -eq 0 ]; then
	echo "fuzz: no targets"
	exit 0
fi
if [ -n "${FUZZTOTAL:-}" ]; then
	share=$(($(seconds "$FUZZTOTAL") / ${#targets[@]}))
	each=$((share < 1 ? 1 : share < each ? share : each))
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$(go env GOCACHE)/fuzz/orrery

built="" failed=()
for target in "${targets[@]}"; do
	dir=${target% *} name=${target#* }
	if [ "$dir" != "$built" ]; then
		go test -c -vet=off -fuzz=. -o "$work/fuzz.test" "./$dir"
		built=$dir
	fi
	mkdir -p "$cache/$dir"
	echo "fuzz: $dir $name ${each}s"
	(cd "$dir" && "$work/fuzz.test" -test.run='^$' -test.fuzz="^$name\$" -test.fuzztime="${each}s" -test.parallel="${JOBS:-2}" \
		-test.fuzzcachedir="$cache/$dir") >"$work/log" 2>&1 || {
		# Go's fuzzer now and then calls it a failure that the time was over while an input was tried: nothing was found then.
		if ! grep -q '^ *context deadline exceeded$' "$work/log" || grep -Eq 'Failing input written|_test\.go:|panic:' "$work/log"; then
			cat "$work/log"
			failed+=("$dir $name")
			continue
		fi
	}
	tail -n 2 "$work/log" | head -n 1
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'fuzz: FAILED %s\n' "${failed[@]}"
	exit 1
fi
echo "fuzz: ${#targets[@]} targets, nothing found"
