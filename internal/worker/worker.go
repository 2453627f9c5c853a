// Package worker runs leased steps: it claims, checks the plan, prepares a workspace, starts the sandbox, and reports what it
// measured itself.
//
// A worker takes nothing on trust that it can check: a plan must hash to the plan hash of the lease, templates are rendered
// here from the plan and the values of the lease, files are compared with their digests when they are put in place, and
// outputs are hashed here, never declared.
package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Source is where a worker gets its work: claim and report (Exchange), ack, heartbeat, logs and progress (AppendLines), and what
// a lease refers to.
type Source interface {
	OpenSession(ctx context.Context, s store.Session) error
	Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error)
	Ack(ctx context.Context, batch []store.AckCommand) []error
	Heartbeat(ctx context.Context, session string, expires work.Time) (store.Orders, error)
	AppendLines(ctx context.Context, batch []store.LinesCommand) []error
	Plan(ctx context.Context, tenant work.Tenant, hash work.Digest) ([]byte, error)
	Cached(ctx context.Context, tenant work.Tenant, key work.Digest) (*store.CachedResult, error)
}

// Blobs is where files come from and go to, by their digest.
type Blobs interface {
	Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error)
	Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error)
}

// Config is what a worker needs.
type Config struct {
	Name    string      // for people and evidence
	Tenant  work.Tenant // whose work it takes; store.Installation for that of every tenant
	Slots   int         // steps at once
	Dir     string      // an empty folder for workspaces; each is removed after its attempt
	Local   bool        // the source's store belongs to this process alone
	Sandbox sandbox.Driver
	Labels  map[string]string
	Tier    int                                                  // what to tell the scheduler; a step that asks for more is still refused here
	Inside  func(dir string) string                              // where a step sees its workspace
	Secret  func(tenant work.Tenant, ref string) ([]byte, error) // resolves a secret's reference; nil refuses all
	Path    string                                               // PATH of steps

	// Admit says whether a step may run here, before anything is made for it; see package warrant. Nil trusts the source.
	Admit func(ctx context.Context, lease *store.Grant, plan *engine.Graph) error

	// Observe hears of the begin of an attempt that is more than a word. It returns the W3C traceparent that the step is told, and what is
	// called with the report when the attempt has ended. Nil hands on the trace of the lease.
	Observe func(lease *store.Grant) (traceparent string, through func(*work.ReportedData))

	// Sign signs the reports that are not signed yet; nil for a worker without a key.
	Sign func(ctx context.Context, reports []evidence.Result) error

	Wake <-chan struct{} // hints that there may be work; nil means polling only
	Now  func() work.Time
	Log  *slog.Logger
}

// Times of a session. A worker that does not answer for sessionLength loses its leases.
const (
	sessionLength  = 30 * time.Second
	heartbeatEvery = sessionLength / 3
	pollEvery      = time.Second            // in case a hint is lost
	ordersEvery    = 250 * time.Millisecond // how soon a cancel is heard when hints come
	ackAfter       = time.Second            // shorter attempts are reported before an ack would tell anything
)

// Runners lists what a worker can run.
func Runners() []string {
	return []string{"process", "shell", "python", "noop", "bundle.ingest", "http"}
}

// Worker runs steps until its context ends.
type Worker struct {
	Config
	source  Source
	blobs   Blobs
	session string

	plans plans
	done  chan finished

	abandoned atomic.Bool // what is cut short is not reported, and output that the store does not take is let go

	mu      sync.Mutex
	running map[leaseKey]context.CancelCauseFunc
}

// leaseKey names a lease, not only its step: an attempt that lost its lease may still be ending when the next one begins.
type leaseKey struct {
	tenant work.Tenant
	run    work.RunID
	step   work.StepID
	token  work.Token
}

func keyOf(g *store.Grant) leaseKey { return leaseKey{g.Tenant, g.Run, g.Step, g.Token} }

type finished struct {
	key    leaseKey
	report store.ReportCommand
}

// New returns a worker with a session of its own.
func New(c Config, source Source, blobs Blobs) *Worker {
	return &Worker{
		Config: c, source: source, blobs: blobs, session: "ses_" + rand.Text(),
		done: make(chan finished, c.Slots), running: map[leaseKey]context.CancelCauseFunc{},
	}
}

// ErrAbandoned is the cause to end the context of Run with when what runs is not to end by itself: it is stopped, politely, and its leases are
// left to whoever opens the store next.
var ErrAbandoned = errors.New("the process is to end")

// Run works until ctx ends, then takes no more, lets what runs end, and returns. Errors: the session could not be opened until then.
func (w *Worker) Run(ctx context.Context) error {
	life := context.WithoutCancel(ctx)
	if err := w.begin(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	l := &loop{w: w, hungry: true}
	stopping := ctx.Done()
	wake := w.Wake
	for {
		l.exchange(life)
		if l.draining && l.active == 0 && len(l.reports) == 0 {
			return nil
		}
		if l.ended || l.more && l.hungry && l.active < w.Slots && !l.draining {
			continue
		}
		select {
		case <-stopping:
			stopping, l.draining = nil, true
			if errors.Is(context.Cause(ctx), ErrAbandoned) {
				w.abandoned.Store(true)
				w.cancelAll(ErrAbandoned)
			}
		case f := <-w.done:
			l.take(f)
		case _, ok := <-wake:
			if !ok {
				wake = nil
			}
			l.hungry = true
			l.hear(life)
		case <-poll.C:
			l.hungry = true
			if l.missed {
				l.hear(life)
			}
		case <-beat.C:
			l.listen(life)
			l.resync = true // a request that arrived twice strands leases without any error
		}
	}
}

func (w *Worker) open(ctx context.Context) error {
	return w.source.OpenSession(ctx, store.Session{
		ID: w.session, Worker: w.Name, Tenant: w.Tenant, Local: w.Local, Expires: w.Now().Add(sessionLength),
		Offer: store.Offer{Runners: Runners(), Labels: w.Labels, Tier: w.Tier},
	})
}

// begin opens the session, however long the store takes to have one. Who is refused does not ask again.
func (w *Worker) begin(ctx context.Context) error {
	for {
		err := w.open(context.WithoutCancel(ctx))
		switch fault.CodeOf(err) {
		case "":
			return nil
		case fault.Unauthenticated, fault.Denied, fault.TenantRequired, fault.Invalid:
			return err
		}
		w.Log.Warn("no session yet", "error", err)
		again := time.NewTimer(pollEvery)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}

func (w *Worker) heartbeat(ctx context.Context) {
	orders, err := w.source.Heartbeat(ctx, w.session, w.Now().Add(sessionLength))
	if fault.CodeOf(err) == fault.NotFound {
		// The session was declared dead: its leases are gone, so what runs under them must stop.
		w.cancelAll(errLost)
		err = w.open(ctx)
	}
	if err != nil {
		w.Log.Warn("heartbeat failed", "error", err)
		return
	}
	for _, c := range orders.Cancel {
		w.cancel(leaseKey{c.Tenant, c.Run, c.Step, c.Token}, errCancelled)
	}
}

var (
	errCancelled = errors.New("cancelled")
	errLost      = errors.New("the lease was lost")
)

func (w *Worker) cancel(key leaseKey, cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := w.running[key]; stop != nil {
		stop(cause)
	}
}

// holding lists the leases of what runs.
func (w *Worker) holding() []store.AckCommand {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []store.AckCommand
	for key := range w.running {
		out = append(out, store.AckCommand{Session: w.session, Tenant: key.tenant, Run: key.run, Step: key.step, Token: key.token})
	}
	return out
}

func (w *Worker) cancelAll(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, stop := range w.running {
		stop(cause)
	}
}

// loop is the state of Run: only its goroutine touches it.
type loop struct {
	w        *Worker
	active   int // attempts that have not been taken back
	reports  []store.ReportCommand
	hungry   bool // there may be work
	more     bool // the last exchange gave as much as was asked for
	draining bool
	heard    time.Time
	missed   bool // a hint came too soon after heard
	resync   bool // the store may have granted leases that this worker has not heard of
	ended    bool // some of what the last exchange gave has ended already
}

func (l *loop) take(f finished) {
	l.w.mu.Lock()
	delete(l.w.running, f.key)
	l.w.mu.Unlock()
	l.active--
	if !l.w.abandoned.Load() {
		l.reports = append(l.reports, f.report)
	}
}

// hear asks for orders when a hint came while something runs. A hint that comes too soon after the last is not forgotten: no other
// may follow it.
func (l *loop) hear(ctx context.Context) {
	if l.active == 0 {
		return
	}
	if l.missed = time.Since(l.heard) < ordersEvery; !l.missed {
		l.listen(ctx)
	}
}

func (l *loop) listen(ctx context.Context) {
	l.w.heartbeat(ctx)
	l.heard, l.missed = time.Now(), false
}

// exchange reports what has ended and asks for as much as there are free slots, when there is a reason to.
func (l *loop) exchange(ctx context.Context) {
	w := l.w
	l.ended = false
	for len(w.done) > 0 {
		l.take(<-w.done)
	}
	free := w.Slots - l.active
	if l.draining || !l.hungry && len(l.reports) == 0 {
		free = 0
	}
	if free == 0 && len(l.reports) == 0 {
		return
	}
	if err := w.sign(ctx, l.reports); err != nil {
		w.Log.Error("reports cannot be signed, and wait", "error", err)
		l.hungry, l.more = false, false
		return
	}
	req := store.ExchangeRequest{
		Session: w.session, Tenant: w.Tenant, Reports: l.reports, Runners: Runners(), Labels: w.Labels, MinTier: w.Tier, Max: free,
	}
	if req.Resync = l.resync; l.resync {
		req.Holding = w.holding()
	}
	reply, err := w.source.Exchange(ctx, req)
	if fault.CodeOf(err) == fault.NotFound {
		l.reports = nil // they were taken or refused before the session turned out to be gone
		w.cancelAll(errLost)
		if err := w.open(ctx); err != nil {
			w.Log.Warn("no new session", "error", err)
		}
		return
	}
	if err != nil {
		// The outcome is unknown: reports are sent again, and a second one is refused as stale; what was granted is given back.
		w.Log.Warn("exchange failed", "error", err)
		l.hungry, l.more, l.resync = false, false, true
		return
	}
	l.resync = false
	for i, e := range reply.Errs {
		if e != nil {
			w.Log.Info("report refused", "run", l.reports[i].Run, "step", l.reports[i].Step, "error", e)
		}
	}
	l.reports = nil
	l.more = free > 0 && len(reply.Grants) == free
	l.hungry = l.more
	for i := range reply.Grants {
		l.start(ctx, &reply.Grants[i])
	}
}

// sign puts the signature of this worker under reports, once for all of them.
func (w *Worker) sign(ctx context.Context, reports []store.ReportCommand) error {
	if w.Sign == nil || len(reports) == 0 {
		return nil
	}
	results := make([]evidence.Result, len(reports))
	for i := range reports {
		c := &reports[i]
		results[i] = evidence.Result{Tenant: c.Tenant, Run: c.Run, Step: c.Step, Report: &c.Report}
	}
	return w.Sign(ctx, results)
}

func (l *loop) start(ctx context.Context, g *store.Grant) {
	w := l.w
	a := &attempt{w: w, grant: g}
	if spec := a.inline(ctx); spec {
		l.reports, l.ended = append(l.reports, store.ReportCommand{Tenant: g.Tenant, Run: g.Run, Step: g.Step, Report: a.report}), true
		return
	}
	key := keyOf(g)
	ctx, stop := context.WithCancelCause(ctx)
	w.mu.Lock()
	w.running[key] = stop
	w.mu.Unlock()
	l.active++
	go func() {
		defer stop(nil)
		a.execute(ctx)
		w.done <- finished{key, store.ReportCommand{Tenant: g.Tenant, Run: g.Run, Step: g.Step, Report: a.report}}
	}()
}
