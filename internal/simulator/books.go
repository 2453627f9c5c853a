package simulator

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// books are what the checker keeps about the store, written from the commits it saw. A backup copies them, too.
type books struct {
	runs     map[runKey]*account
	sessions map[string]store.Session
	tokens   map[tokenKey]work.RunID
	acked    map[runKey]bool // submissions that a client was told of
	keys     map[tokenKey]int

	flows   map[work.Tenant]store.Flow
	live    map[work.Tenant]int // runs that have not ended
	ready   map[kernel.StepRef]bool
	running map[work.Tenant]int // steps under a lease
	lanes   map[lane]int        // the same by queue, with its name in rows
}

type runKey struct {
	tenant work.Tenant
	run    work.RunID
}

type tokenKey struct {
	tenant work.Tenant
	text   string
}

// account is one run: its rows as last written, and what its events said.
type account struct {
	row       work.Run
	steps     map[work.StepID]work.Step
	chain     ledger.Chain
	last      work.Time
	events    []work.Event
	lines     map[int64]string
	lineCount int64
	waiting   int // gates that are open

	ended     map[work.StepID]work.EndedData
	begun     map[work.StepID]bool
	holders   map[work.StepID]holder
	marks     map[work.StepID]marks
	queued    map[work.StepID]work.Time // since when a step stands in its queue
	letters   map[work.StepID]bool
	cancelled bool
	paused    bool
	overs     int
}

// holder is who has a step's lease, as its claim said.
type holder struct {
	token   work.Token
	session string
	at      work.Time // the true time of the claim
	began   bool      // the worker heard of it
}

// marks count what must stay bounded of a step.
type marks struct {
	epoch           int64
	failed, charged int
	linesAcked      map[work.Token]int // by attempt, for a worker was told that so many are kept
}

func newBooks() *books {
	return &books{
		runs: map[runKey]*account{}, sessions: map[string]store.Session{}, tokens: map[tokenKey]work.RunID{}, acked: map[runKey]bool{},
		keys: map[tokenKey]int{}, flows: map[work.Tenant]store.Flow{}, live: map[work.Tenant]int{}, ready: map[kernel.StepRef]bool{},
		running: map[work.Tenant]int{}, lanes: map[lane]int{},
	}
}

func (b *books) clone() *books {
	c := &books{
		runs: map[runKey]*account{}, sessions: maps.Clone(b.sessions), tokens: maps.Clone(b.tokens), acked: maps.Clone(b.acked),
		keys: maps.Clone(b.keys), flows: maps.Clone(b.flows), live: maps.Clone(b.live), ready: maps.Clone(b.ready),
		running: maps.Clone(b.running), lanes: maps.Clone(b.lanes),
	}
	for key, a := range b.runs {
		d := *a
		d.steps, d.ended, d.begun, d.holders = maps.Clone(a.steps), maps.Clone(a.ended), maps.Clone(a.begun), maps.Clone(a.holders)
		d.queued = maps.Clone(a.queued)
		d.events, d.lines, d.letters = slices.Clip(a.events), maps.Clone(a.lines), maps.Clone(a.letters)
		d.chain = *ledger.Resume(key.tenant, key.run, a.chain.Len(), a.chain.Head())
		d.marks = map[work.StepID]marks{}
		for id, m := range a.marks {
			m.linesAcked = maps.Clone(m.linesAcked)
			d.marks[id] = m
		}
		c.runs[key] = &d
	}
	return c
}

func (b *books) run(tenant work.Tenant, id work.RunID) *account { return b.runs[runKey{tenant, id}] }

// account returns the run that a write is about, a new one for the first.
func (b *books) account(tenant work.Tenant, id work.RunID) *account {
	key := runKey{tenant, id}
	a := b.runs[key]
	if a == nil {
		a = &account{
			steps: map[work.StepID]work.Step{}, lines: map[int64]string{}, ended: map[work.StepID]work.EndedData{},
			begun: map[work.StepID]bool{}, holders: map[work.StepID]holder{}, marks: map[work.StepID]marks{}, letters: map[work.StepID]bool{},
			queued: map[work.StepID]work.Time{},
		}
		b.runs[key] = a
	}
	return a
}

// sorted returns the runs in order of their ids, so that a seed checks them in the same order every time.
func (b *books) sorted() []runKey { return sortedKeys(b.runs) }

func sortedKeys[V any](m map[runKey]V) []runKey {
	return slices.SortedFunc(maps.Keys(m), func(x, y runKey) int {
		return cmp.Or(cmp.Compare(x.tenant, y.tenant), cmp.Compare(x.run, y.run))
	})
}

// results are what a retry of a run carries on: the steps at its top that ended well.
func (b *books) results(tenant work.Tenant, id work.RunID) []work.Carried {
	a := b.run(tenant, id)
	if a == nil {
		return nil
	}
	var out []work.Carried
	for _, step := range slices.Sorted(maps.Keys(a.steps)) {
		row := a.steps[step]
		if row.State == work.Succeeded && row.Attempt > 0 && step.Scope() == "" {
			out = append(out, work.Carried{Step: step, Run: id, Attempt: row.Attempt, Outputs: json.RawMessage(row.Outputs)})
		}
	}
	return out
}

// linesAcked notes that a worker was told that its lines up to the n-th are kept.
func (b *books) linesAcked(g *store.Grant, n int) {
	a := b.run(g.Tenant, g.Run)
	if a == nil {
		return // a restore took the run meanwhile
	}
	m := a.marks[g.Step]
	if m.linesAcked == nil {
		m.linesAcked = map[work.Token]int{}
	}
	m.linesAcked[g.Token] = max(m.linesAcked[g.Token], n)
	a.marks[g.Step] = m
}
