#!/bin/sh
# Checks one output of a run against the SLSA provenance in its evidence bundle, with cosign v3.1.3 and without a network.
#
#   cosign.sh BUNDLE.tar ATTESTOR.pub.pem OUTPUT-FILE
#
# The envelope of the bundle is put into a Sigstore bundle v0.3 as it is; the signature in it is not touched.
# Exit code: that of cosign, 2 for wrong use.
set -eu

[ $# -eq 3 ] || { echo "usage: cosign.sh BUNDLE.tar ATTESTOR.pub.pem OUTPUT-FILE" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tar -xOf "$1" attestations/provenance.dsse.json > "$work/envelope.json"
keyid=$(openssl pkey -pubin -in "$2" -outform DER | sha256sum | cut -d' ' -f1)
{
	printf '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",'
	printf '"verificationMaterial":{"publicKey":{"hint":"%s"}},"dsseEnvelope":' "$keyid"
	# The key id is a hint of the envelope that nothing signs; cosign takes only its own form of it, or none.
	sed 's/"keyid":"[0-9a-f]*",//' "$work/envelope.json"
	printf '}'
} > "$work/provenance.sigstore.json"

cosign verify-blob-attestation --bundle "$work/provenance.sigstore.json" --key "$2" --insecure-ignore-tlog --type slsaprovenance1 "$3"
