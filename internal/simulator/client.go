package simulator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/simulator/randomplan"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// planned is a plan with its canonical bytes.
type planned struct {
	plan      *work.Plan
	canonical []byte
	hash      work.Digest
}

// client is a person with a terminal: submits, looks, cancels, pauses, decides at gates, tries dead runs again.
type client struct {
	w      *world
	index  int
	tenant work.Tenant
	count  int
	runs   []work.RunID // acknowledged to it
}

func newClient(w *world, index int) *client {
	c := &client{w: w, index: index, tenant: tenantName(index % w.o.Tenants)}
	c.live()
	return c
}

func always() bool { return true }

// live does something every few seconds; after the faults only what lets runs end.
func (c *client) live() {
	c.w.after(c.w.between(500*time.Millisecond, 4*time.Second), func() {
		switch n := c.w.rng.IntN(20); {
		case c.w.healing:
			c.release()
		case n < 6 || len(c.runs) == 0:
			c.submit(c.w.plan(), c.later())
		case n < 12:
			c.decide(c.any())
		case n < 14:
			c.control("cancel", c.any())
		case n < 15:
			c.control("pause", c.any())
		case n < 17:
			c.control("resume", c.any())
		case n < 18:
			c.spy()
			c.ask(c.any())
		default:
			c.retry(c.any())
		}
		c.live()
	})
}

// any picks one of the newest runs.
func (c *client) any() work.RunID {
	newest := c.runs[max(0, len(c.runs)-6):]
	return newest[c.w.rng.IntN(len(newest))]
}

// plan draws a plan, or one that was drawn before.
func (w *world) plan() *planned {
	p := randomplan.New(w.rng.IntN, randomplan.Shape{
		Steps: 8, Depth: 2, Gates: true, Policies: true, Finally: true, Conditions: true, Retries: true, Limits: true, TimeLimit: true,
		Concurrency: keyNames(), RunKeys: []string{"prod", "test"}, Queues: queueNames(), Labels: true,
	})
	p.Pack.Name = packNames()[w.rng.IntN(2)]
	hash, raw, err := canonical.DigestOf(p)
	if err != nil {
		w.violate("a plan has no canonical form: %v", err)
	}
	out := &planned{p, raw, hash}
	w.plans[hash] = out
	return out
}

// submit sends a submission until it is answered. A client that has heard nothing sends it again with a new id and name,
// as a second call of its program would, but with the same token.
func (c *client) submit(p *planned, identity work.Run) {
	c.count++
	token := fmt.Sprintf("token-%d-%d", c.index, c.count)
	c.w.checker.delays[tokenKey{c.tenant, token}] = identity.NotBefore
	tries := 0
	var send func()
	send = func() {
		tries++
		sub := c.submission(p, identity, token, tries)
		c.w.call(always, func(s store.Store) any {
			answer := s.Submit(context.Background(), []store.Submission{sub})[0]
			if fault.CodeOf(answer.Err) == fault.Exhausted {
				c.w.checker.refused(c.tenant)
			}
			return answer
		}, func(reply any) {
			answer, ok := reply.(store.Submitted)
			if !ok || fault.CodeOf(answer.Err) == fault.Internal {
				if c.w.cover["submissions sent again"]++; tries < 20 {
					send()
				}
				return
			}
			if fault.CodeOf(answer.Err) == fault.Exhausted {
				return // it comes again with something else
			}
			if answer.Err != nil {
				c.w.violate("client %d: submit: %v", c.index, answer.Err)
				return
			}
			c.submitted(p, token, &answer)
		})
	}
	send()
}

// later is what a submission has of its own beside its plan: now and then a time before which it must not start.
func (c *client) later() work.Run {
	if c.w.rng.IntN(6) > 0 {
		return work.Run{}
	}
	return work.Run{NotBefore: c.w.storeClock().Add(c.w.between(time.Second, time.Minute))}
}

func (c *client) submission(p *planned, identity work.Run, token string, tries int) store.Submission {
	run := identity
	run.Tenant, run.PlanHash, run.Pack, run.RunToken = c.tenant, p.hash, p.plan.Pack, token
	run.ID = work.RunID(fmt.Sprintf("run_%s-%d", token, tries))
	run.Name = fmt.Sprintf("name-%s-%d", token, tries)
	run.Submitter = fmt.Sprintf("person%d", c.index)
	data := work.SubmittedData{
		Name: run.Name, PlanHash: p.hash, Pack: run.Pack, Submitter: run.Submitter, RunToken: token, ReplayToken: "replay",
		InputsHash: canonical.Digest(nil), RetryOf: run.RetryOf,
	}
	if p.plan.Concurrency != nil {
		run.ConcurrencyKey, data.Concurrency = p.plan.Concurrency.Key, p.plan.Concurrency.Key
	}
	if run.RetryOf != "" {
		data.Carried = c.w.checker.books.results(c.tenant, run.RetryOf)
	}
	return store.Submission{Run: run, Canonical: p.canonical, Data: data}
}

func (c *client) submitted(p *planned, token string, answer *store.Submitted) {
	if answer.Existed {
		c.w.cover["submissions that existed"]++
	}
	c.w.tell("client %d: %s is %s (existed %t)", c.index, token, answer.Run.ID, answer.Existed)
	c.w.checker.submitted(c.tenant, token, &answer.Run)
	c.runs = append(c.runs, answer.Run.ID)
	if c.w.rng.IntN(10) > 0 {
		return
	}
	// The same token for another plan is somebody's mistake and must be refused.
	other := c.submission(c.w.plan(), work.Run{}, token, 1000+c.w.rng.IntN(1000))
	if other.Run.PlanHash == p.hash {
		return
	}
	c.w.call(always, func(s store.Store) any {
		return s.Submit(context.Background(), []store.Submission{other})[0]
	}, func(reply any) {
		if again, ok := reply.(store.Submitted); ok && again.Err == nil && c.w.checker.books.run(c.tenant, answer.Run.ID) != nil {
			c.w.violate("client %d: token %s made run %s and then %s with another plan", c.index, token, answer.Run.ID, again.Run.ID)
		} else if ok && fault.CodeOf(again.Err) == fault.Conflict {
			c.w.cover["tokens refused for another plan"]++
		}
	})
}

func (c *client) control(verb string, run work.RunID) {
	c.w.call(always, func(s store.Store) any {
		err := s.Control(context.Background(), []store.ControlCommand{{
			Tenant: c.tenant, Run: run, Verb: verb, Actor: work.Actor{Name: fmt.Sprintf("person%d", c.index)},
		}})[0]
		return fault.CodeOf(err)
	}, func(reply any) {
		if reply == fault.Code("") {
			c.w.cover["acknowledged "+verb]++
			c.w.tell("client %d: %s %s", c.index, verb, run)
		}
	})
}

// decide looks for an open gate and answers it as one of three people.
func (c *client) decide(run work.RunID) {
	person := c.w.rng.IntN(5)
	reject := !c.w.healing && c.w.rng.IntN(8) == 0
	c.w.call(always, func(s store.Store) any {
		row, err := s.Run(context.Background(), c.tenant, string(run))
		if err != nil {
			return fault.CodeOf(err)
		}
		steps, err := s.Steps(context.Background(), c.tenant, run, "", 0)
		for i := range steps {
			if steps[i].State != work.Waiting {
				continue
			}
			d := work.Decision{
				Gate: steps[i].ID, Decision: "approved", Approver: fmt.Sprintf("judge%d", person), Key: fmt.Sprintf("key%d", person),
				PlanHash: row.PlanHash, DecidedAt: c.w.now, Statement: json.RawMessage(`{}`),
			}
			if reject {
				d.Decision = "rejected"
			}
			err = s.Decide(context.Background(), []store.DecideCommand{{Tenant: c.tenant, Run: run, Decision: d}})[0]
			if err == nil {
				c.w.cover["decisions"]++
			}
		}
		return fault.CodeOf(err)
	}, func(any) {})
}

// spy asks for what belongs to somebody else and must be told that there is no such thing.
func (c *client) spy() {
	foreign := c.w.clients[c.w.rng.IntN(len(c.w.clients))]
	if foreign.tenant == c.tenant || len(foreign.runs) == 0 {
		return
	}
	run := foreign.any()
	c.w.call(always, func(s store.Store) any {
		c.w.cover["looks across tenants"]++
		ctx := context.Background()
		if _, err := s.Run(ctx, c.tenant, string(run)); fault.CodeOf(err) != fault.NotFound {
			c.w.violate("%s reads run %s of %s: %v", c.tenant, run, foreign.tenant, err)
		}
		if steps, err := s.Steps(ctx, c.tenant, run, "", 0); err != nil || len(steps) > 0 {
			c.w.violate("%s reads %d steps of run %s of %s: %v", c.tenant, len(steps), run, foreign.tenant, err)
		}
		if events, err := s.Events(ctx, c.tenant, run, 1, 0); err != nil || len(events) > 0 {
			c.w.violate("%s reads %d events of run %s of %s: %v", c.tenant, len(events), run, foreign.tenant, err)
		}
		err := s.Control(ctx, []store.ControlCommand{{Tenant: c.tenant, Run: run, Verb: "cancel"}})[0]
		if code := fault.CodeOf(err); code != fault.NotFound && code != fault.Internal {
			c.w.violate("%s cancels run %s of %s: %v", c.tenant, run, foreign.tenant, err)
		}
		return nil
	}, func(any) {})
}

// retry submits what failed again, with the results that it had.
func (c *client) retry(run work.RunID) {
	row := c.w.checker.books.run(c.tenant, run)
	if row == nil || !row.row.State.Failure() {
		return
	}
	c.w.cover["retries of runs"]++
	c.submit(c.w.plans[row.row.PlanHash], work.Run{RetryOf: run})
}

// release lets go of what only people keep waiting: paused runs and open gates.
func (c *client) release() {
	for _, id := range c.runs {
		row := c.w.checker.books.run(c.tenant, id)
		switch {
		case row == nil || row.row.State.Terminal():
		case row.row.Paused != nil:
			c.control("resume", id)
		case row.waiting > 0:
			c.decide(id)
		}
	}
}
