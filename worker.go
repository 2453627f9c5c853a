package orrery

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"orrery.example/orrery/api"
)

// Handler does the work of one job. The context ends when the run is cancelled, when the time limit passes, or when the lease is lost;
// context.Cause says which. An error fails the attempt; what class of failure it is for rules of retry, Fail says.
type Handler func(ctx context.Context, job *Job) error

// WorkerConfig says what a worker offers and whom it trusts.
type WorkerConfig struct {
	Name   string
	Slots  int // jobs at once; 0 means 1
	Labels map[string]string

	// Trust returns the trust root of the moment. The worker runs nothing that nobody in it has signed for.
	Trust func() (Trust, error)

	// Log is told what the worker waits out or refuses; nil for silence.
	Log func(format string, args ...any)
}

// Worker claims jobs of the kinds that it has handlers for. It has no sandbox: handlers are the program's own code.
type Worker struct {
	c        *Client
	config   WorkerConfig
	handlers map[string]Handler
	session  string
	welcome  api.WorkerWelcome
	leave    context.CancelFunc

	mu      sync.Mutex
	running map[api.WorkerLease]context.CancelCauseFunc
	reports []api.WorkerReport
	resync  bool
	synced  time.Time
	wake    chan struct{} // a job has ended
	plans   map[string]*plan
}

// NewWorker returns a worker for the server of a client, whose token has the scope worker.
func NewWorker(c *Client, config WorkerConfig) *Worker {
	if config.Slots < 1 {
		config.Slots = 1
	}
	if config.Log == nil {
		config.Log = func(string, ...any) {}
	}
	if config.Trust == nil {
		config.Trust = func() (Trust, error) { return Trust{}, nil }
	}
	return &Worker{
		c: c, config: config, handlers: map[string]Handler{}, session: "ses_" + newKey(), wake: make(chan struct{}, 1),
		running: map[api.WorkerLease]context.CancelCauseFunc{}, plans: map[string]*plan{},
	}
}

// Handle registers the handler of a runner kind: the name after "uses:" in a pack, with a slash in it, such as "acme/convert". It must be
// called before Run.
func (w *Worker) Handle(kind string, h Handler) { w.handlers[kind] = h }

func (w *Worker) offer() api.WorkerOffer {
	return api.WorkerOffer{Runners: slices.Sorted(maps.Keys(w.handlers)), Labels: w.config.Labels}
}

// Run works until ctx ends or the server tells the worker to leave, then takes no more, lets what runs end, and returns. Errors: the server
// refuses the worker.
func (w *Worker) Run(ctx context.Context) error {
	ctx, w.leave = context.WithCancel(ctx)
	defer w.leave()
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	if err := w.register(ctx); err != nil {
		return err
	}
	go w.beat(life)
	for {
		reports, free := w.state(ctx)
		if len(reports) == 0 && free == 0 {
			if ctx.Err() != nil && w.idle() {
				return nil
			}
			select {
			case <-w.wake:
			case <-w.until(ctx):
			}
			continue
		}
		if err := w.exchange(ctx, life, reports, free); err != nil {
			w.config.Log("exchange: %v", err)
			pause(life, rand.N(time.Second))
		}
	}
}

// until ends with ctx, and never once it has ended.
func (w *Worker) until(ctx context.Context) <-chan struct{} {
	if ctx.Err() != nil {
		return nil
	}
	return ctx.Done()
}

func (w *Worker) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running) == 0 && len(w.reports) == 0
}

// state takes the reports that wait, and counts free slots.
func (w *Worker) state(ctx context.Context) (reports []api.WorkerReport, free int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reports, w.reports = w.reports, nil
	if ctx.Err() == nil {
		free = w.config.Slots - len(w.running)
	}
	return reports, free
}

func (w *Worker) register(ctx context.Context) error {
	for {
		err := w.c.once(ctx, http.MethodPost, "worker/sessions", nil, api.WorkerRegistration{
			Session: w.session, Worker: w.config.Name, Version: "go-sdk", Slots: w.config.Slots, Offer: w.offer(),
		}, &w.welcome)
		if Code(err) != codeUnavailable && Code(err) != codeExhausted {
			return err
		}
		w.config.Log("register: %v", err)
		if !pause(ctx, rand.N(5*time.Second)) {
			return context.Cause(ctx)
		}
	}
}

// exchange reports, and asks for jobs. A request that waits is ended when a job ends meanwhile or the worker is to leave; what it may have
// been granted is given back by the next one.
func (w *Worker) exchange(ctx, life context.Context, reports []api.WorkerReport, free int) error {
	in := api.WorkerExchange{Session: w.session, Worker: w.config.Name, Offer: w.offer(), Max: free, Reports: reports}
	call, stop := context.WithTimeout(life, 20*time.Second)
	if len(reports) == 0 {
		stop()
		in.WaitMs = w.welcome.MaxWaitMs
		call, stop = context.WithTimeout(ctx, time.Duration(in.WaitMs)*time.Millisecond+20*time.Second)
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			select {
			case <-w.wake:
				stop()
			case <-ended:
			}
		}()
	}
	defer stop()
	w.mu.Lock()
	// Also now and then without a reason: a request that the network has doubled leaves no error.
	if in.Resync = w.resync || time.Since(w.synced) > 10*time.Second; in.Resync {
		in.Holding = slices.Collect(maps.Keys(w.running))
	}
	w.mu.Unlock()
	var out api.WorkerExchanged
	err := w.c.once(call, http.MethodPost, "worker/exchange", nil, in, &out)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case Code(err) == codeNotFound:
		w.lose() // the reports were taken or refused before
		return nil
	case err != nil:
		w.resync, w.reports = true, append(reports, w.reports...)
		if call.Err() != nil {
			return nil // ended on purpose
		}
		return err
	}
	if w.resync = false; in.Resync {
		w.synced = time.Now()
	}
	requests := map[string]json.RawMessage{}
	for i := range out.Grants {
		if g := &out.Grants[i]; len(g.Request) > 0 {
			requests[g.Run] = g.Request
		} else {
			g.Request = requests[g.Run]
		}
		w.start(life, &out.Grants[i])
	}
	return nil
}

// lose stops everything and opens the session again. The caller holds the lock.
func (w *Worker) lose() {
	for _, stop := range w.running {
		stop(ErrLost)
	}
	go func() {
		if err := w.register(context.Background()); err != nil {
			w.config.Log("register: %v", err)
			w.leave()
		}
	}()
}

// start runs a job. The caller holds the lock.
func (w *Worker) start(life context.Context, g *api.WorkerGrant) {
	lease := api.WorkerLease{Run: g.Run, Step: g.Step, Token: g.Token}
	ctx, stop := context.WithCancelCause(life)
	w.running[lease] = stop
	go func() {
		report := w.attempt(ctx, g)
		w.mu.Lock()
		delete(w.running, lease)
		w.reports = append(w.reports, report)
		w.mu.Unlock()
		stop(nil)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}()
}

// beat keeps the session alive and carries out orders, until life ends.
func (w *Worker) beat(life context.Context) {
	heard := time.Now()
	for life.Err() == nil {
		w.mu.Lock()
		runs := map[string]bool{}
		for lease := range w.running {
			runs[lease.Run] = true
		}
		in := api.WorkerBeat{Session: w.session, WaitMs: w.welcome.HeartbeatMs, Runs: slices.Sorted(maps.Keys(runs))}
		w.mu.Unlock()
		in.WaitMs = min(in.WaitMs, 2000)
		ctx, stop := context.WithTimeout(life, 20*time.Second)
		started := time.Now()
		var orders api.WorkerOrders
		err := w.c.once(ctx, http.MethodPost, "worker/heartbeat", nil, in, &orders)
		stop()
		w.mu.Lock()
		switch {
		case err == nil:
			heard = started
			for _, lease := range orders.Cancel {
				if stop := w.running[lease]; stop != nil {
					stop(ErrCancelled)
				}
			}
			if orders.Drain {
				w.leave()
			}
		case Code(err) == codeNotFound || time.Since(heard) > time.Duration(w.welcome.SessionMs)*time.Millisecond:
			w.lose()
			heard = time.Now()
		}
		w.mu.Unlock()
		if err != nil || len(orders.Cancel) > 0 || orders.Drain {
			pause(life, rand.N(time.Second))
		}
	}
}

// read fetches a document, patiently. A thing that is not there is nil.
func (w *Worker) read(ctx context.Context, path string) ([]byte, error) {
	for try := 0; ; try++ {
		res, err := w.c.send(ctx, http.MethodGet, "worker/"+path, nil, nil)
		var raw []byte
		if err == nil {
			raw, err = io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil {
				return raw, nil
			}
			err = unavailable(err)
		}
		switch {
		case Code(err) == codeNotFound:
			return nil, nil
		case Code(err) != codeUnavailable && Code(err) != codeExhausted || try == 8:
			return nil, err
		}
		if !pause(ctx, rand.N(200*time.Millisecond<<try)) {
			return nil, context.Cause(ctx)
		}
	}
}

// plan is what the SDK needs of a plan.
type plan struct {
	Pack   api.PackRef `json:"pack"`
	Inputs []struct {
		Name  string          `json:"name"`
		Value json.RawMessage `json:"value"`
	} `json:"inputs"`
	Steps []struct {
		ID  string `json:"id"`
		Run *spec  `json:"run"`
	} `json:"steps"`
}

type spec struct {
	Runner    string                     `json:"runner"`
	With      map[string]json.RawMessage `json:"with"`
	TimeoutMs int64                      `json:"timeoutMs"`
	Outputs   []struct {
		Name     string `json:"name"`
		Path     string `json:"path"`
		Optional bool   `json:"optional"`
	} `json:"outputs"`
}

// plan returns the plan of a lease after the checks that a worker owes to the authors: the bytes are those of the hash, and somebody
// trusted has asked for them.
func (w *Worker) plan(ctx context.Context, g *api.WorkerGrant) (*plan, error) {
	w.mu.Lock()
	p := w.plans[g.PlanHash]
	w.mu.Unlock()
	if p == nil {
		raw, err := w.read(ctx, "plans/"+g.PlanHash)
		if err != nil {
			return nil, err
		}
		if digestOf(raw) != g.PlanHash {
			return nil, failure(codePlanMismatch, "the plan hashes to %s, the lease is for %s", digestOf(raw), g.PlanHash)
		}
		p = &plan{}
		if err := json.NewDecoder(bytes.NewReader(raw)).Decode(p); err != nil {
			return nil, fmt.Errorf("the plan cannot be read: %w", err)
		}
		w.mu.Lock()
		if len(w.plans) >= 64 {
			clear(w.plans)
		}
		w.plans[g.PlanHash] = p
		w.mu.Unlock()
	}
	request := []byte(g.Request)
	if len(request) == 0 {
		var err error
		if request, err = w.read(ctx, "runs/"+g.Run+"/request"); err != nil {
			return nil, err
		}
	}
	trust, err := w.config.Trust()
	if err != nil {
		return nil, err
	}
	return p, trust.check(request, w.welcome.Tenant, g, p.Pack, time.Now())
}
