// Package keyring holds keys and what they are trusted for: people who submit and approve, the attestor, the log, workers.
//
// A Trust is a document, keyring.json: public keys with the name, the uses and the time in which each is trusted. It is a
// trust root: whoever verifies pins a copy of it and takes nobody else's. Keys are never removed from it; they are retired
// or revoked, so that what they signed before stays judgeable. Judge is the rule for that.
//
// A Root is a Trust that travels: numbered, dated and signed, so that anybody may hand it on.
//
// A Folder is the part that touches files: keyring.json and keys/, where private keys lie as PKCS#8 PEM that only their
// owner may read. Everything else in the package is a pure function of bytes and given times.
package keyring
