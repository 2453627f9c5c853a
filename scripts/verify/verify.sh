#!/bin/sh
# Checks an evidence bundle with nothing of Orrery: tar, sha256sum, base64 and openssl.
#
#   verify.sh BUNDLE.tar ATTESTOR.pub.pem
#
# It checks that the archive holds plain files only, that they are exactly those of SHA256SUMS, that the attestor signed
# the manifest and every attestation, and that plan.json has the plan hash. It does not follow the history, approvals and
# the ledger: `orrery verify` does. Exit code 0 when all of it holds, 1 when not, 2 for wrong use.
set -eu

[ $# -eq 2 ] || { echo "usage: verify.sh BUNDLE.tar ATTESTOR.pub.pem" >&2; exit 2; }
bundle=$(realpath "$1")
key=$(realpath "$2")

fail() { echo "INVALID  $*" >&2; exit 1; }
pass() { echo "ok       $*"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bundle"

# Names and kinds are looked at before anything is unpacked.
tar -tvf "$bundle" | grep -v '^-' && fail "the archive holds something that is no plain file"
tar -tf "$bundle" > "$work/names" || fail "this is not a tar file"
LC_ALL=C grep -qE '(^/|(^|/)\.|[^A-Za-z0-9_%~./-])' "$work/names" && fail "the archive holds a name that no bundle has"
[ -z "$(sort "$work/names" | uniq -d)" ] || fail "a name stands twice in the archive"
tar -xf "$bundle" -C "$work/bundle" --no-same-owner --no-same-permissions
cd "$work/bundle"

for file in manifest.json manifest.dsse.json SHA256SUMS plan.json attestations/run.dsse.json attestations/pack-run.dsse.json; do
	[ -f "$file" ] || fail "$file is missing"
done
sha256sum --check --strict --quiet SHA256SUMS || fail "a file is not the one in SHA256SUMS"
{ cut -c67- SHA256SUMS; echo SHA256SUMS; echo manifest.dsse.json; } | LC_ALL=C sort > "$work/listed"
LC_ALL=C sort "$work/names" | cmp -s - "$work/listed" || fail "the archive and SHA256SUMS list different files"
pass "$(wc -l < SHA256SUMS) files match SHA256SUMS"

# field NAME FILE prints a string of an envelope. Envelopes are written in one form: canonical JSON without escapes.
field() { sed -nE 's/.*"'"$1"'":"([^"\\]*)".*/\1/p' "$2"; }

keyid=$(openssl pkey -pubin -in "$key" -outform DER | sha256sum | cut -d' ' -f1)

# envelope FILE TYPE checks the signature over the pre-authentication encoding and leaves the payload in $work/payload.
envelope() {
	type=$(field payloadType "$1")
	[ "$type" = "$2" ] || fail "$1 has the type $type, not $2"
	[ "$(grep -o '"sig":' "$1" | wc -l)" -eq 1 ] || fail "$1 does not have exactly one signature"
	[ "$(field keyid "$1")" = "$keyid" ] || fail "$1 is signed by another key than $2 $key"
	field payload "$1" | base64 -d > "$work/payload"
	field sig "$1" | base64 -d > "$work/sig"
	{ printf 'DSSEv1 %d %s %d ' "${#type}" "$type" "$(stat -c %s "$work/payload")"; cat "$work/payload"; } > "$work/pae"
	openssl dgst -sha256 -verify "$key" -signature "$work/sig" "$work/pae" > /dev/null || fail "the signature of $1 does not hold"
	pass "$1 is signed by $keyid"
}

envelope manifest.dsse.json application/vnd.orrery.manifest+json
cmp -s "$work/payload" manifest.json || fail "the signature is over another manifest"
# The list that sha256sum checked must be the one that is signed.
grep -oE '"path":"[^"]*"|"sha256":"[0-9a-f]{64}"' manifest.json | cut -d'"' -f4 | paste - - | awk '{ print $2 "  " $1 }' > "$work/signed"
{ cat "$work/signed"; printf '%s  manifest.json\n' "$(sha256sum manifest.json | cut -d' ' -f1)"; } | cmp -s - SHA256SUMS || fail "SHA256SUMS and the manifest differ"

plan=$(sha256sum plan.json | cut -d' ' -f1)
[ "$(field planHash manifest.json)" = "sha256:$plan" ] || fail "plan.json hashes to $plan, the manifest says otherwise"
pass "plan.json has the plan hash $plan"

envelope attestations/pack-run.dsse.json application/vnd.stellaops.pack-run+json
grep -q "\"planHash\":\"sha256:$plan\"" "$work/payload" || fail "the attestation of the pack run is about another plan"
envelope attestations/run.dsse.json application/vnd.in-toto+json
grep -q "\"planHash\":\"sha256:$plan\"" "$work/payload" || fail "the attestation of the run is about another plan"
if [ -f attestations/provenance.dsse.json ]; then
	envelope attestations/provenance.dsse.json application/vnd.in-toto+json
	grep -q "\"planHash\":\"sha256:$plan\"" "$work/payload" || fail "the provenance is about another plan"
fi
echo "VALID    signatures, files and plan hash (not: history, approvals, ledger)"
