// Package verify judges the evidence of a run with nothing but the bundle, a trust root and the time: no server, no store.
//
// It takes no code from the side that makes bundles. It reads the tar file itself, knows the layout and the documents by its
// own definitions, follows the history with its own rules, and computes for itself what every attestation must say; what
// is signed must be that, byte for byte. Where both sides hold the same constant or type, it stands in both on purpose:
// an error of the producer must not be able to excuse itself here. Shared are the words of the domain, the encoding, the
// envelope, the chain and the proofs, and the rules of trust.
//
// The snapshot of keys in a bundle is evidence of what the producer trusted. A verdict rests on the caller's trust alone.
//
// Every byte is covered: a bundle is exactly the tar file that its members make, so a change anywhere is seen.
package verify
