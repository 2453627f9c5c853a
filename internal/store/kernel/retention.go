package kernel

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// documentEvidence is the kind under which the digest of a run's evidence is kept.
const documentEvidence = "evidence"

// Erase implements store.Retention.
func (s *Store) Erase(ctx context.Context, tenant work.Tenant, id work.RunID, limit int) (bool, error) {
	left := false
	err := s.one(ctx, Needs{}, func(u *unit) error {
		row, err := u.tx.Record(tenant, store.ErasedKind, string(id))
		if err != nil {
			u.fail(err)
			return err
		}
		var e store.Erased
		if row == nil {
			row = &store.Record{Tenant: tenant, Kind: store.ErasedKind, ID: string(id)}
			if e, err = u.erasable(tenant, id); err != nil {
				return err
			}
			u.fail(u.flush()) // what others of this batch have done to the row is written before it goes
			u.fail(u.tx.DeleteRun(tenant, id))
			delete(u.hot, runKey{tenant, id})
			u.order = slices.DeleteFunc(u.order, func(h *hot) bool { return h.run.Tenant == tenant && h.run.ID == id })
		} else if err := json.Unmarshal(row.Doc, &e); err != nil {
			u.fail(err)
			return err
		}
		if e.Done {
			left = false
			return nil
		}
		n, last, err := u.tx.EraseRows(tenant, id, limit)
		u.fail(err)
		u.raiseFloor(tenant, last)
		if n < limit {
			n += u.eraseLetters(tenant, id, limit-n)
		}
		e.Done = n < limit
		left = !e.Done
		row.Doc, err = json.Marshal(&e)
		u.fail(err)
		row.Version++
		u.fail(u.tx.PutRecord(*row))
		if left {
			u.fail(u.tx.PutRecord(store.Record{Tenant: tenant, Kind: store.ErasingKind, ID: string(id), Version: row.Version, Doc: []byte(`{}`)}))
		} else {
			u.fail(u.tx.DeleteRecord(tenant, store.ErasingKind, string(id)))
		}
		u.wrote = true
		return u.err
	})
	return left, err
}

// eraseLetters deletes at most limit records of what people said of the dead steps of a run.
func (u *unit) eraseLetters(tenant work.Tenant, run work.RunID, limit int) int {
	rows, err := u.tx.Records(tenant, store.LetterKind, string(run)+"/", "", limit)
	u.fail(err)
	for i := range rows {
		u.fail(u.tx.DeleteRecord(tenant, store.LetterKind, rows[i].ID))
	}
	return len(rows)
}

// raiseFloor notes up to where the feed of a tenant has gaps, so that a follower who comes back from before hears of it.
func (u *unit) raiseFloor(tenant work.Tenant, last int64) {
	if last == 0 || u.err != nil {
		return
	}
	floor, err := floorOf(u.tx, tenant)
	u.fail(err)
	if floor >= last {
		return
	}
	row, err := u.tx.Record(tenant, feedKind, feedFloor)
	u.fail(err)
	if row == nil {
		row = &store.Record{Tenant: tenant, Kind: feedKind, ID: feedFloor}
	}
	row.Version++
	row.Doc = strconv.AppendInt(nil, last, 10)
	if u.err == nil {
		u.fail(u.tx.PutRecord(*row))
	}
}

// erasable refuses a run that must stay.
func (u *unit) erasable(tenant work.Tenant, id work.RunID) (store.Erased, error) {
	h, err := u.open(tenant, id)
	if err != nil {
		return store.Erased{}, err
	}
	run := h.run
	if run.Phase != work.PhaseEnded {
		return store.Erased{}, fault.New(fault.Conflict, "run %s has not ended", run.Name)
	}
	leaf, _, err := u.tx.Leaf(tenant, id)
	u.fail(err)
	if leaf == nil {
		return store.Erased{}, fault.New(fault.Incomplete, "run %s is not sealed in the log", run.Name)
	}
	evidence, err := u.tx.Document(tenant, id, documentEvidence)
	u.fail(err)
	if evidence == nil {
		return store.Erased{}, fault.New(fault.Incomplete, "the evidence of run %s is not kept", run.Name).WithHint("orrery evidence export %s", run.Name)
	}
	for _, hold := range store.HoldsOn(run) {
		row, err := u.tx.Record(tenant, store.HoldKind, hold)
		u.fail(err)
		if row != nil && !expired(row, u.now) {
			return store.Erased{}, fault.New(fault.Conflict, "run %s is under a legal hold on %s", run.Name, hold).WithHint("orrery retention holds")
		}
	}
	return store.Erased{
		Run: id, Name: run.Name, Pack: run.Pack, PlanHash: run.PlanHash, State: run.State, Created: run.Created, Ended: run.Ended,
		Evidence: work.Digest(evidence), Begun: u.now,
	}, u.err
}
