package simulator

import (
	"maps"
	"slices"

	"orrery.example/orrery/internal/replay"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// checker sees every commit in the order in which they happen and holds it against the invariants.
type checker struct {
	w           *world
	books       *books
	incarnation int64

	asked      map[work.Tenant][]settings   // every change of a flow that was ever asked for
	delays     map[tokenKey]work.Time       // when runs are to start, by their tokens
	claimedNow []lane                       // by the commit that is looked at, with the names of queues for people
	waits      map[turn]map[work.Tenant]int // for how many steps of each other a tenant has waited that could have been served
}

func newChecker(w *world) *checker {
	return &checker{
		w: w, books: newBooks(), incarnation: 1,
		asked: map[work.Tenant][]settings{}, delays: map[tokenKey]work.Time{}, waits: map[turn]map[work.Tenant]int{},
	}
}

// committed takes what one transaction wrote.
func (c *checker) committed(r *recorder) {
	touched := map[runKey]bool{}
	for _, write := range r.writes {
		if events, ok := write.([]work.Event); ok && events[0].Type == work.RunSubmitted {
			c.submitting(events[0].Tenant)
		}
	}
	for _, write := range r.writes {
		switch x := write.(type) {
		case []work.Event:
			for i := range x {
				touched[runKey{x[i].Tenant, x[i].Run}] = true
				c.event(&x[i])
			}
		case *work.Run:
			touched[runKey{x.Tenant, x.ID}] = true
			c.run(x)
		case *work.Step:
			touched[runKey{x.Tenant, x.Run}] = true
			c.step(x)
		case newLines:
			c.lines(&x)
		case store.Record:
			c.flowed(&x)
		case store.DeadLetter:
			c.books.account(x.Tenant, x.Run).letters[x.Step] = true
		}
	}
	for _, write := range r.writes { // after the events, which are about the sessions that were there before
		switch x := write.(type) {
		case store.Session:
			c.books.sessions[x.ID] = x
		case endedSession:
			delete(c.books.sessions, string(x))
		}
	}
	for _, key := range sortedKeys(touched) {
		c.audit(key)
	}
	c.quotas()
	c.limits()
}

// run checks the row of a run: an end is final (I1), numbers only rise, and a run token stands for one run (I13).
func (c *checker) run(row *work.Run) {
	a := c.books.account(row.Tenant, row.ID)
	if old := &a.row; old.ID != "" {
		if old.State.Terminal() && old.State != row.State {
			c.w.violate("I1: run %s was %s and is %s", row.ID, old.State, row.State)
		}
		if row.Seq < old.Seq || row.LogSeq < old.LogSeq || row.Updated < old.Updated {
			c.w.violate("I6: the numbers of run %s fall: event %d after %d, line %d after %d", row.ID, row.Seq, old.Seq, row.LogSeq, old.LogSeq)
		}
	}
	c.books.live[row.Tenant] += one(row.Ended == 0) - one(a.row.ID != "" && a.row.Ended == 0)
	a.row = *row
	if row.RunToken == "" {
		return
	}
	key := tokenKey{row.Tenant, row.RunToken}
	if other := c.books.tokens[key]; other != "" && other != row.ID {
		c.w.violate("I13: token %s made run %s and run %s", row.RunToken, other, row.ID)
	}
	c.books.tokens[key] = row.ID
}

// step checks the row of a step: an end is final (I1), epochs only rise (I2), who is dead has a dead letter (I9).
func (c *checker) step(row *work.Step) {
	a := c.books.account(row.Tenant, row.Run)
	old, had := a.steps[row.ID]
	if had && old.State.Terminal() && old.State != row.State {
		c.w.violate("I1: step %s of %s was %s and is %s", row.ID, row.Run, old.State, row.State)
	}
	if had && row.Epoch < old.Epoch {
		c.w.violate("I2: the epoch of step %s of %s falls from %d to %d", row.ID, row.Run, old.Epoch, row.Epoch)
	}
	count := func(row *work.Step, n int) {
		if row.State == work.Waiting {
			a.waiting += n
		}
		c.books.line(row, n)
	}
	if had {
		count(&old, -1)
	}
	count(row, 1)
	a.steps[row.ID] = *row
	if row.State == work.Queued && row.Reason.Code == work.WaitsForConcurrency {
		c.w.cover["steps that met a full concurrency key"]++
	}
}

// keyNames are the concurrency keys of steps, keyMax how many may have one at once.
func keyNames() []string { return []string{"db", "gpu"} }

func keyMax(key string) int { return 1 + len(key)%2 }

// quotas checks that no concurrency key has more holders than it may (I7).
func (c *checker) quotas() {
	for _, key := range keyNames() {
		for i := range c.w.o.Tenants {
			if n := c.books.keys[tokenKey{tenantName(i), key}]; n > keyMax(key) {
				c.w.violate("I7: %d leases of %s hold the key %s of %d", n, tenantName(i), key, keyMax(key))
			}
		}
	}
}

// audit counts the rows of a run again (I7, I12, I16) and looks at what a cancel must have reached (I14).
func (c *checker) audit(key runKey) {
	a := c.books.runs[key]
	p := c.w.plans[a.row.PlanHash]
	if p == nil || a.row.ID == "" {
		c.w.violate("I11: run %s executes plan %s, which nobody submitted", key.run, a.row.PlanHash)
		return
	}
	rows := make([]work.Step, 0, len(a.steps))
	for _, id := range slices.Sorted(maps.Keys(a.steps)) {
		row := a.steps[id]
		rows = append(rows, row)
		if row.Lease != nil && !row.Lease.Cancel && a.row.Cancel != nil && a.row.Stopping {
			c.w.violate("I14: run %s is cancelled, but the worker of %s will not be told", key.run, id)
		}
		if row.State == work.Dead && !a.letters[id] {
			c.w.violate("I9: step %s of %s is dead without a dead letter", id, key.run)
		}
		h, held := a.holders[id]
		if held != (row.Lease != nil) || held && (h.session != row.Lease.Session || h.token.Epoch != row.Epoch) {
			c.w.violate("I2: the history says that step %s of %s is held by %q, its row says %+v", id, key.run, h.session, row.Lease)
		}
	}
	for _, finding := range replay.Audit(p.plan, &a.row, rows) {
		c.w.violate("I16: run %s: %s", key.run, finding)
	}
	if a.row.Seq != a.chain.Len() || a.row.Head != a.chain.Head() {
		c.w.violate("I6: run %s has %d events, its row says %d", key.run, a.chain.Len(), a.row.Seq)
	}
	if a.row.ConcurrencyKey != "" {
		c.runQuota(key, a)
	}
}

func (c *checker) runQuota(key runKey, a *account) {
	if a.row.Phase == work.PhaseAdmission {
		c.w.cover["runs that waited for their key"]++
	}
	n := 0
	for other, b := range c.books.runs {
		under := b.row.Phase == work.PhaseMain || b.row.Phase == work.PhaseFinally
		if other.tenant == key.tenant && b.row.ConcurrencyKey == a.row.ConcurrencyKey && under {
			n++
		}
	}
	if n > 1 {
		c.w.violate("I7: %d runs of %s hold the key %s", n, key.tenant, a.row.ConcurrencyKey)
	}
}

// lines checks that output is numbered without gaps (I4).
func (c *checker) lines(x *newLines) {
	a := c.books.account(x.tenant, x.run)
	for i := range x.lines {
		a.lineCount++
		if x.lines[i].Seq != a.lineCount {
			c.w.violate("I4: line %d of run %s stands where line %d belongs", x.lines[i].Seq, x.run, a.lineCount)
		}
		a.lines[x.lines[i].Seq] = x.lines[i].Message
	}
}

// submitted takes the acknowledgement of a submission.
func (c *checker) submitted(tenant work.Tenant, token string, run *work.Run) {
	key := runKey{tenant, run.ID}
	if c.books.runs[key] == nil {
		return // a restore took it while the reply was on its way
	}
	if other := c.books.tokens[tokenKey{tenant, token}]; other != run.ID {
		c.w.violate("I13: token %s was answered with run %s, but made %s", token, run.ID, other)
	}
	c.books.acked[key] = true
}

// heard checks that a worker is told of every attempt of its session that must stop, with the next heartbeat (I14).
func (c *checker) heard(session string, orders store.Orders) {
	want := 0
	for _, key := range c.books.sorted() {
		for _, row := range c.books.runs[key].steps {
			if row.Lease != nil && row.Lease.Session == session && row.Lease.Cancel {
				want++
			}
		}
	}
	if want != len(orders.Cancel) {
		c.w.violate("I14: session %s has %d attempts to stop and hears of %d", session, want, len(orders.Cancel))
	}
}

// leased counts leases.
func (c *checker) leased() int {
	n := 0
	for _, a := range c.books.runs {
		n += len(a.holders)
	}
	return n
}

// restored says that the store went back to a backup: tokens of before are void.
func (c *checker) restored(incarnation int64) { c.incarnation = incarnation }

// began notes that a worker heard of its lease and started.
func (c *checker) began(g *store.Grant) {
	if a := c.books.run(g.Tenant, g.Run); a != nil {
		if h, held := a.holders[g.Step]; held && h.token == g.Token {
			h.began = true
			a.holders[g.Step] = h
		}
	}
}

// allEnded reports whether every acknowledged run has ended.
func (c *checker) allEnded() bool {
	for key := range c.books.acked {
		if !c.books.runs[key].row.State.Terminal() {
			return false
		}
	}
	return true
}
