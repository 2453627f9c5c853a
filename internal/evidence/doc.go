// Package evidence turns an ended run into signed statements and one file that proves it: the bundle.
//
// There is a bundle for every end, also for a run that failed or was cancelled. It is a tar file with the plan, the signed
// submission, approvals, policy decisions, the whole history, transcripts, the egress record, digests of outputs, the
// attestations and the run's place in the tenant's log. docs/reference/evidence.md describes every file.
//
// Everything that is signed here is computed from the history and the plan, which are verified first: the package signs no
// record that does not hold together. The same record gives the same bytes. The package reads no file and knows no clock.
//
// It also makes and checks the two documents that people sign: a submission and an approval.
package evidence
