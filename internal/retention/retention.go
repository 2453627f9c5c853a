// Package retention deletes runs when the policy of their tenant says so, after their evidence is made and kept, and never what is
// under a legal hold.
package retention

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store is what retention needs of one.
type Store interface {
	Find(ctx context.Context, tenant work.Tenant, q store.RunQuery) ([]work.Run, error)
	Record(ctx context.Context, tenant work.Tenant, kind, id string) (store.Record, error)
	Records(ctx context.Context, tenant work.Tenant, kind, prefix, after string, limit int) ([]store.Record, error)
	Change(ctx context.Context, changes ...store.RecordChange) error
	Erase(ctx context.Context, tenant work.Tenant, run work.RunID, limit int) (left bool, err error)
}

// Service keeps policies and holds, and acts on them. It is safe for concurrent use, also on several servers.
type Service struct {
	Store    Store
	Evidence func(ctx context.Context, run work.Run) error // makes the evidence of an ended run and keeps it
	Now      func() work.Time
}

// Policy says how long runs stay. The zero value keeps everything.
type Policy struct {
	Days map[work.State]int `json:"days,omitempty"` // after the end, by how it ended; Other for states that are not named, none for ever
	Keep int                `json:"keep,omitempty"` // the newest of each pack stay whatever their age
}

// Other stands for every terminal state that a policy does not name.
const Other work.State = "*"

// Hold is a legal hold.
type Hold struct {
	On string     `json:"on"` // run/ID, pack/NAME or label/KEY=VALUE
	By work.Actor `json:"by"`
}

const (
	policyKind = "retention"
	piece      = 200 // rows that go with one commit
	pageSize   = 200
	most       = 36_500 // days
)

// Policy returns the policy of a tenant.
func (s *Service) Policy(ctx context.Context, tenant work.Tenant) (Policy, error) {
	p, _, err := s.policy(ctx, tenant)
	return p, err
}

func (s *Service) policy(ctx context.Context, tenant work.Tenant) (p Policy, version int64, err error) {
	row, err := s.Store.Record(ctx, tenant, policyKind, policyKind)
	if fault.CodeOf(err) == fault.NotFound {
		return p, 0, nil
	}
	if err != nil {
		return p, 0, err
	}
	return p, row.Version, fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &p), "the policy of retention")
}

// SetPolicy replaces the policy of a tenant. Error: fault.Invalid.
func (s *Service) SetPolicy(ctx context.Context, tenant work.Tenant, p Policy) error {
	for state, days := range p.Days {
		if state != Other && !state.Terminal() {
			return fault.New(fault.Invalid, "a run does not end %q", state).WithHint("succeeded, failed, timed-out, cancelled, or * for the others")
		}
		if days < 1 || days > most {
			return fault.New(fault.Invalid, "a run stays for 1 to %d days, not %d", most, days).WithHint("leave a state out to keep its runs for ever")
		}
	}
	if p.Keep < 0 {
		return fault.New(fault.Invalid, "the number of runs that stay is not negative")
	}
	_, version, err := s.policy(ctx, tenant)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(p)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the policy of retention")
	}
	store.About(ctx, "policy")
	return s.Store.Change(ctx, store.RecordChange{Record: store.Record{Tenant: tenant, Kind: policyKind, ID: policyKind, Version: version, Doc: doc}})
}

// SetHold puts a legal hold on a run, a pack or a label. Errors: fault.Invalid, fault.Conflict for one that is there.
func (s *Service) SetHold(ctx context.Context, tenant work.Tenant, h Hold) error {
	kind, name, ok := strings.Cut(h.On, "/")
	if !ok || name == "" || kind != "run" && kind != "pack" && kind != "label" || kind == "label" && !strings.Contains(name, "=") {
		return fault.New(fault.Invalid, "%q cannot be held", h.On).WithHint("run/ID, pack/NAME or label/KEY=VALUE")
	}
	if h.By.Reason == "" {
		return fault.New(fault.Invalid, "a legal hold needs a reason")
	}
	h.By.At = s.Now()
	doc, err := json.Marshal(h)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a hold")
	}
	store.About(ctx, h.On)
	return s.Store.Change(ctx, store.RecordChange{Record: store.Record{Tenant: tenant, Kind: store.HoldKind, ID: h.On, Doc: doc}})
}

// Release takes a legal hold away. Error: fault.NotFound.
func (s *Service) Release(ctx context.Context, tenant work.Tenant, on string) error {
	row, err := s.Store.Record(ctx, tenant, store.HoldKind, on)
	if err != nil {
		return err
	}
	store.About(ctx, on)
	return s.Store.Change(ctx, store.RecordChange{Record: row, Delete: true})
}

// Holds lists the legal holds of a tenant.
func (s *Service) Holds(ctx context.Context, tenant work.Tenant) ([]Hold, error) {
	return all[Hold](ctx, s.Store, tenant, store.HoldKind)
}

// Erased lists what stays of runs that were deleted, by id.
func (s *Service) Erased(ctx context.Context, tenant work.Tenant) ([]store.Erased, error) {
	return all[store.Erased](ctx, s.Store, tenant, store.ErasedKind)
}

func all[T any](ctx context.Context, s Store, tenant work.Tenant, kind string) ([]T, error) {
	out := []T{}
	for after := ""; ; {
		page, err := s.Records(ctx, tenant, kind, "", after, pageSize)
		if err != nil {
			return nil, err
		}
		for i := range page {
			var v T
			if err := json.Unmarshal(page[i].Doc, &v); err != nil {
				return nil, fault.Wrap(fault.Internal, err, "the record %s %s", kind, page[i].ID)
			}
			out = append(out, v)
			after = page[i].ID
		}
		if len(page) < pageSize {
			return out, nil
		}
	}
}

// Candidate is a run that the policy lets go, with the hold that keeps it, "" for none.
type Candidate struct {
	Run  work.Run
	Held string
}

// Candidates returns at most limit runs whose time is over, newest first.
func (s *Service) Candidates(ctx context.Context, tenant work.Tenant, limit int) ([]Candidate, error) {
	p, err := s.Policy(ctx, tenant)
	if err != nil || len(p.Days) == 0 {
		return nil, err
	}
	holds, err := s.Holds(ctx, tenant)
	if err != nil {
		return nil, err
	}
	now, seen := s.Now(), map[string]int{}
	var out []Candidate
	q := store.RunQuery{States: []work.State{work.Succeeded, work.Failed, work.TimedOut, work.Cancelled, work.Dead}, Limit: pageSize}
	for {
		page, err := s.Store.Find(ctx, tenant, q)
		if err != nil {
			return nil, err
		}
		for i := range page {
			run := page[i]
			q.Before = run.Created
			if seen[run.Pack.Name]++; seen[run.Pack.Name] <= p.Keep || !p.over(&run, now) {
				continue
			}
			c := Candidate{Run: run}
			for _, on := range store.HoldsOn(&run) {
				if slices.ContainsFunc(holds, func(h Hold) bool { return h.On == on }) {
					c.Held = on
				}
			}
			if out = append(out, c); len(out) == limit {
				return out, nil
			}
		}
		if len(page) < pageSize {
			return out, nil
		}
	}
}

// over reports whether the time of an ended run is over.
func (p *Policy) over(run *work.Run, now work.Time) bool {
	days, ok := p.Days[run.State]
	if !ok {
		days, ok = p.Days[Other]
	}
	return ok && run.Ended != 0 && run.Ended.Add(time.Duration(days)*24*time.Hour) <= now
}

// Sweep deletes at most limit runs whose time is over, and finishes what was begun before. It returns how many are gone. What one run
// hinders does not keep the others.
func (s *Service) Sweep(ctx context.Context, tenant work.Tenant, by work.Actor, limit int) (int, error) {
	begun, err := s.Store.Records(ctx, tenant, store.ErasingKind, "", "", limit)
	if err != nil {
		return 0, err
	}
	var failed error
	n := 0
	for i := range begun {
		failed = errors.Join(failed, s.erase(ctx, tenant, work.RunID(begun[i].ID)))
	}
	candidates, err := s.Candidates(ctx, tenant, limit)
	if err != nil {
		return 0, err
	}
	for i := range candidates {
		run := candidates[i].Run
		if candidates[i].Held != "" {
			continue
		}
		if err := s.Evidence(ctx, run); err != nil {
			failed = errors.Join(failed, fault.Wrap(fault.Internal, err, "the evidence of run %s", run.Name))
			continue
		}
		audited := store.WithAudit(ctx, &store.Audit{
			Tenant: tenant, Action: "eraseRun", Actor: by.Name, Kind: "service", Subject: string(run.ID), Reason: by.Reason, Ticket: by.Ticket,
		})
		if err := s.erase(audited, tenant, run.ID); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		n++
	}
	return n, failed
}

// erase deletes a run piece by piece, between other commits.
func (s *Service) erase(ctx context.Context, tenant work.Tenant, run work.RunID) error {
	for {
		left, err := s.Store.Erase(ctx, tenant, run, piece)
		if err != nil || !left {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
