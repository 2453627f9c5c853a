// Package ledger makes history tamper-evident: the hash chain of a run's events, and the Merkle log of a tenant's ended runs.
//
// A chain proves that no event of one run was changed, dropped, added or moved: the hash of an event is SHA-256 over its
// canonical JSON without the hash, and that JSON holds the hash of the event before it. Anyone can recompute it with
// standard tools: one line of the timeline, the field "hash" removed, through sha256sum.
//
// A log proves that no run was changed or dropped after it ended: its leaves are the last hashes of runs, its root is
// signed as a C2SP checkpoint, and short proofs show that a leaf is under a root and that a later root extends an earlier
// one. The tree and the notes are those of golang.org/x/mod/sumdb.
//
// Everything here is a pure function; who stores events and hashes brings them along.
package ledger
