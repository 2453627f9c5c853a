#!/usr/bin/env bash
# Builds orrery as it is released: with the shim of the sandbox in it, as a program of its own.
#
#   scripts/build.sh FILE [FLAGS OF GO BUILD...]
#
# The same source gives the same bytes. Nothing is written into the tree: the shim is laid over it.
set -euo pipefail

file=$(realpath -m "$1")
shift
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

go build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o "$work/shim" ./cmd/orrery-sandbox-shim
printf '{"Replace": {"%s/internal/sandbox/linux/image/shim.%s": "%s/shim"}}\n' "$PWD" "$(go env GOARCH)" "$work" >"$work/overlay.json"
go build -trimpath -tags carried -overlay "$work/overlay.json" "$@" -o "$file" ./cmd/orrery
