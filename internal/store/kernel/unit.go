package kernel

import (
	"slices"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

type runKey struct {
	tenant work.Tenant
	run    work.RunID
}

// unit is one transaction's set of rows: loaded once, changed in place, written together.
type unit struct {
	s      *Store
	tx     Tx
	now    work.Time
	hot    map[runKey]*hot
	order  []*hot           // in the order of first use, so that writes are deterministic
	spoilt map[runKey]error // runs that were aborted, since their plans are not theirs
	freed  []freedKey
	wrote  bool
	left   bool // something was written that may be claimed

	changes []Change // for the observer, when there is one

	lock    Locker            // of a shared driver, else nil
	wants   int               // how many steps all claims of the batch want
	queues  map[string]*queue // what claims have seen of the queues
	flows   map[work.Tenant]*flow
	streams map[runKey]*stream
	held    map[freedKey]*int // leases by concurrency key, with those granted here
	err     error             // the first error of the driver; it fails the transaction
}

// freedKey is a concurrency key that a run gave back.
type freedKey struct {
	tenant work.Tenant
	key    string
}

// hot is a run with the rows of it that are in memory.
type hot struct {
	u       *unit
	graph   *engine.Graph
	run     *work.Run
	isNew   bool // nothing of it is in the driver yet
	dirty   bool
	settled bool // its end has been looked after
	steps   map[work.StepID]*slot
	changed []*slot     // dirty ones, in the order of change
	passed  work.StepID // up to here every step that the driver has as held is dirty
	events  []work.Event
	lines   []work.LogLine
}

// slot holds a row, nil for a step that has none.
type slot struct {
	row   *work.Step
	dirty bool
}

func newUnit(s *Store, tx Tx) *unit {
	u := &unit{s: s, tx: tx, now: s.now(), hot: map[runKey]*hot{}}
	if _, ok := s.driver.(Shared); ok {
		u.lock = tx.(Locker)
	}
	return u
}

// noRow unwinds the commands of a unit whose driver could not tell a row. The rules take a row that is not told for one that is not there.
type noRow struct{}

// runAll runs the commands of a batch: first what changes something, then what asks for work.
func (u *unit) runAll(batch []*request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case noRow{}:
			err = u.err
		default:
			panic(p)
		}
	}()
	if u.lock != nil {
		var all Needs
		for _, r := range batch {
			all.Steps, all.New = append(all.Steps, r.needs.Steps...), append(all.New, r.needs.New...)
			all.Sessions, all.Audits = append(all.Sessions, r.needs.Sessions...), append(all.Audits, r.needs.Audits...)
			all.Flows, all.Records = append(all.Flows, r.needs.Flows...), append(all.Records, r.needs.Records...)
		}
		if err := u.lock.Lock(all); err != nil {
			return err
		}
	}
	for _, r := range batch {
		if err := r.run(u); err != nil {
			return err
		}
		u.wants += r.wants
	}
	if u.wants > 0 && u.frees() { // what the key lets start is there for who asks now
		if err := u.finish(); err != nil {
			return err
		}
	}
	for _, r := range batch {
		if r.claim == nil {
			continue
		}
		if err := r.claim(u); err != nil {
			return err
		}
	}
	if err := u.finish(); err != nil {
		return err
	}
	u.stageStreams()
	return u.err
}

// try returns those of the steps whose runs nobody else is changing. Of an exclusive store it is all of them.
func (u *unit) try(refs []StepRef) ([]StepRef, error) {
	if u.lock == nil || len(refs) == 0 {
		return refs, nil
	}
	locked, err := u.lock.TryLock(refs)
	if err != nil {
		u.fail(err)
		return nil, err
	}
	var out []StepRef
	for i, ok := range locked {
		if ok {
			out = append(out, refs[i])
		}
	}
	return out, nil
}

func (u *unit) fail(err error) {
	if u.err == nil && err != nil {
		u.err = err
	}
}

// open returns a run's rows. Errors: fault.NotFound.
func (u *unit) open(tenant work.Tenant, id work.RunID) (*hot, error) {
	key := runKey{tenant, id}
	if h := u.hot[key]; h != nil {
		return h, nil
	}
	if err := u.spoilt[key]; err != nil {
		return nil, err
	}
	if u.s.rows != nil {
		if h := u.s.rows.get(key); h != nil {
			h.u = u
			u.use(key, h)
			return h, nil
		}
	}
	run, err := u.tx.Run(tenant, id)
	if err != nil {
		u.fail(err)
		return nil, err
	}
	if run == nil {
		return nil, fault.New(fault.NotFound, "there is no run %s", id)
	}
	g, err := u.s.graphs.load(u.tx, tenant, run.PlanHash)
	if err != nil {
		if fault.CodeOf(err) == fault.PlanMismatch {
			u.abort(key, run, err)
		}
		return nil, err
	}
	h := &hot{u: u, graph: g, run: run, steps: map[work.StepID]*slot{}}
	u.use(key, h)
	return h, nil
}

// abort ends a run whose plan is not the one that its hash names. What was asked for of the run fails; its end is committed all the same.
func (u *unit) abort(key runKey, run *work.Run, why error) {
	if u.spoilt == nil {
		u.spoilt = map[runKey]error{}
	}
	u.spoilt[key] = why
	h := &hot{u: u, run: run, steps: map[work.StepID]*slot{}}
	engine.Abort(h, u.now, work.Reason{Code: work.EndedByPlanMismatch, Message: why.Error()})
	u.order = append(u.order, h) // and in no cache: nobody else may see a run without a plan
}

// sound opens a run for the store's own sake. It returns nil for one that had to be aborted: the others go on.
func (u *unit) sound(tenant work.Tenant, id work.RunID) (*hot, error) {
	h, err := u.open(tenant, id)
	if u.spoilt[runKey{tenant, id}] != nil {
		return nil, nil
	}
	return h, err
}

func (u *unit) use(key runKey, h *hot) {
	u.hot[key] = h
	u.order = append(u.order, h)
}

// Run implements engine.View.
func (h *hot) Run() *work.Run {
	h.dirty = true
	return h.run
}

// Step implements engine.View.
func (h *hot) Step(id work.StepID) *work.Step {
	return h.slot(id).row
}

func (h *hot) slot(id work.StepID) *slot {
	if s := h.steps[id]; s != nil {
		return s
	}
	s := &slot{}
	if !h.isNew {
		row, err := h.u.tx.Step(h.run.Tenant, h.run.ID, id)
		if err != nil {
			h.u.fail(err)
			panic(noRow{})
		}
		s.row = row
	}
	h.steps[id] = s
	return s
}

// Save implements engine.View.
func (h *hot) Save(row *work.Step) {
	s := h.steps[row.ID]
	if s == nil {
		s = &slot{}
		h.steps[row.ID] = s
	}
	s.row = row
	if !s.dirty {
		s.dirty = true
		h.changed = append(h.changed, s)
	}
}

func live(s work.State) bool {
	switch s {
	case work.Queued, work.Throttled, work.Running, work.Waiting, work.Retrying:
		return true
	default:
		return false
	}
}

// Live implements engine.View.
func (h *hot) Live() []work.StepID {
	var ids []work.StepID
	if !h.isNew {
		stored, err := h.u.tx.LiveSteps(h.run.Tenant, h.run.ID)
		h.u.fail(err)
		for _, id := range stored {
			if s := h.steps[id]; s == nil || s.row != nil && !s.dirty {
				ids = append(ids, id)
			}
		}
	}
	for _, s := range h.changed {
		if s.dirty && live(s.row.State) {
			ids = append(ids, s.row.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// NextHeld implements engine.View.
func (h *hot) NextHeld() work.StepID {
	var first work.StepID
	for _, s := range h.changed {
		if s.dirty && s.row.Held && (first == "" || s.row.ID < first) {
			first = s.row.ID
		}
	}
	if h.isNew {
		return first
	}
	for {
		id, err := h.u.tx.FirstHeld(h.run.Tenant, h.run.ID, h.passed)
		h.u.fail(err)
		if id == "" || first != "" && first < id {
			return first
		}
		if s := h.steps[id]; s == nil || !s.dirty {
			return id
		}
		h.passed = id
	}
}

// Emit implements engine.View.
func (h *hot) Emit(kind work.EventType, step work.StepID, attempt int, data any) {
	h.dirty = true
	e := work.Event{
		Tenant: h.run.Tenant, Run: h.run.ID, Seq: h.run.Seq + 1, Time: h.run.Updated,
		Type: kind, Step: step, Attempt: attempt,
	}
	if data != nil {
		// Canonical at once: then the ledger takes it as it is.
		raw, err := canonical.Marshal(data)
		h.u.fail(err)
		e.Data = raw
	}
	if err := ledger.Link(h.run.Head, &e); err != nil {
		h.u.fail(fault.Wrap(fault.Internal, err, "event %d (%s) of run %s", e.Seq, kind, h.run.ID))
		return
	}
	h.run.Seq, h.run.Head = e.Seq, e.Hash
	h.events = append(h.events, e)
	if h.u.s.observe != nil {
		h.note(&e, data)
	}
}

// flush writes what has changed so that queries of the driver see it.
func (u *unit) flush() error {
	for _, h := range u.order {
		u.fail(u.flushRun(h))
	}
	return u.err
}

func (u *unit) flushRun(h *hot) error {
	for _, s := range h.changed {
		if !s.dirty {
			continue
		}
		s.dirty = false
		u.wrote = true
		if u.s.rows != nil && claimable(s.row) {
			u.left = true
			clear(u.s.rows.drained)
		}
		if err := u.tx.PutStep(s.row); err != nil {
			return err
		}
		if err := u.asks(s.row, h.graph); err != nil {
			return err
		}
		if s.row.State == work.Dead {
			if err := u.tx.PutDeadLetter(deadLetter(h.run, s.row)); err != nil {
				return err
			}
		}
	}
	h.changed, h.passed = h.changed[:0], ""
	if len(h.events) > 0 {
		if err := u.tx.AppendEvents(h.run.Tenant, h.run.ID, h.events); err != nil {
			return err
		}
		h.events = nil
	}
	if len(h.lines) > 0 {
		if err := u.tx.AppendLines(h.run.Tenant, h.run.ID, h.lines); err != nil {
			return err
		}
		h.lines = nil
	}
	if h.dirty {
		h.dirty = false
		u.wrote = true
		if err := u.tx.PutRun(h.run); err != nil {
			return err
		}
	}
	h.isNew = false
	if h.run.Phase == work.PhaseEnded && !h.settled {
		h.settled = true
		if h.run.ConcurrencyKey != "" {
			u.freed = append(u.freed, freedKey{h.run.Tenant, h.run.ConcurrencyKey})
		}
	}
	return nil
}

func deadLetter(run *work.Run, row *work.Step) store.DeadLetter {
	return store.DeadLetter{
		Tenant: run.Tenant, Run: run.ID, RunName: run.Name, Step: row.ID,
		Attempt: row.Attempt, Reason: row.Reason, At: row.Ended,
	}
}

// finish writes everything and starts the runs that waited for a concurrency key that was given back.
func (u *unit) finish() error {
	if err := u.flush(); err != nil {
		return err
	}
	for len(u.freed) > 0 {
		f := u.freed[0]
		u.freed = u.freed[1:]
		if err := u.admit(f); err != nil {
			return err
		}
	}
	return u.err
}

// frees reports whether a run has ended and gives back its concurrency key.
func (u *unit) frees() bool {
	return len(u.freed) > 0 || slices.ContainsFunc(u.order, func(h *hot) bool {
		return h.run.Phase == work.PhaseEnded && !h.settled && h.run.ConcurrencyKey != ""
	})
}

func (u *unit) admit(f freedKey) error {
	for {
		next, err := u.tx.FirstWaiting(f.tenant, f.key)
		if err != nil || next == nil {
			return err
		}
		h, err := u.sound(f.tenant, next.ID)
		if err != nil {
			return err
		}
		if h == nil {
			if err := u.flush(); err != nil {
				return err
			}
			continue
		}
		active, err := u.tx.ActiveRuns(f.tenant, f.key)
		if err != nil {
			return err
		}
		if c := h.graph.Plan.Concurrency; c != nil && active >= c.Max {
			return nil
		}
		engine.Admit(h.graph, h, u.now)
		if err := u.flush(); err != nil {
			return err
		}
	}
}

// keep hands the rows to the cache after the commit.
func (u *unit) keep() {
	if u.s.rows == nil {
		return
	}
	for tenant, f := range u.flows {
		u.s.rows.flows[tenant] = f.Flow
	}
	for key, q := range u.queues {
		if q.end && !q.part && !u.left && len(q.steps) == 0 && len(u.s.rows.drained) < drainedQueues {
			u.s.rows.drained[key] = true
		}
	}
	for key, h := range u.hot {
		h.u = nil
		u.s.rows.put(key, h)
	}
}
