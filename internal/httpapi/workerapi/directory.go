package workerapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// directory remembers the workers that this server heard of lately. It is for people: no decision about a lease depends on it.
type directory struct {
	now func() work.Time

	mu       sync.Mutex
	sessions map[string]*seen // by the session's name in the store
}

type seen struct {
	tenant work.Tenant
	worker string
	last   work.Time
	said   api.WorkerRegistration
}

// forgetAfter is how long a worker that went silent is listed.
const forgetAfter = 10 * time.Minute

func newDirectory(now func() work.Time) *directory {
	return &directory{now: now, sessions: map[string]*seen{}}
}

func (d *directory) register(t work.Tenant, worker, session string, said *api.WorkerRegistration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	for id, e := range d.sessions {
		if now.Sub(e.last) > forgetAfter {
			delete(d.sessions, id)
		}
	}
	d.sessions[session] = &seen{tenant: t, worker: worker, last: now, said: *said}
}

// beat notes that a session was heard of.
func (d *directory) beat(session string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.sessions[session]; e != nil {
		e.last = d.now()
	}
}

// worker returns what the worker of a session is called, "" for a session that is not known here.
func (d *directory) worker(session string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.sessions[session]; e != nil {
		return e.worker
	}
	return ""
}

// knows reports whether a worker of that name was heard of lately.
func (d *directory) knows(t work.Tenant, worker string) bool {
	return slices.ContainsFunc(d.list(t), func(w api.WorkerSeen) bool { return w.Worker == worker })
}

func (d *directory) list(t work.Tenant) []api.WorkerSeen {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []api.WorkerSeen{}
	for _, e := range d.sessions {
		if e.tenant == t && d.now().Sub(e.last) <= forgetAfter {
			out = append(out, api.WorkerSeen{
				Worker: e.worker, Version: e.said.Version, Slots: e.said.Slots, Offer: e.said.Offer, Sandbox: e.said.Sandbox,
				LastSeen: e.last.String(),
			})
		}
	}
	slices.SortFunc(out, func(a, b api.WorkerSeen) int {
		return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(b.LastSeen, a.LastSeen))
	})
	return out
}

func (s *service) list(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	f, err := s.Store.Flow(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	workers := s.seen.list(c.Tenant)
	for i := range workers {
		v := f.Worker(workers[i].Worker)
		workers[i].Cordoned, workers[i].Draining = v.Paused != nil, v.Drain
	}
	return httpapi.Reply(w, http.StatusOK, api.WorkerList{Workers: workers})
}

// drain says so in the store, so that every server tells the worker. One that is to leave already is told again.
func (s *service) drain(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	name := r.PathValue("worker")
	if !s.seen.knows(c.Tenant, name) {
		return fault.New(fault.NotFound, "there is no worker %s", name)
	}
	_, err := s.Store.ChangeFlow(r.Context(), store.FlowChange{
		Tenant: c.Tenant, Kind: store.FlowWorker, Name: name, Verb: "drain",
		Actor: work.Actor{Name: c.Principal.Subject, Reason: c.Principal.Reason, Ticket: c.Principal.Ticket},
	})
	if err != nil && fault.CodeOf(err) != fault.Conflict {
		return err
	}
	return s.list(w, r, c)
}

// leaving reports whether the worker of a session is to end.
func (s *service) leaving(ctx context.Context, t work.Tenant, session string) bool {
	f, err := s.Store.Flow(ctx, t)
	return err == nil && f.Worker(s.seen.worker(session)).Drain
}
