package stream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"orrery.example/orrery/internal/broker"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Publisher hands the events of tenants to a broker: each at least once, in the order of the feed, however often broker or servers are lost.
//
// How far the events of a tenant have got is a record in the store. The same record says which server publishes at the moment, so that several
// do not do it twice; it is written after each part, so that a server that is lost repeats one part at most.
type Publisher struct {
	Hub     *Hub
	Records store.Records
	Target  broker.Target
	Shared  bool // other servers may publish the same; else whoever was there before is gone
	Now     func() work.Time
	Log     *slog.Logger

	holder string

	mu     sync.Mutex
	oldest map[work.Tenant]work.Time // of the events of a tenant that are to be published here, the time of the first
}

// Behind returns for how long the first event of a tenant has waited that is to be published by this server, of any tenant with "".
func (p *Publisher) Behind(tenant work.Tenant) work.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.oldest[tenant]
	for _, at := range p.oldest {
		if tenant == "" && (first == 0 || at < first) {
			first = at
		}
	}
	if first == 0 {
		return 0
	}
	return max(0, p.Now()-first)
}

// waits notes since when the first event of a tenant waits, zero when none does.
func (p *Publisher) waits(tenant work.Tenant, since work.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.oldest == nil {
		p.oldest = map[work.Tenant]work.Time{}
	}
	if p.oldest[tenant] = since; since == 0 {
		delete(p.oldest, tenant)
	}
}

// published is how far the events of a tenant have got at a target, and who is at it.
type published struct {
	Target      string    `json:"target"`
	Incarnation int64     `json:"incarnation"`
	Position    int64     `json:"position"`
	Holder      string    `json:"holder"`
	Until       work.Time `json:"until"`
}

const (
	kindPublished = "publish-cursor"

	tenure        = 15 * work.Time(1_000_000) // how long a server may publish before it has to say so again
	handOver      = 5 * time.Second           // how long one part may take
	partsInTurn   = 20                        // of a tenant, before others have theirs
	leastBackoff  = 500 * time.Millisecond
	mostBackoff   = 30 * time.Second
	tenantsUnseen = time.Second // between two looks without a hint
)

// Run publishes until ctx ends, then gives up what it holds. Tenants returns the names of all of them.
func (p *Publisher) Run(ctx context.Context, tenants func(context.Context) ([]work.Tenant, error)) {
	p.holder = rand.Text()
	wake := p.Hub.store.Watch(ctx)
	backoff := time.Duration(0)
	for ctx.Err() == nil {
		more := false
		all, err := tenants(ctx)
		if err == nil {
			more, err = p.round(ctx, all)
		}
		if err != nil && ctx.Err() == nil {
			backoff = min(max(2*backoff, leastBackoff), mostBackoff)
			p.Log.Warn("events are not published and are tried again", "target", p.Target.Name(), "in", backoff.String(), "error", err)
			rest(ctx, nil, backoff)
			continue
		}
		if backoff = 0; more {
			continue
		}
		rest(ctx, nil, pause)
		rest(ctx, wake, tenantsUnseen)
	}
	p.release(context.WithoutCancel(ctx), tenants)
	_ = p.Target.Close()
}

func rest(ctx context.Context, hint <-chan struct{}, limit time.Duration) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-hint:
	case <-t.C:
	}
}

// round gives each tenant its turn, and reports whether some of them have more. It returns an error when the broker or the store is away; what
// stops one tenant only is logged.
func (p *Publisher) round(ctx context.Context, tenants []work.Tenant) (more bool, err error) {
	for _, tenant := range tenants {
		for n := range partsInTurn {
			again, err := p.part(ctx, tenant)
			if code := fault.CodeOf(err); err != nil && (code == fault.Conflict || code == fault.Exhausted) {
				p.Log.Error("events of a tenant are not published", "target", p.Target.Name(), "tenant", tenant, "error", err)
				break
			}
			if err != nil {
				return false, err
			}
			if !again {
				break
			}
			more = more || n == partsInTurn-1
		}
	}
	return more, ctx.Err()
}

func (p *Publisher) cursorID() string {
	sum := sha256.Sum256([]byte(p.Target.Name()))
	return hex.EncodeToString(sum[:12])
}

// cursor returns how far a tenant's events have got; a target that is new gets everything that is kept.
func (p *Publisher) cursor(ctx context.Context, tenant work.Tenant) (c published, version int64, err error) {
	r, err := p.Records.Record(ctx, tenant, kindPublished, p.cursorID())
	if fault.CodeOf(err) == fault.NotFound {
		return published{Target: p.Target.Name()}, 0, nil
	}
	if err != nil {
		return c, 0, err
	}
	return c, r.Version, fault.Wrap(fault.Internal, json.Unmarshal(r.Doc, &c), "how far events were published")
}

func (p *Publisher) note(ctx context.Context, tenant work.Tenant, version int64, c published) error {
	raw, err := json.Marshal(c)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "how far events were published")
	}
	return p.Records.Change(ctx, store.RecordChange{Record: store.Record{Tenant: tenant, Kind: kindPublished, ID: p.cursorID(), Version: version, Doc: raw}})
}

// part publishes what comes next of a tenant, and reports whether there may be more for this server to do.
func (p *Publisher) part(ctx context.Context, tenant work.Tenant) (more bool, err error) {
	c, version, err := p.cursor(ctx, tenant)
	if err != nil {
		return false, err
	}
	now := p.Now()
	if p.Shared && c.Holder != p.holder && c.Until > now { // another server is at it
		p.waits(tenant, 0)
		return false, nil
	}
	end, err := p.Hub.store.FeedEnd(ctx, tenant)
	if err != nil {
		return false, err
	}
	if c.Incarnation != end.Incarnation { // restored from a backup: cursor and feed are of the same moment
		c.Incarnation, c.Position = end.Incarnation, min(c.Position, end.Number)
	}
	if c.Position >= end.Number {
		p.waits(tenant, 0)
		return false, nil
	}
	found, err := p.Hub.store.Feed(ctx, tenant, c.Position, page)
	if err != nil || len(found.Events) == 0 {
		return false, err
	}
	p.waits(tenant, found.Events[0].Time)
	if found.Lost && c.Position > 0 {
		p.Log.Warn("events were deleted before they were published", "target", p.Target.Name(), "tenant", tenant, "after", c.Position)
	}
	if c.Holder != p.holder || c.Until-now < tenure/2 {
		c.Holder, c.Until = p.holder, now+tenure
		if err := p.note(ctx, tenant, version, c); err != nil {
			return fault.CodeOf(err) == fault.Conflict, conflictIsFine(err)
		}
		version++
	}
	messages, err := p.messages(ctx, c.Incarnation, found.Events)
	if err != nil {
		return false, err
	}
	sending, stop := context.WithTimeout(ctx, handOver)
	n, failed := p.Target.Publish(sending, tenant, messages)
	stop()
	if n > 0 { // what was published was published: it is noted although the server stops
		c.Position, c.Until = found.Events[n-1].Position, p.Now()+tenure
		if n == len(found.Events) && n < page {
			p.waits(tenant, 0)
		}
		if err := p.note(context.WithoutCancel(ctx), tenant, version, c); err != nil {
			return fault.CodeOf(err) == fault.Conflict, conflictIsFine(err)
		}
	}
	if n > 0 && ctx.Err() == nil && sending.Err() != nil { // the time was over, and not the broker away
		failed = nil
	}
	return failed == nil && n > 0, failed
}

func conflictIsFine(err error) error {
	if fault.CodeOf(err) == fault.Conflict { // another server has it
		return nil
	}
	return err
}

// messages makes of events the frames that streams have.
func (p *Publisher) messages(ctx context.Context, incarnation int64, events []store.FeedEvent) ([]broker.Message, error) {
	out := make([]broker.Message, len(events))
	for i := range events {
		e := &events[i]
		a, err := p.Hub.aboutRun(ctx, &e.Event)
		if err != nil {
			return nil, err
		}
		made := item(EventFrame(&e.Event, a), e.Position, store.Position{Incarnation: incarnation, Number: e.Position}.String())
		out[i] = broker.Message{ID: made.ID, Run: e.Run, Type: made.Type, Body: made.JSON}
	}
	return out, nil
}

// release lets other servers go on at once.
func (p *Publisher) release(ctx context.Context, tenants func(context.Context) ([]work.Tenant, error)) {
	ctx, stop := context.WithTimeout(ctx, handOver)
	defer stop()
	all, err := tenants(ctx)
	for _, tenant := range all {
		c, version, failed := p.cursor(ctx, tenant)
		if failed != nil || version == 0 || c.Holder != p.holder || c.Until <= p.Now() {
			continue
		}
		c.Until = 0
		if failed := p.note(ctx, tenant, version, c); failed != nil {
			err = failed
		}
	}
	if err != nil {
		p.Log.Warn("other servers publish events a few seconds later", "target", p.Target.Name(), "error", err)
	}
}
