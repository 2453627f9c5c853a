package workerapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/wire"
	"orrery.example/orrery/internal/work"
)

// exchange reports and claims; claim and report are its halves for workers that keep them apart.
func (s *service) exchange(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	return s.trade(w, r, c, func(*api.WorkerExchange) error { return nil })
}

func (s *service) claim(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	return s.trade(w, r, c, func(in *api.WorkerExchange) error {
		if len(in.Reports) > 0 || in.Max < 1 {
			return fault.New(fault.Invalid, "a claim asks for at least one attempt and reports none").WithHint("POST /api/v1/worker/exchange does both")
		}
		return nil
	})
}

func (s *service) report(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	return s.trade(w, r, c, func(in *api.WorkerExchange) error {
		if in.Max != 0 {
			return fault.New(fault.Invalid, "a report asks for nothing").WithHint("POST /api/v1/worker/exchange does both")
		}
		return nil
	})
}

func (s *service) trade(w http.ResponseWriter, r *http.Request, c *httpapi.Call, check func(*api.WorkerExchange) error) error {
	var in api.WorkerExchange
	if err := read(r, &in); err != nil {
		return err
	}
	if err := check(&in); err != nil {
		return err
	}
	t, id, err := caller(c, in.Session)
	if err != nil {
		return err
	}
	if err := checkOffer(&in.Offer); err != nil {
		return err
	}
	if len(in.Worker) > maxName {
		return fault.New(fault.Invalid, "a worker's name has at most %d bytes", maxName)
	}
	if len(in.Reports) > maxBatch || len(in.Holding) > maxBatch || in.Max < 0 {
		return fault.New(fault.Invalid, "a request has at most %d entries", maxBatch)
	}
	req := store.ExchangeRequest{
		Session: id, Tenant: t, Runners: in.Offer.Runners, Labels: in.Offer.Labels, MinTier: in.Offer.Tier, Max: min(in.Max, maxBatch),
		Resync: in.Resync, Holding: wire.FromLeases(t, in.Holding),
	}
	out := api.WorkerExchanged{Results: make([]api.WorkerResult, len(in.Reports))}
	signed := signatures{authority: s.Authority}
	at := make([]int, 0, len(in.Reports)) // which report a command of the request is
	for i := range in.Reports {
		cmd, err := wire.FromReport(name(c, in.Worker), &in.Reports[i])
		if err == nil && cmd.Report.Signed != nil {
			err = signed.check(r, c, t, &cmd)
		}
		if err != nil {
			out.Results[i] = wire.Result(err)
			continue
		}
		at, req.Reports = append(at, i), append(req.Reports, cmd)
	}
	reply, err := s.wait(w, r, &req, bounded(in.WaitMs))
	for i, e := range reply.Errs {
		out.Results[at[i]] = wire.Result(e)
	}
	if err != nil {
		return err
	}
	told := map[work.RunID]bool{}
	for i := range reply.Grants {
		if run := reply.Grants[i].Run; told[run] {
			reply.Grants[i].Request = nil
		} else {
			told[run] = true
		}
		g, err := wire.Grant(&reply.Grants[i])
		if err != nil {
			return err
		}
		out.Grants = append(out.Grants, g)
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

// bounded is how long a request may wait.
func bounded(ms int64) time.Duration {
	return min(max(0, time.Duration(min(ms, int64(time.Hour/time.Millisecond)))*time.Millisecond), maxWait)
}

// wait exchanges, and where nothing is to be had yet, again when there may be something.
func (s *service) wait(w http.ResponseWriter, r *http.Request, req *store.ExchangeRequest, d time.Duration) (store.ExchangeReply, error) {
	ctx := r.Context()
	reply, err := s.Store.Exchange(ctx, *req)
	if err != nil || len(reply.Grants) > 0 || len(req.Reports) > 0 || req.Max == 0 || d == 0 {
		return reply, err
	}
	req.Resync, req.Holding = false, nil
	linger(w, d+time.Minute)
	over := time.NewTimer(d)
	defer over.Stop()
	defer s.hall.enter()()
	place := s.hall.line(queueOf(req))
	defer func() { s.hall.done(place, len(reply.Grants) > 0) }()
	for {
		// Once after taking a place, so that what came in between is not missed; then whenever it is this request's turn.
		if reply, err = s.Store.Exchange(ctx, *req); err != nil || len(reply.Grants) > 0 {
			return reply, err
		}
		select {
		case <-place.turn:
		case <-over.C:
			return reply, nil
		case <-ctx.Done():
			return reply, nil // nobody would hear of a lease any more
		}
	}
}

// queueOf names everybody who would be granted the same.
func queueOf(req *store.ExchangeRequest) string {
	// Strings, numbers and a map of strings: marshalling them cannot fail, and the keys of a map are sorted.
	raw, _ := json.Marshal([]any{req.Tenant, req.Runners, req.Labels, req.MinTier})
	return string(raw)
}

func (s *service) ack(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var in api.WorkerAcks
	t, id, err := begin(r, c, &in, &in.Session)
	if err != nil {
		return err
	}
	if len(in.Leases) > maxBatch {
		return fault.New(fault.Invalid, "a request has at most %d entries", maxBatch)
	}
	leases := wire.FromLeases(t, in.Leases)
	for i := range leases {
		leases[i].Session = id
	}
	return s.answer(w, s.Store.Ack(r.Context(), leases))
}

func (s *service) logs(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var in api.WorkerLogs
	t, id, err := begin(r, c, &in, &in.Session)
	if err != nil {
		return err
	}
	if len(in.Batches) > maxBatch {
		return fault.New(fault.Invalid, "a request has at most %d entries", maxBatch)
	}
	return s.answer(w, s.append(r.Context(), t, id, in.Batches))
}

func (s *service) append(ctx context.Context, t work.Tenant, session string, batches []api.WorkerOutput) []error {
	errs := make([]error, len(batches))
	var cmds []store.LinesCommand
	var at []int
	for i := range batches {
		cmd, err := wire.FromLines(t, &batches[i])
		if err != nil {
			errs[i] = err
			continue
		}
		cmd.Session = session
		at, cmds = append(at, i), append(cmds, cmd)
	}
	if len(cmds) > 0 {
		for i, err := range s.Store.AppendLines(ctx, cmds) {
			errs[at[i]] = err
		}
	}
	return errs
}

func (s *service) answer(w http.ResponseWriter, errs []error) error {
	out := api.WorkerResults{Results: make([]api.WorkerResult, len(errs))}
	for i, err := range errs {
		out.Results[i] = wire.Result(err)
	}
	return httpapi.Reply(w, http.StatusOK, out)
}
