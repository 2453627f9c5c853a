package storetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// world is what a dump looks for: a driver cannot be asked what it has, only whether it has something.
type world struct {
	tenants  []work.Tenant
	keys     []string
	records  []string // ids
	runners  []string
	sessions []string
	digests  []work.Digest
	kinds    []string
	now      work.Time
}

// dump is everything that a driver answers about a world.
type dump struct {
	Tenants  map[work.Tenant]*tenantDump
	Sessions [][]store.Session
	Held     [][]kernel.StepRef // leases by session
	DueSteps [][]kernel.StepRef
	DueRuns  [][]kernel.StepRef
	Ready    []work.Tenant
	Counts   []kernel.LeaseCount
	NextDue  work.Time
	Census   []store.Census
}

type tenantDump struct {
	Holders  [][]kernel.StepRef
	Depths   [][]store.QueueDepth
	Counts   []kernel.LeaseCount
	Runs     []work.Run
	Found    [][]work.Run
	ByName   []*work.Run
	Ready    [][]kernel.ReadyStep
	Active   []int
	Waiting  []*work.Run
	Leases   []int
	Unsealed []work.Run
	Plans    [][]byte
	Cached   []*store.CachedResult
	Letters  []store.DeadLetter
	LogSize  int64
	Check    []byte
	Hashes   [][32]byte
	Steps    map[work.RunID]*runDump
	Record   []*store.Record
	Records  [][]store.Record
	ByID     []work.Run
	Results  []store.KeyedResult
}

type runDump struct {
	Steps, Page []work.Step
	Live        []work.StepID
	Held        []work.StepID
	Events      []work.Event
	SomeEvents  []work.Event
	Lines       []work.LogLine
	SomeLines   []work.LogLine
	Documents   [][]byte
	Leaf        []byte
	Index       int64
}

// asker collects answers and keeps the first error.
type asker struct {
	r   kernel.Reader
	err error
}

func ask[T any](a *asker, v T, err error) T {
	if a.err == nil {
		a.err = err
	}
	return v
}

func takeDump(d kernel.Driver, w world) (dump, error) {
	var out dump
	err := d.View(context.Background(), func(r kernel.Reader) error {
		var err error
		out, err = dumpOf(r, w)
		return err
	})
	return out, err
}

func dumpOf(r kernel.Reader, w world) (dump, error) {
	a := &asker{r: r}
	out := dump{Tenants: map[work.Tenant]*tenantDump{}}
	for _, t := range w.tenants {
		out.Tenants[t] = a.tenant(t, w)
	}
	for _, id := range append([]string{"", "*local", "*live"}, w.sessions...) {
		v, err := r.Sessions(id, w.now)
		out.Sessions = append(out.Sessions, ask(a, v, err))
	}
	for _, id := range w.sessions {
		v, err := r.LeasesBySession(id)
		out.Held = append(out.Held, ask(a, v, err))
	}
	for _, limit := range []int{0, 2} {
		v, err := r.DueSteps(w.now, limit)
		out.DueSteps = append(out.DueSteps, ask(a, v, err))
		v, err = r.DueRuns(w.now, limit)
		out.DueRuns = append(out.DueRuns, ask(a, v, err))
	}
	tenants, err := r.ReadyTenants()
	out.Ready = ask(a, tenants, err)
	counts, err := r.Leases("")
	out.Counts = ask(a, counts, err)
	next, err := r.NextDue()
	out.NextDue = ask(a, next, err)
	counted, err := r.Census(w.now)
	out.Census = ask(a, counted, err)
	return out, a.err
}

func (a *asker) tenant(t work.Tenant, w world) *tenantDump {
	out := &tenantDump{Steps: map[work.RunID]*runDump{}}
	runs, err := a.r.FindRuns(t, store.RunQuery{})
	out.Runs = ask(a, runs, err)
	for _, q := range queries(w) {
		found, err := a.r.FindRuns(t, q)
		out.Found = append(out.Found, ask(a, found, err))
	}
	for i := range out.Runs {
		run := &out.Runs[i]
		for _, find := range []func() (*work.Run, error){
			func() (*work.Run, error) { return a.r.Run(t, run.ID) },
			func() (*work.Run, error) { return a.r.RunByName(t, run.Name) },
			func() (*work.Run, error) { return a.r.RunByToken(t, run.RunToken) },
		} {
			row, err := find()
			out.ByName = append(out.ByName, ask(a, row, err))
		}
		out.Steps[run.ID] = a.run(t, run.ID, w)
	}
	a.queue(t, w, out)
	unsealed, err := a.r.Unsealed(t, 3)
	out.Unsealed = ask(a, unsealed, err)
	letters, err := a.r.DeadLetters(t, 0)
	out.Letters = ask(a, letters, err)
	for _, d := range w.digests {
		plan, err := a.r.Plan(t, d)
		out.Plans = append(out.Plans, ask(a, plan, err))
		cached, err := a.r.Cached(t, d)
		out.Cached = append(out.Cached, ask(a, cached, err))
	}
	a.records(t, w, out)
	a.lists(t, out)
	out.LogSize, out.Check, err = a.r.LogSize(t)
	ask(a, 0, err)
	for i := range out.LogSize { // a model's log has one hash a leaf
		hash, err := a.r.LogHashes(t, []int64{i})
		out.Hashes = append(out.Hashes, ask(a, hash, err)...)
	}
	return out
}

// records asks for every record by name, and pages through each kind.
func (a *asker) records(t work.Tenant, w world, out *tenantDump) {
	for _, kind := range w.kinds {
		refs := make([]store.RecordRef, len(w.records))
		for i, id := range w.records {
			refs[i] = store.RecordRef{Tenant: t, Kind: kind, ID: id}
			row, err := a.r.Record(t, kind, id)
			out.Record = append(out.Record, ask(a, row, err))
		}
		rows, err := a.r.Look(refs)
		out.Record = append(out.Record, ask(a, rows, err)...)
		for _, prefix := range []string{"", w.records[0], w.records[1], w.records[2]} {
			for after := ""; ; {
				page, err := a.r.Records(t, kind, prefix, after, 2)
				out.Records = append(out.Records, ask(a, page, err))
				if len(page) < 2 || a.err != nil {
					break
				}
				if page[1].ID <= after || page[0].ID >= page[1].ID {
					a.err = errors.New("the records are not in order")
				}
				after = page[1].ID
			}
		}
		all, err := a.r.Records(t, kind, "", "", 0)
		out.Records = append(out.Records, ask(a, all, err))
	}
}

// lists goes through all runs and results in small pages. Each comes once; results are compared by key, because their order is a
// driver's own.
func (a *asker) lists(t work.Tenant, out *tenantDump) {
	for after := work.RunID(""); a.err == nil; {
		page, err := a.r.RunsAfter(t, after, 2)
		out.ByID = append(out.ByID, ask(a, page, err)...)
		if len(page) < 2 {
			break
		}
		after = page[1].ID
	}
	for after := work.Digest(""); a.err == nil; {
		page, err := a.r.Results(t, after, 2)
		out.Results = append(out.Results, ask(a, page, err)...)
		if len(page) < 2 {
			break
		}
		after = page[1].Key
	}
	slices.SortFunc(out.Results, func(x, y store.KeyedResult) int { return strings.Compare(string(x.Key), string(y.Key)) })
}

func queries(w world) []store.RunQuery {
	return []store.RunQuery{
		{Open: true}, {Limit: 2}, {Pack: "alpha"}, {PlanHash: w.digests[0]},
		{States: []work.State{work.Running, work.Queued}}, {States: []work.State{work.Succeeded, work.Running}, Limit: 2},
		{Labels: map[string]string{"k": "v"}, Limit: 2}, {Labels: map[string]string{"k": "v", "env": "prod"}}, {Project: "shop"},
		{Project: "shop", Labels: map[string]string{"env": "prod"}, Open: true}, {Labels: map[string]string{"k": "missing"}, Pack: "alpha"},
		{Since: 3, Before: 6}, {Open: true, Pack: "beta", Before: 8, Limit: 3},
	}
}

// queue pages through what is ready, with one runner and with all.
func (a *asker) queue(t work.Tenant, w world, out *tenantDump) {
	for _, runners := range [][]string{nil, w.runners[:1], w.runners, append(w.runners, w.runners...)} {
		var after *kernel.ReadyStep
		for {
			page, err := a.r.Ready(t, runners, nil, after, 2)
			out.Ready = append(out.Ready, ask(a, page, err))
			if len(page) < 2 || a.err != nil {
				break
			}
			if after != nil && *after == page[1] {
				a.err = errors.New("the queue does not move on")
			}
			after = &page[1]
		}
	}
	for _, except := range [][]string{{"exports"}, {"", "shop/default"}, {work.LanesAside("nightly")}, {"", work.LanesAside("a"), work.LanesAside("nightly")}} {
		some, err := a.r.Ready(t, w.runners, except, nil, 0)
		out.Ready = append(out.Ready, ask(a, some, err))
	}
	for _, limit := range []int{0, 2} {
		depths, err := a.r.Depths(t, limit)
		out.Depths = append(out.Depths, ask(a, depths, err))
		live, err := a.r.LiveRuns(t, limit)
		out.Active = append(out.Active, ask(a, live, err))
	}
	counts, err := a.r.Leases(t)
	out.Counts = ask(a, counts, err)
	for _, key := range w.keys {
		active, err := a.r.ActiveRuns(t, key)
		out.Active = append(out.Active, ask(a, active, err))
		first, err := a.r.FirstWaiting(t, key)
		out.Waiting = append(out.Waiting, ask(a, first, err))
		for _, limit := range []int{0, 1} {
			holders, err := a.r.Holders(t, key, limit)
			out.Holders = append(out.Holders, ask(a, holders, err))
		}
		leases, err := a.r.LeasesByKey(t, key)
		out.Leases = append(out.Leases, ask(a, leases, err))
	}
}

func (a *asker) run(t work.Tenant, id work.RunID, w world) *runDump {
	out := &runDump{}
	steps, err := a.r.Steps(t, id, "", 0)
	out.Steps = ask(a, steps, err)
	if len(steps) > 0 {
		page, err := a.r.Steps(t, id, steps[0].ID, 2)
		out.Page = ask(a, page, err)
	}
	live, err := a.r.LiveSteps(t, id)
	out.Live = ask(a, live, err)
	for after := work.StepID(""); ; {
		held, err := a.r.FirstHeld(t, id, after)
		if ask(a, held, err) == "" {
			break
		}
		if held <= after {
			a.err = errors.New("the held steps are not in order")
			break
		}
		out.Held = append(out.Held, held)
		after = held
	}
	events, err := a.r.Events(t, id, 0, 0)
	out.Events = ask(a, events, err)
	events, err = a.r.Events(t, id, 3, 2)
	out.SomeEvents = ask(a, events, err)
	lines, err := a.r.Lines(t, id, 0, 0)
	out.Lines = ask(a, lines, err)
	lines, err = a.r.Lines(t, id, 3, 2)
	out.SomeLines = ask(a, lines, err)
	for _, kind := range w.kinds {
		document, err := a.r.Document(t, id, kind)
		out.Documents = append(out.Documents, ask(a, document, err))
		several, err := a.r.Documents(t, []work.RunID{id, "run_that_is_not_there", id}, kind)
		out.Documents = append(out.Documents, ask(a, slices.Concat(several...), err))
	}
	out.Leaf, out.Index, err = a.r.Leaf(t, id)
	ask(a, 0, err)
	return out
}

// sameDump compares two dumps, taking nothing and nil for the same.
func sameDump(want, got dump) string {
	if reflect.DeepEqual(want, got) {
		return "" // much the faster
	}
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

func mustDump(t tb, d kernel.Driver, w world) dump {
	t.Helper()
	out, err := takeDump(d, w)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
