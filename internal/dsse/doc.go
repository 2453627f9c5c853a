// Package dsse is the envelope around everything signed at rest: DSSE v1 (github.com/secure-systems-lab/dsse), bytes in, verdict out.
//
// An envelope carries one payload, its type, and signatures over both. The payload of an Envelope cannot be read: the one
// way to its bytes is Verify, so nobody parses what nobody checked. The package never holds a private key.
//
// What it accepts: ECDSA P-256 with SHA-256 and an ASN.1 DER signature, and Ed25519. A key id is the lower-case hexadecimal
// SHA-256 of the DER SubjectPublicKeyInfo; inside an envelope it only says which key to try, it decides nothing.
//
// What it refuses besides a wrong signature: fields that appear twice, fields whose name differs from the specification's
// by case only, text after the envelope, base64 with line breaks, without padding or with stray bits, more than one
// signature, and anything above the limits. The text of a signature is not the identity of a document all the same: for
// every ECDSA signature there is a second valid one. Use the digest of the payload to recognise a document.
package dsse
