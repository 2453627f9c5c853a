package store

import (
	"context"

	"orrery.example/orrery/internal/work"
)

// Erased is what stays of a run that was deleted, beside its leaf in the log and its evidence.
type Erased struct {
	Run      work.RunID   `json:"run"`
	Name     string       `json:"name"`
	Pack     work.PackRef `json:"pack"`
	PlanHash work.Digest  `json:"planHash"`
	State    work.State   `json:"state"`
	Created  work.Time    `json:"created"`
	Ended    work.Time    `json:"ended"`
	Evidence work.Digest  `json:"evidence"` // of its bundle
	Begun    work.Time    `json:"begun"`
	Done     bool         `json:"done"` // nothing of it is left
}

// Kinds of the records of retention.
const (
	ErasedKind  = "erased"  // Erased, by id of the run
	ErasingKind = "erasing" // by id of a run of which something is left
	HoldKind    = "hold"    // a legal hold, by what it is on: "run/ID", "pack/NAME" or "label/KEY=VALUE", or HoldAll
)

// Retention deletes runs.
type Retention interface {
	// Erase deletes a run that has ended, is sealed and whose evidence is kept, at most limit rows at a time: it is sent again until it
	// says that nothing is left. With the first it is in no list any more, and an Erased is kept. Its leaf in the log stays. Errors:
	// fault.NotFound, fault.Conflict for a run that must stay, fault.Incomplete for one that is not sealed or has no evidence.
	Erase(ctx context.Context, tenant work.Tenant, run work.RunID, limit int) (left bool, err error)
}

// Lists goes through all that is there, for whoever has to look at everything. A page is as it was at one moment; between two pages
// anything may change.
type Lists interface {
	// RunsAfter returns at most limit runs whose ids are greater than after, by id.
	RunsAfter(ctx context.Context, tenant work.Tenant, after work.RunID, limit int) ([]work.Run, error)

	// Results returns at most limit cached results after the one with the given key, "" for the first, in an order that does not change.
	Results(ctx context.Context, tenant work.Tenant, after work.Digest, limit int) ([]KeyedResult, error)
}

// HoldAll is what a hold on everything in a tenant is on. It has an end: the store forgets it when it has expired.
const HoldAll = "everything"

// HoldsOn returns the ids of the records that keep a run from being deleted.
func HoldsOn(run *work.Run) []string {
	out := []string{HoldAll, "run/" + string(run.ID), "pack/" + run.Pack.Name}
	for key, value := range run.Labels {
		out = append(out, "label/"+key+"="+value)
	}
	return out
}
