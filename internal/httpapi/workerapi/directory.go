package workerapi

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

// directory remembers the workers that this server heard of lately, and which of them are to leave. It is for people: no decision
// about a lease depends on it.
type directory struct {
	now func() work.Time

	mu       sync.Mutex
	sessions map[string]*seen // by the session's name in the store
}

type seen struct {
	tenant work.Tenant
	worker string
	drain  bool
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
	old := d.sessions[session]
	d.sessions[session] = &seen{tenant: t, worker: worker, drain: old != nil && old.drain, last: now, said: *said}
}

// beat notes that a session was heard of, and reports whether its worker is to leave.
func (d *directory) beat(session string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.sessions[session]
	if e == nil {
		return false
	}
	e.last = d.now()
	return e.drain
}

func (d *directory) draining(session string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.sessions[session]
	return e != nil && e.drain
}

// drain tells the sessions of a worker to leave. It reports whether there is any.
func (d *directory) drain(t work.Tenant, worker string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := false
	for _, e := range d.sessions {
		if e.tenant == t && e.worker == worker {
			e.drain, found = true, true
		}
	}
	return found
}

func (d *directory) list(t work.Tenant) []api.WorkerSeen {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []api.WorkerSeen{}
	for _, e := range d.sessions {
		if e.tenant == t && d.now().Sub(e.last) <= forgetAfter {
			out = append(out, api.WorkerSeen{
				Worker: e.worker, Version: e.said.Version, Slots: e.said.Slots, Offer: e.said.Offer, Sandbox: e.said.Sandbox,
				LastSeen: e.last.String(), Draining: e.drain,
			})
		}
	}
	slices.SortFunc(out, func(a, b api.WorkerSeen) int {
		return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(b.LastSeen, a.LastSeen))
	})
	return out
}

func (s *service) list(w http.ResponseWriter, _ *http.Request, c *httpapi.Call) error {
	return httpapi.Reply(w, http.StatusOK, api.WorkerList{Workers: s.seen.list(c.Tenant)})
}

func (s *service) drain(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	if !s.seen.drain(c.Tenant, r.PathValue("worker")) {
		return fault.New(fault.NotFound, "there is no worker %s", r.PathValue("worker"))
	}
	s.hall.ring()
	return s.list(w, r, c)
}
