package simulator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	sessionLength  = 10 * time.Second
	heartbeatEvery = 3 * time.Second
	slots          = 3

	// A request that reaches the store twice takes leases twice, and the worker never misses a reply: so it says what it holds
	// now and then, whether it misses something or not.
	resyncEvery = 15 * time.Second
)

// worker is a model of a worker: it has sessions, asks for work, sends lines, reports, and may die or freeze at any moment.
type worker struct {
	w        *world
	index    int
	tenant   work.Tenant
	alive    bool
	life     int
	frozen   work.Time // until then nothing happens inside of it
	session  string
	attempts []*attempt
	reports  []store.ReportCommand
	lost     bool      // the reply to a request for work never came: there may be leases it does not know of
	synced   work.Time // when it last told the store what it holds
	asking   bool
	leaving  bool // it was told to take nothing more
}

// attempt is one step that the worker executes.
type attempt struct {
	grant  store.Grant
	report work.ReportedData
	sent   int // lines that were sent or are on their way
	over   bool
}

func newWorker(w *world, index int) *worker {
	wk := &worker{w: w, index: index, tenant: tenantName(index % w.o.Tenants)}
	if index >= w.o.Workers {
		wk.tenant = store.Installation
	}
	wk.start()
	return wk
}

func tenantName(i int) work.Tenant { return work.Tenant(fmt.Sprintf("tenant%d", i)) }

func (wk *worker) start() {
	wk.alive = true
	wk.life++
	wk.session = fmt.Sprintf("session-%d-%d", wk.index, wk.life)
	wk.attempts, wk.reports, wk.asking = nil, nil, false
	wk.w.tell("worker %d starts as %s", wk.index, wk.session)
	wk.open()
	wk.beat()
	wk.poll()
}

// soon does something inside of the worker after a while: not if it has died since, and later if it is frozen then.
func (wk *worker) soon(d time.Duration, do func()) {
	life := wk.life
	var try func()
	try = func() {
		switch {
		case !wk.alive || wk.life != life:
		case wk.w.now < wk.frozen:
			wk.w.after(time.Duration(wk.frozen-wk.w.now)*time.Microsecond, try)
		default:
			do()
		}
	}
	wk.w.after(d, try)
}

// call asks a server. The reply is heard when the worker is not frozen.
func (wk *worker) call(do func(store.Store) any, done func(reply any)) {
	life := wk.life
	wk.w.call(func() bool { return wk.alive && wk.life == life }, do, func(reply any) {
		wk.soon(0, func() { done(reply) })
	})
}

func (wk *worker) crash() {
	if !wk.alive {
		return
	}
	wk.alive = false
	wk.w.cover["worker crashes"]++
	if len(wk.attempts) > 0 {
		wk.w.cover["worker crashes with leases"]++
	}
	wk.w.tell("worker %d dies with %d attempts", wk.index, len(wk.attempts))
	life := wk.life
	wk.w.after(wk.w.between(time.Second, 20*time.Second), func() {
		if !wk.alive && wk.life == life {
			wk.start()
		}
	})
}

// freeze stops the worker for longer than its session lasts: when it goes on it does not know that it lost its leases.
func (wk *worker) freeze() {
	if !wk.alive || wk.frozen > wk.w.now {
		return
	}
	d := wk.w.between(2*time.Second, 40*time.Second)
	wk.frozen = wk.w.now.Add(d)
	wk.w.cover["frozen workers"]++
	wk.w.tell("worker %d freezes for %v with %d attempts", wk.index, d, len(wk.attempts))
}

// asker is the worker as the checker sees it. Every third one lacks the label that some steps ask for.
func (wk *worker) asker() *asker {
	by := &asker{name: fmt.Sprintf("worker%d", wk.index), shared: wk.tenant == store.Installation}
	if wk.index%3 != 2 {
		by.labels = map[string]string{"disk": "ssd"}
	}
	return by
}

func (wk *worker) open() {
	session := store.Session{ID: wk.session, Worker: wk.asker().name, Tenant: wk.tenant}
	session.Offer = store.Offer{Runners: []string{"noop"}, Labels: wk.asker().labels}
	wk.call(func(s store.Store) any {
		session.Expires = wk.w.storeClock().Add(sessionLength)
		return fault.CodeOf(s.OpenSession(context.Background(), session)) == ""
	}, func(reply any) {
		if reply != true {
			wk.open()
		}
	})
}

type heard struct {
	orders store.Orders
	err    error
}

func (wk *worker) beat() {
	wk.soon(wk.w.between(heartbeatEvery*9/10, heartbeatEvery), func() {
		session := wk.session
		wk.call(func(s store.Store) any {
			orders, err := s.Heartbeat(context.Background(), session, wk.w.storeClock().Add(sessionLength))
			if err == nil {
				wk.w.checker.heard(session, orders)
			}
			return heard{orders, err}
		}, func(reply any) {
			if h, ok := reply.(heard); ok {
				wk.obey(h)
			}
		})
		wk.beat()
	})
}

func (wk *worker) obey(h heard) {
	if h.err == nil {
		wk.leaving = h.orders.Drain
		wk.w.cover["workers that drain"] += one(wk.leaving)
	}
	if fault.CodeOf(h.err) == fault.NotFound {
		wk.w.cover["sessions declared dead"]++
		if wk.w.rng.IntN(2) == 0 { // half of the workers go on as if nothing had happened: the fence must hold by itself
			for _, a := range slices.Clone(wk.attempts) {
				a.over = true
			}
			wk.attempts = nil
		}
		wk.open()
		return
	}
	for _, c := range h.orders.Cancel {
		for _, a := range slices.Clone(wk.attempts) {
			if a.grant.Run == c.Run && a.grant.Step == c.Step && a.grant.Token == c.Token && !a.over {
				wk.w.cover["attempts told to stop"]++
				a.report.State, a.report.Reason = work.Cancelled, work.Reason{Code: work.EndedByCancel}
				wk.end(a)
			}
		}
	}
}

func (wk *worker) poll() {
	wk.soon(wk.w.between(300*time.Millisecond, 900*time.Millisecond), func() {
		wk.exchange()
		wk.poll()
	})
}

type exchanged struct {
	store.ExchangeReply
	err error
}

// exchange reports what has ended and asks for more. A request without an answer is repeated with the same reports.
func (wk *worker) exchange() {
	if wk.asking {
		return
	}
	req := store.ExchangeRequest{
		Session: wk.session, Tenant: wk.tenant, Reports: slices.Clone(wk.reports), Runners: []string{"noop"},
		Max: max(0, slots-len(wk.attempts)),
	}
	by := wk.asker()
	if req.Labels = by.labels; wk.leaving {
		req.Max = 0
	}
	if wk.lost || wk.w.now.Sub(wk.synced) > resyncEvery {
		req.Resync = true
		for _, a := range slices.Clone(wk.attempts) {
			req.Holding = append(req.Holding, store.AckCommand{Tenant: a.grant.Tenant, Run: a.grant.Run, Step: a.grant.Step, Token: a.grant.Token})
		}
	}
	wk.asking = true
	wk.call(func(s store.Store) any {
		reply, err := s.Exchange(context.Background(), req)
		if err == nil {
			wk.w.checker.exchanged(wk.w.serving, by, &req, reply.Grants)
		}
		return exchanged{reply, err}
	}, func(reply any) {
		wk.asking = false
		r, ok := reply.(exchanged)
		if !ok || r.err != nil && fault.CodeOf(r.err) != fault.NotFound {
			wk.lost = true
			return
		}
		if r.err == nil && req.Resync {
			wk.lost, wk.synced = false, wk.w.now
		}
		wk.answered(req.Reports, r)
	})
}

func (wk *worker) answered(sent []store.ReportCommand, r exchanged) {
	wk.reports = wk.reports[len(sent):]
	for i := range sent {
		switch code := fault.CodeOf(r.Errs[i]); code {
		case "":
			wk.w.cover["reports accepted"]++
		case fault.Stale:
			wk.w.cover["stale reports refused"]++
		case fault.NotFound:
			wk.w.cover["reports for runs that a restore took"]++
		default:
			wk.w.violate("worker %d: report for %s: %v", wk.index, sent[i].Step, r.Errs[i])
		}
	}
	if r.err != nil {
		wk.open()
		return
	}
	for i := range r.Grants {
		wk.begin(&r.Grants[i])
	}
}

// begin starts an attempt and decides by chance how it will go.
func (wk *worker) begin(g *store.Grant) {
	w := wk.w
	a := &attempt{grant: *g, report: work.ReportedData{
		Token: g.Token, Worker: wk.session, State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, StartedAt: w.now,
	}}
	wk.attempts = append(wk.attempts, a)
	w.checker.began(g)
	w.tell("worker %d begins %s %s #%d %d.%d", wk.index, g.RunName, g.Step, g.Attempt, g.Token.Incarnation, g.Token.Epoch)
	luck := w.rng.IntN(100)
	if w.healing {
		luck = 99
	}
	switch {
	case luck < 4:
		w.cover["attempts that hang"]++
		wk.say(a, 1)
		wk.soon(w.between(time.Minute, 3*time.Minute), func() { wk.forget(a) })
		return // the deadline ends it
	case luck < 6:
		w.cover["steps that kill their worker"]++
		wk.soon(w.between(100*time.Millisecond, time.Second), wk.crash)
		return
	case luck < 30:
		a.report.State, a.report.ExitCode, a.report.Class = work.Failed, 1, "exit"
		a.report.Reason = work.Reason{Code: work.EndedByExit, Message: "exit code 1"}
	default:
		n := w.rng.IntN(4)
		a.report.Outputs = json.RawMessage(`{"items":[` + strings.TrimSuffix(strings.Repeat(`"x",`, n), ",") + `]}`)
	}
	if w.rng.IntN(3) == 0 {
		wk.soon(100*time.Millisecond, func() { wk.ack(a) })
	}
	wk.say(a, 1+w.rng.IntN(3))
	wk.soon(w.between(50*time.Millisecond, 6*time.Second), func() { wk.end(a) })
}

func (wk *worker) ack(a *attempt) {
	wk.call(func(s store.Store) any {
		return fault.CodeOf(s.Ack(context.Background(), []store.AckCommand{{
			Session: a.grant.Session, Tenant: a.grant.Tenant, Run: a.grant.Run, Step: a.grant.Step, Token: a.grant.Token,
		}})[0])
	}, func(reply any) {
		if reply == fault.Stale {
			wk.w.cover["stale acks refused"]++
		}
	})
}

// say sends the next lines of an attempt, and sends them again until a reply says that they are kept.
func (wk *worker) say(a *attempt, batches int) {
	if batches == 0 || a.over {
		return
	}
	n := 1 + wk.w.rng.IntN(3)
	var lines []work.LogLine
	for i := range n {
		lines = append(lines, work.LogLine{
			Time: wk.w.now, Level: "info", EventType: "step.stdout", Message: lineText(&a.grant, a.sent+i+1),
		})
	}
	from := int64(a.sent + 1)
	a.sent += n
	var send func()
	send = func() {
		wk.call(func(s store.Store) any {
			err := s.AppendLines(context.Background(), []store.LinesCommand{{
				Session: a.grant.Session, Tenant: a.grant.Tenant, Run: a.grant.Run, Step: a.grant.Step, Token: a.grant.Token, From: from, Lines: lines,
			}})[0]
			if err == nil { // from here on they must be kept, whether the reply arrives or not
				wk.w.checker.books.linesAcked(&a.grant, int(from)+n-1)
			}
			return fault.CodeOf(err)
		}, func(reply any) {
			switch reply {
			case nil, fault.Internal:
				if !a.over {
					wk.w.cover["lines sent again"]++
					send()
				}
			case fault.Code(""):
				wk.soon(wk.w.between(time.Millisecond, time.Second), func() { wk.say(a, batches-1) })
			default:
				wk.w.cover["stale lines refused"]++
			}
		})
	}
	send()
}

func lineText(g *store.Grant, n int) string { return lineFor(g.Run, g.Step, g.Token, n) }

func lineFor(run work.RunID, step work.StepID, token work.Token, n int) string {
	return fmt.Sprintf("%s %s %d.%d line %d", run, step, token.Incarnation, token.Epoch, n)
}

// forget ends an attempt without a word to anybody.
func (wk *worker) forget(a *attempt) {
	a.over = true
	wk.attempts = slices.DeleteFunc(wk.attempts, func(other *attempt) bool { return other == a })
}

// end turns an attempt into a report.
func (wk *worker) end(a *attempt) {
	if a.over {
		return
	}
	wk.forget(a)
	a.report.EndedAt = wk.w.now
	wk.reports = append(wk.reports, store.ReportCommand{Tenant: a.grant.Tenant, Run: a.grant.Run, Step: a.grant.Step, Report: a.report})
}
