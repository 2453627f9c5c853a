package remote

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/wire"
	"orrery.example/orrery/internal/work"
)

// About is what a worker says of itself when it registers.
type About struct {
	Worker  string
	Version string
	Slots   int
	Offer   api.WorkerOffer
	Sandbox json.RawMessage // what a probe of its sandbox found
}

// Source is where a worker gets its work from a server. It implements worker.Source; Wake tells the worker when there is something.
type Source struct {
	c     *Client
	about About
	life  context.Context
	wake  chan struct{}
	acks  *gather[store.AckCommand]
	lines *gather[store.LinesCommand]

	leaving chan struct{} // closed when no more work is wanted
	leave   sync.Once
	drained chan struct{} // closed when the server says so
	joined  chan string   // gets the worker's name when the server knows it
	told    sync.Once

	mu      sync.Mutex
	session string
	tenant  work.Tenant
	welcome api.WorkerWelcome
	beating bool
	calm    context.CancelFunc // ends the heartbeat under way when it watches no run; else nil
	renewed time.Time          // when a heartbeat was last answered
	gone    bool               // the server does not know the session any more
	cancels []store.AckCommand

	held    map[store.AckCommand]bool // leases that were heard of and not reported
	grants  []store.Grant             // of them those that the worker has not taken yet
	polling context.CancelFunc        // ends the request for work that waits at the server; nil when none does
	asked   int                       // how much it asks for
	resync  bool                      // the server may have granted leases that nobody here has heard of
}

// Source returns the work of a server. What it does in the background ends with ctx.
func (c *Client) Source(ctx context.Context, about About) *Source {
	s := &Source{
		c: c, about: about, life: ctx, wake: make(chan struct{}, 1), held: map[store.AckCommand]bool{},
		leaving: make(chan struct{}), drained: make(chan struct{}), joined: make(chan string, 1),
	}
	s.acks = &gather[store.AckCommand]{send: s.sendAcks, most: 500}
	s.lines = &gather[store.LinesCommand]{send: s.sendLines, most: 200}
	return s
}

// Wake gets a value when the worker should ask: there are leases, or orders.
func (s *Source) Wake() <-chan struct{} { return s.wake }

// Drained is closed when the server has told the worker to leave.
func (s *Source) Drained() <-chan struct{} { return s.drained }

// Joined gets the name that the worker has in the evidence when the server has taken it in for the first time.
func (s *Source) Joined() <-chan string { return s.joined }

func (s *Source) hint() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// OpenSession implements worker.Source. The server decides when the session expires. A server that cannot be reached is waited for, until
// the worker is to leave.
func (s *Source) OpenSession(ctx context.Context, session store.Session) error {
	var welcome api.WorkerWelcome
	for {
		s.c.gate.wait(s.life)
		err := s.c.call(ctx, "sessions", api.WorkerRegistration{
			Session: session.ID, Worker: s.about.Worker, Version: s.about.Version, Slots: s.about.Slots, Offer: s.about.Offer,
			Sandbox: s.about.Sandbox,
		}, &welcome, callTimeout)
		if err == nil {
			break
		}
		if !fault.Passing(err) || s.life.Err() != nil || s.isLeaving() {
			return err
		}
		s.c.Log.Warn("the server is not there", "error", err)
	}
	if session.Tenant != "" && welcome.Tenant != string(session.Tenant) {
		return fault.New(fault.Denied, "the server takes the worker for one of tenant %s, not of %s", welcome.Tenant, session.Tenant)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone { // its leases went with the session before
		clear(s.held)
		s.grants = nil
	}
	s.session, s.tenant, s.welcome = session.ID, work.Tenant(welcome.Tenant), welcome
	s.renewed, s.gone = time.Now(), false
	if !s.beating {
		s.beating = true
		s.joined <- welcome.Worker
		go s.beat(s.life)
	}
	return nil
}

func (s *Source) isLeaving() bool {
	select {
	case <-s.leaving:
		return true
	default:
		return false
	}
}

// Exchange implements worker.Source. What a request that waits has brought is handed over first; a new one is left waiting for what is
// missing. The two together never ask for more than there are slots.
func (s *Source) Exchange(ctx context.Context, req store.ExchangeRequest) (store.ExchangeReply, error) {
	s.mu.Lock()
	if s.gone && len(req.Reports) == 0 {
		s.mu.Unlock()
		return store.ExchangeReply{}, fault.New(fault.NotFound, "the session has ended")
	}
	s.resync = s.resync || req.Resync
	n := min(len(s.grants), req.Max)
	reply := store.ExchangeReply{Grants: s.grants[:n:n]}
	s.grants = s.grants[n:]
	want := max(0, req.Max-n-s.asked)
	if s.gone || s.isLeaving() {
		want = 0
	}
	if len(req.Reports) == 0 {
		s.poll(want)
		s.mu.Unlock()
		return reply, nil
	}
	in := s.message(req.Reports, want)
	s.mu.Unlock()
	out, grants, err := s.trade(ctx, in, callTimeout)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && len(out.Results) != len(req.Reports) {
		err = fault.New(fault.Unavailable, "the server answered %d of %d reports", len(out.Results), len(req.Reports))
	}
	if err != nil {
		s.grants, s.resync = append(reply.Grants, s.grants...), true
		return store.ExchangeReply{}, err
	}
	for i, r := range out.Results {
		reply.Errs = append(reply.Errs, wire.FromResult(r))
		delete(s.held, lease(s.tenant, &req.Reports[i]))
	}
	reply.Grants = append(reply.Grants, grants...)
	s.poll(want - len(grants))
	return reply, nil
}

func lease(t work.Tenant, r *store.ReportCommand) store.AckCommand {
	return store.AckCommand{Tenant: t, Run: r.Run, Step: r.Step, Token: r.Report.Token}
}

// message is a request. What is held is told when an answer got lost, but never while another request for work is under way: what that
// one brings would be taken for lost. The caller holds the lock.
func (s *Source) message(reports []store.ReportCommand, want int) *api.WorkerExchange {
	in := &api.WorkerExchange{Session: s.session, Worker: s.about.Worker, Offer: s.about.Offer, Max: want}
	for i := range reports {
		in.Reports = append(in.Reports, wire.Report(&reports[i]))
	}
	if s.resync && s.polling == nil {
		in.Resync, in.Holding = true, wire.Leases(slices.Collect(maps.Keys(s.held)))
		s.resync = false
	}
	return in
}

// trade sends a request and takes note of the leases that it brings.
func (s *Source) trade(ctx context.Context, in *api.WorkerExchange, timeout time.Duration) (*api.WorkerExchanged, []store.Grant, error) {
	var out api.WorkerExchanged
	if err := s.c.call(ctx, "exchange", in, &out, timeout); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var grants []store.Grant
	requests := map[work.RunID][]byte{}
	for i := range out.Grants {
		g, err := wire.FromGrant(s.tenant, &out.Grants[i])
		if err != nil {
			return nil, nil, err
		}
		if len(g.Request) > 0 {
			requests[g.Run] = g.Request
		}
		g.Request = requests[g.Run]
		grants = append(grants, g)
	}
	if len(s.held) == 0 && len(grants) > 0 {
		time.AfterFunc(busyAfter, s.hurry)
	}
	for i := range grants {
		g := &grants[i]
		s.held[store.AckCommand{Tenant: g.Tenant, Run: g.Run, Step: g.Step, Token: g.Token}] = true
	}
	return &out, grants, nil
}

// pollWait bounds how long leases are stranded that the network granted twice: the next request says what is held.
const pollWait = 10 * time.Second

// poll leaves a request for work waiting at the server, unless one waits already. The caller holds the lock.
func (s *Source) poll(want int) {
	if want <= 0 || s.polling != nil {
		return
	}
	in := s.message(nil, want)
	in.WaitMs = min(s.welcome.MaxWaitMs, pollWait.Milliseconds())
	ctx, stop := context.WithCancel(s.life)
	s.polling, s.asked = stop, want
	go s.await(ctx, in)
}

func (s *Source) await(ctx context.Context, in *api.WorkerExchange) {
	s.c.gate.wait(ctx)
	_, grants, err := s.trade(ctx, in, time.Duration(in.WaitMs)*time.Millisecond+callTimeout)
	s.mu.Lock()
	s.polling()
	s.polling, s.asked = nil, 0
	s.grants = append(s.grants, grants...)
	switch {
	case fault.CodeOf(err) == fault.NotFound:
		s.gone = true
	case err != nil:
		s.resync = true
		s.c.Log.Debug("no answer to a request for work", "error", err)
	}
	s.mu.Unlock()
	if s.isLeaving() {
		s.giveBack(s.life)
	}
	s.hint()
}

// Leave asks for no more work, and gives back what the worker has not taken. What runs goes on.
func (s *Source) Leave() {
	s.leave.Do(func() { close(s.leaving) })
	s.mu.Lock()
	polling := s.polling
	s.mu.Unlock()
	if polling != nil {
		polling() // await gives back
	} else {
		s.giveBack(s.life)
	}
}

// giveBack tells the server what is held, which is everything that the worker has taken. It is a courtesy: without it others get the
// rest when the session ends.
func (s *Source) giveBack(ctx context.Context) {
	s.mu.Lock()
	for i := range s.grants {
		g := &s.grants[i]
		delete(s.held, store.AckCommand{Tenant: g.Tenant, Run: g.Run, Step: g.Step, Token: g.Token})
	}
	s.grants, s.resync = nil, true
	in := s.message(nil, 0)
	s.mu.Unlock()
	if _, _, err := s.trade(ctx, in, callTimeout); err != nil {
		s.c.Log.Warn("leases could not be given back", "error", err)
	}
}

// Ack implements worker.Source.
func (s *Source) Ack(ctx context.Context, batch []store.AckCommand) []error {
	return s.acks.do(ctx, batch)
}

func (s *Source) sendAcks(ctx context.Context, batch []store.AckCommand) []error {
	var out api.WorkerResults
	err := s.c.call(ctx, "ack", api.WorkerAcks{Session: s.name(), Leases: wire.Leases(batch)}, &out, callTimeout)
	return outcomes(len(batch), out.Results, err)
}

// AppendLines implements worker.Source.
func (s *Source) AppendLines(ctx context.Context, batch []store.LinesCommand) []error {
	return s.lines.do(ctx, batch)
}

func (s *Source) sendLines(ctx context.Context, batch []store.LinesCommand) []error {
	in := api.WorkerLogs{Session: s.name()}
	for i := range batch {
		in.Batches = append(in.Batches, wire.Lines(&batch[i]))
	}
	var out api.WorkerResults
	err := s.c.call(ctx, "logs", in, &out, callTimeout)
	return outcomes(len(batch), out.Results, err)
}

func outcomes(n int, results []api.WorkerResult, err error) []error {
	if err == nil && len(results) != n {
		err = fault.New(fault.Unavailable, "the server answered %d of %d entries", len(results), n)
	}
	errs := make([]error, n)
	for i := range errs {
		if errs[i] = err; err == nil {
			errs[i] = wire.FromResult(results[i])
		}
	}
	return errs
}

func (s *Source) name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// Plan implements worker.Source.
func (s *Source) Plan(ctx context.Context, _ work.Tenant, hash work.Digest) ([]byte, error) {
	return s.c.document(ctx, "plans/"+string(hash))
}

// Request returns the signed request of a run, nil when there is none.
func (s *Source) Request(ctx context.Context, _ work.Tenant, run work.RunID) ([]byte, error) {
	raw, err := s.c.document(ctx, "runs/"+string(run)+"/request")
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil
	}
	return raw, err
}

// Signatures returns what authors have signed of a pack: DSSE envelopes.
func (s *Source) Signatures(ctx context.Context, _ work.Tenant, pack work.Digest) ([][]byte, error) {
	raw, err := s.c.document(ctx, "packs/"+string(pack)+"/signatures")
	if err != nil {
		return nil, err
	}
	var list api.WorkerSignatures
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the signatures of a pack")
	}
	out := make([][]byte, len(list.Items))
	for i := range out {
		out[i] = list.Items[i]
	}
	return out, nil
}

// Trust returns the keyring that the server has for the worker's tenant.
func (c *Client) Trust(ctx context.Context) ([]byte, error) { return c.document(ctx, "trust") }

// TrustRoots returns the signed trust roots that follow the given number, as far as the server has them.
func (c *Client) TrustRoots(ctx context.Context, after int64) ([]json.RawMessage, error) {
	raw, err := c.document(ctx, "trust-roots?after="+strconv.FormatInt(after, 10))
	if err != nil {
		return nil, err
	}
	var out api.WorkerTrustRoots
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the trust roots of the server")
	}
	return out.Items, nil
}

// Cached implements worker.Source.
func (s *Source) Cached(ctx context.Context, _ work.Tenant, key work.Digest) (*store.CachedResult, error) {
	raw, err := s.c.document(ctx, "cache/"+string(key))
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var hit api.WorkerCached
	if err := json.Unmarshal(raw, &hit); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "an earlier result")
	}
	return wire.FromCached(&hit)
}

// maxDocument bounds a plan or a request.
const maxDocument = 128 << 20

// tries is how often what can be asked again without harm is asked.
const tries = 8

// document reads something that never changes, patiently.
func (c *Client) document(ctx context.Context, path string) (raw []byte, err error) {
	for range tries {
		c.gate.wait(ctx)
		raw, err = c.read(ctx, path)
		if !fault.Passing(err) || ctx.Err() != nil {
			return raw, err
		}
	}
	return nil, err
}

func (c *Client) read(ctx context.Context, path string) ([]byte, error) {
	ctx, stop := context.WithTimeout(ctx, 2*callTimeout)
	defer stop()
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.send(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxDocument))
	if err != nil {
		return nil, c.lost(err)
	}
	return raw, nil
}
