package policy

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store is where gates wait.
type Store interface {
	store.Runs
	store.Reader
	store.Records
	Watch(ctx context.Context) <-chan struct{}
}

// Service asks for what gates wait for. Several servers may do so at once: the first answer counts.
type Service struct {
	store   Store
	engines map[string]*Engine
	log     *slog.Logger

	mu   sync.Mutex
	asks map[string]*pending // by id of the record
}

// pending is a question that is not answered yet.
type pending struct {
	busy  bool
	tries int
	next  time.Time
	said  string // what the history says already
	seen  bool   // in the round that goes on
}

// How questions are asked: a few at a time, again after a wait that doubles, and a gate that is to fail when nobody answers gets a few
// tries first.
const (
	atOnce     = 8
	firstWait  = 500 * time.Millisecond
	longestNo  = 30 * time.Second
	failsAfter = 3
	idle       = time.Second
	breath     = 50 * time.Millisecond // between two looks, however many commits there are
)

// New returns a service over the engines. Error: fault.Invalid.
func New(s Store, engines []Engine, secret func(ref string) ([]byte, error), log *slog.Logger) (*Service, error) {
	p := &Service{store: s, engines: map[string]*Engine{}, log: log, asks: map[string]*pending{}}
	for i := range engines {
		e := engines[i]
		if err := e.prepare(secret); err != nil {
			return nil, err
		}
		if p.engines[e.Name] != nil {
			return nil, fault.New(fault.Invalid, "two policy engines are called %s", e.Name)
		}
		p.engines[e.Name] = &e
	}
	return p, nil
}

// Run asks until ctx ends, and returns when no question is under way any more.
func (p *Service) Run(ctx context.Context) {
	wake := p.store.Watch(ctx)
	slots := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	defer group.Wait()
	for ctx.Err() == nil {
		for _, due := range p.due(ctx) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				p.done(due.ID(), nil)
				continue
			}
			group.Go(func() {
				p.settle(ctx, due)
				<-slots
			})
		}
		wait(ctx, nil, breath)
		wait(ctx, wake, p.sleep())
	}
}

// wait waits for a hint, for some time, or for the end.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// due returns the gates to ask for now, and marks them as asked for.
func (p *Service) due(ctx context.Context) []store.Ask {
	const page = 200
	var out []store.Ask
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for after := ""; ; {
		rows, err := p.store.Records(ctx, store.Installation, store.AskKind, "", after, page)
		if err != nil {
			if ctx.Err() == nil {
				p.log.Error("questions to policy engines", "error", err)
			}
			return out
		}
		for _, r := range rows {
			after = r.ID
			q := p.asks[r.ID]
			if q == nil {
				q = &pending{}
				p.asks[r.ID] = q
			}
			q.seen = true
			var ask store.Ask
			if q.busy || now.Before(q.next) || json.Unmarshal(r.Doc, &ask) != nil {
				continue
			}
			q.busy = true
			out = append(out, ask)
		}
		if len(rows) < page {
			break
		}
	}
	for id, q := range p.asks {
		if !q.seen && !q.busy {
			delete(p.asks, id) // it was answered, or its run has ended
		}
		q.seen = false
	}
	return out
}

// sleep returns how long nothing is due.
func (p *Service) sleep() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := idle
	for _, q := range p.asks {
		if !q.busy {
			d = min(d, max(0, time.Until(q.next)))
		}
	}
	return d
}

// done notes how a question went: why is nil when there is nothing to ask again.
func (p *Service) done(id string, why error) (tries int, said string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.asks[id]
	if q.busy = false; why == nil {
		delete(p.asks, id)
		return 0, ""
	}
	delay := longestNo
	if q.tries < 6 {
		delay = min(longestNo, firstWait<<q.tries)
	}
	q.tries++
	q.next = time.Now().Add(delay)
	return q.tries, q.said
}

// settle asks for one gate and records what came of it.
func (p *Service) settle(ctx context.Context, ask store.Ask) {
	row, spec, err := p.gate(ctx, ask)
	if err != nil || row == nil {
		p.done(ask.ID(), err)
		return
	}
	answer, err := p.answer(ctx, ask, spec.Policy.Engine, row.Inputs)
	if ctx.Err() != nil {
		p.done(ask.ID(), ctx.Err()) // it was us who gave up
		return
	}
	ruling := &store.Ruling{Gate: ask.Gate, Answer: answer}
	if err != nil {
		ruling.Unavailable = short(err.Error())
		tries, said := p.done(ask.ID(), err)
		// The history says it once, and again when the reason is another: not every time that somebody knocks in vain.
		if said == ruling.Unavailable || row.Reason.Message == ruling.Unavailable || spec.Policy.Engine.OnUnavailable == "fail" && tries < failsAfter {
			return
		}
		p.log.Warn("a policy engine gives no answer", "engine", spec.Policy.Engine.Name, "tenant", ask.Tenant, "run", ask.Run, "gate", ask.Gate, "error", err)
	}
	kept := p.store.Decide(context.WithoutCancel(ctx), []store.DecideCommand{{Tenant: ask.Tenant, Run: ask.Run, Ruling: ruling}})[0]
	switch fault.CodeOf(kept) {
	case "", fault.Conflict, fault.NotFound: // or another server was first, or the run was cancelled
	default:
		p.log.Error("the answer of a policy engine cannot be recorded", "run", ask.Run, "gate", ask.Gate, "error", kept)
		if answer != nil {
			p.done(ask.ID(), kept)
		}
		return
	}
	if answer != nil {
		p.done(ask.ID(), nil)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.asks[ask.ID()]; q != nil {
		q.said = ruling.Unavailable
	}
}

// gate returns a gate that waits, nil when it does no more.
func (p *Service) gate(ctx context.Context, ask store.Ask) (*work.Step, *work.PlanStep, error) {
	run, err := p.store.Run(ctx, ask.Tenant, string(ask.Run))
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	raw, err := p.store.Plan(ctx, ask.Tenant, run.PlanHash)
	if err != nil {
		return nil, nil, err
	}
	var plan work.Plan
	if err := json.Unmarshal(raw, &plan); err != nil {
		return nil, nil, fault.Wrap(fault.Internal, err, "plan %s", run.PlanHash.Short())
	}
	row, err := p.row(ctx, ask)
	if err != nil || row == nil {
		return nil, nil, err
	}
	for i := range plan.Steps {
		if s := &plan.Steps[i]; s.ID == ask.Gate.Template() && s.Policy != nil && s.Policy.Engine != nil {
			return row, s, nil
		}
	}
	return nil, nil, fault.New(fault.Internal, "gate %q of run %s asks no policy engine", ask.Gate, ask.Run)
}

// row finds the row of a gate among those of its run.
func (p *Service) row(ctx context.Context, ask store.Ask) (*work.Step, error) {
	const page = 100
	for after := ask.Gate[:len(ask.Gate)-1]; ; { // few ids lie between
		rows, err := p.store.Steps(ctx, ask.Tenant, ask.Run, after, page)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			if rows[i].ID > ask.Gate {
				return nil, nil
			}
			if r := &rows[i]; r.ID == ask.Gate {
				if r.State != work.Waiting {
					return nil, nil
				}
				return r, nil
			}
		}
		if len(rows) < page {
			return nil, nil
		}
		after = rows[len(rows)-1].ID
	}
}

// answer asks the engine that a gate names. The error says why there is no answer.
func (p *Service) answer(ctx context.Context, ask store.Ask, spec *work.EngineSpec, input json.RawMessage) (*work.EngineAnswer, error) {
	e := p.engines[spec.Name]
	if e == nil {
		return nil, fault.New(fault.Unavailable, "no policy engine is called %s here, or the installation is sealed", spec.Name)
	}
	if !e.may(ask.Tenant, spec.Path) {
		return nil, fault.New(fault.Denied, "the tenant %s may not ask the policy engine %s for %s", ask.Tenant, spec.Name, spec.Path)
	}
	return e.ask(ctx, spec.Path, input)
}
