package workerapi

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/wire"
	"orrery.example/orrery/internal/work"
)

// tenant is whose work a caller may take: the one it proved. Error: fault.TenantRequired.
func tenant(c *httpapi.Call) (work.Tenant, error) {
	if c.Tenant != "" {
		return c.Tenant, nil
	}
	if c.Principal.Tenant == "" {
		return "", fault.New(fault.TenantRequired, "the worker's identity names no tenant").WithHint("send the header %s", httpapi.TenantHeader)
	}
	return c.Principal.Tenant, nil
}

// session returns what a session is called in the store: nobody reaches that of another tenant or subject by naming it.
func session(c *httpapi.Call, t work.Tenant, id string) (string, error) {
	if len(id) < 8 || len(id) > 128 || strings.ContainsAny(id, "/ \t\r\n") {
		return "", fault.New(fault.Invalid, "a session is 8 to 128 random characters without spaces and slashes")
	}
	return string(t) + "/" + c.Principal.Subject + "/" + id, nil
}

// name is what a worker is called in the evidence: what it proved, and after it what it calls itself.
func name(c *httpapi.Call, own string) string {
	subject := c.Principal.Subject
	if own == "" || own == subject {
		return subject
	}
	return subject + "/" + strings.TrimPrefix(own, subject+"/")
}

const maxName = 128

// caller is what every message of the protocol begins with.
func caller(c *httpapi.Call, id string) (work.Tenant, string, error) {
	t, err := tenant(c)
	if err != nil {
		return "", "", err
	}
	s, err := session(c, t, id)
	return t, s, err
}

// begin decodes a message and says who sent it; session is where the message names its own.
func begin(r *http.Request, c *httpapi.Call, message any, session *string) (work.Tenant, string, error) {
	if err := read(r, message); err != nil {
		return "", "", err
	}
	return caller(c, *session)
}

// read decodes a body, which may be compressed.
func read(r *http.Request, v any) error {
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return fault.New(fault.Invalid, "the body is not compressed as it says: %v", err)
		}
		r.Body = io.NopCloser(http.MaxBytesReader(nil, io.NopCloser(z), maxBody))
	}
	return httpapi.Read(r, v)
}

// linger keeps the connection's deadlines out of the way of an answer that may come late.
func linger(w http.ResponseWriter, d time.Duration) {
	control := http.NewResponseController(w)
	// A connection without deadlines needs no longer ones.
	_ = control.SetReadDeadline(time.Now().Add(d))
	_ = control.SetWriteDeadline(time.Now().Add(d))
}

func checkOffer(o *api.WorkerOffer) error {
	if len(o.Runners) > 64 || len(o.Labels) > 64 {
		return fault.New(fault.Invalid, "a worker offers at most 64 runners and 64 labels")
	}
	if o.Tier < 0 || o.Tier > 3 {
		return fault.New(fault.Invalid, "tiers are 0 to 3")
	}
	return nil
}

func (s *service) register(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var in api.WorkerRegistration
	t, id, err := begin(r, c, &in, &in.Session)
	if err != nil {
		return err
	}
	if err := checkOffer(&in.Offer); err != nil {
		return err
	}
	if len(in.Worker) > maxName || in.Slots < 1 {
		return fault.New(fault.Invalid, "a worker has a name of at most %d bytes and at least one slot", maxName)
	}
	called := name(c, in.Worker)
	if err := s.Store.OpenSession(r.Context(), store.Session{
		ID: id, Worker: called, Tenant: t, Expires: s.expiry(),
		Offer: store.Offer{Runners: in.Offer.Runners, Labels: in.Offer.Labels, Tier: in.Offer.Tier},
	}); err != nil {
		return err
	}
	s.seen.register(t, called, id, &in)
	s.Log.Info("a worker registered", "tenant", t, "worker", called, "runners", in.Offer.Runners, "tier", in.Offer.Tier, "slots", in.Slots)
	return httpapi.Reply(w, http.StatusOK, api.WorkerWelcome{
		Worker: called, Tenant: string(t), SessionMs: sessionLength.Milliseconds(), HeartbeatMs: heartbeatEvery.Milliseconds(),
		MaxWaitMs: maxWait.Milliseconds(), MaxBatch: maxBatch, MaxBody: maxBody, Time: s.Now().String(),
	})
}

// expiry is by the clock of the server: those of workers may be anywhere.
func (s *service) expiry() work.Time { return s.Now().Add(sessionLength) }

func (s *service) heartbeat(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var in api.WorkerBeat
	t, id, err := begin(r, c, &in, &in.Session)
	if err != nil {
		return err
	}
	if len(in.Runs) > maxBatch {
		return fault.New(fault.Invalid, "a heartbeat names at most %d runs", maxBatch)
	}
	wait := bounded(in.WaitMs)
	linger(w, wait+time.Minute)
	orders, err := s.orders(r.Context(), t, id)
	if err == nil && wait > 0 && !orders.Drain && len(orders.Cancel) == 0 && s.await(r.Context(), t, id, in.Runs, wait) {
		orders, err = s.orders(r.Context(), t, id)
	}
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, orders)
}

func (s *service) orders(ctx context.Context, t work.Tenant, id string) (api.WorkerOrders, error) {
	orders, err := s.Store.Heartbeat(ctx, id, s.expiry())
	if err != nil {
		return api.WorkerOrders{}, err
	}
	s.seen.beat(id)
	return api.WorkerOrders{Cancel: wire.Leases(orders.Cancel), Drain: orders.Drain}, nil
}

// ordersEvery is how soon after another a heartbeat that waits looks again.
const ordersEvery = 250 * time.Millisecond

// await returns true as soon as there may be orders for the session, and false when the wait is over. It only reads: a heartbeat that
// wrote whenever somebody wrote would never rest.
func (s *service) await(ctx context.Context, t work.Tenant, id string, runs []string, wait time.Duration) bool {
	over := time.NewTimer(wait)
	defer over.Stop()
	defer s.hall.enter()()
	told := map[string]bool{} // runs that were stopping when the heartbeat came: it has their orders
	for first := true; ; first = false {
		changed := s.hall.changed()
		if s.leaving(ctx, t, id) {
			return true
		}
		for _, run := range runs {
			if told[run] {
				continue
			}
			row, err := s.Store.Run(ctx, t, run)
			if err != nil || !row.Stopping && row.Cancel == nil {
				continue
			}
			if !first {
				return true
			}
			told[run] = true
		}
		select {
		case <-changed:
		case <-over.C:
			return false
		case <-ctx.Done():
			return false
		}
		rest := time.NewTimer(ordersEvery)
		select {
		case <-rest.C:
		case <-over.C:
			rest.Stop()
			return false
		case <-ctx.Done():
			rest.Stop()
			return false
		}
	}
}
