// Package work defines the words of Orrery: tenants, packs, plans, runs, steps, attempts, leases, events and artifacts.
//
// Everything else speaks in these words. The package needs the standard library only, holds no logic beyond what a word
// means, and asks nobody for the time.
//
// Laws that every user of these words keeps:
//
//   - The tenant is part of every key.
//   - A plan is immutable and named by its hash; a run executes one plan and its history is only ever appended to.
//   - Work is granted by a lease with a Token; a write under any token but the current one is refused.
//   - A terminal state is final.
//   - Every wait and every end carries a Reason, written at the moment it was decided.
package work
