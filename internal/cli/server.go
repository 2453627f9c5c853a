package cli

import (
	"context"
	"io"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// openServer opens a server as a place of runs.
func (c *cli) openServer(s *client.Client) (*place, error) {
	o, err := c.folderOptions(true)
	if err != nil {
		return nil, err
	}
	at := client.Store{Client: s}
	h := &serverHome{
		Client: s, keys: keyring.Open(o.Dir), person: c.person(), mine: c.identity != "",
		control: &control.Service{Store: at, Trust: func() (keyring.Trust, error) { return s.Trust(context.Background()) }, Now: app.Now},
	}
	follow := func(ctx context.Context, run *work.Run, event, line int64) (store.History, time.Duration, error) {
		t, err := at.Tail(ctx, run.ID, event, line, c.say)
		return t, time.Second, err
	}
	return &place{home: h, Tenant: s.Tenant, Store: at, Control: h.control, beat: time.Second, tail: follow}, nil
}

// serverHome is a server. It works on runs by itself, and signs for an account that has no key of its own.
type serverHome struct {
	*client.Client
	control *control.Service
	keys    *keyring.Folder // of this machine
	person  string
	mine    bool // the person was named: nothing but that key will do
}

// key returns the key to sign with here: one that the server trusts, nil when the server is to sign for the account.
func (h *serverHome) key(ctx context.Context, u keyring.Usage) (keyring.Signer, error) {
	key, err := h.keys.Load(h.person, u, app.Now())
	if fault.CodeOf(err) == fault.NotFound {
		if !h.mine {
			return nil, nil
		}
		return nil, fault.New(fault.NotFound, "%w", err).WithHint("orrery keys generate %s, then orrery login --register-key %[1]s", h.person)
	}
	if err != nil {
		return nil, err
	}
	trust, err := h.Trust(ctx)
	if err != nil {
		return nil, err
	}
	if _, known := trust.Find(key.KeyID()); known {
		return key, nil
	}
	if h.mine {
		return nil, fault.New(fault.Untrusted, "the server does not trust the key of %s", h.person).WithHint("orrery login --register-key %s", h.person)
	}
	return nil, nil
}

// signed makes the signed request for a plan, nil when the server is to sign.
func (h *serverHome) signed(ctx context.Context, sub control.Submission) ([]byte, error) {
	key, err := h.key(ctx, keyring.Submit)
	if err != nil || key == nil {
		return nil, err
	}
	sub.By, sub.Tenant = key, h.Tenant
	envelope, err := control.Request(ctx, sub, app.Now())
	return envelope.Encode(), err
}

// Submit implements home. The plan was made here, too: the server refuses when it comes to another one.
func (h *serverHome) Submit(ctx context.Context, p *pack.Pack, sub control.Submission) (work.Run, error) {
	request, err := h.signed(ctx, sub)
	if err != nil {
		return work.Run{}, err
	}
	digest, err := h.Upload(ctx, p, sub.Built.Plan.Pack.Digest)
	if err != nil {
		return work.Run{}, err
	}
	inputs, err := client.Inputs(sub.Built.Plan)
	if err != nil {
		return work.Run{}, err
	}
	made, err := h.Client.Submit(ctx, api.SubmitRequest{
		PackSource: api.PackSource{Pack: digest}, Inputs: inputs, PlanHash: string(sub.Built.Hash), Note: sub.Note, RunToken: sub.RunToken,
		Labels: sub.Labels, Project: sub.Project, At: sub.At.String(), Request: request,
	})
	if err != nil {
		return work.Run{}, err
	}
	return h.control.Store.Run(ctx, h.Tenant, made.RunID)
}

// Rerun implements home.
func (h *serverHome) Rerun(ctx context.Context, run work.Run, sub control.Submission) (work.Run, error) {
	made, err := h.Again(ctx, run.ID, "rerun", api.RetryRequest{Note: sub.Note, RunToken: sub.RunToken, Labels: sub.Labels})
	if err != nil {
		return work.Run{}, err
	}
	return h.control.Store.Run(ctx, h.Tenant, made.RunID)
}

// Retry implements home.
func (h *serverHome) Retry(ctx context.Context, run work.Run, p *pack.Pack, sub control.Submission, selectors []string) (work.Run, control.Carry, error) {
	q := api.RetryRequest{From: selectors, Note: sub.Note, RunToken: sub.RunToken, Labels: sub.Labels}
	var carry control.Carry
	var err error
	if p != nil {
		digest, err := h.Upload(ctx, p, sub.Built.Plan.Pack.Digest)
		if err != nil {
			return work.Run{}, carry, err
		}
		q.Source = &api.PackSource{Pack: digest}
		if q.Inputs, err = client.Inputs(sub.Built.Plan); err != nil {
			return work.Run{}, carry, err
		}
	} else if sub.Built, err = h.control.Stored(ctx, run); err != nil {
		return work.Run{}, carry, err
	}
	if q.Request, err = h.signed(ctx, sub); err != nil {
		return work.Run{}, carry, err
	}
	made, err := h.Again(ctx, run.ID, "retry", q)
	if err != nil {
		return work.Run{}, carry, err
	}
	for _, id := range made.Carried {
		carry.Carried = append(carry.Carried, work.Carried{Step: work.StepID(id)})
	}
	for _, id := range made.Again {
		carry.Again = append(carry.Again, work.StepID(id))
	}
	again, err := h.control.Store.Run(ctx, h.Tenant, made.RunID)
	return again, carry, err
}

// Answer implements home: with the person's own key, or by a token that counts for this one decision.
func (h *serverHome) Answer(ctx context.Context, a control.Answer) (string, error) {
	if a.PlanHash == "" {
		a.PlanHash = a.Run.PlanHash
	}
	key, err := h.key(ctx, keyring.Approve)
	if err != nil {
		return "", err
	}
	if key != nil {
		a.By = key
		var envelope dsse.Envelope
		if envelope, err = h.control.Sign(ctx, a); err != nil {
			return "", err
		}
		return key.Name(), h.DecideSigned(ctx, a.Run.ID, envelope)
	}
	me, err := h.Me(ctx)
	if err != nil {
		return "", err
	}
	return me.Subject, h.Approve(ctx, &a.Run, api.ApproveRequest{
		Gate: string(a.Gate), Decision: a.Decision, PlanHash: string(a.PlanHash), Reason: a.Reason, Ticket: a.Ticket,
	})
}

// Start implements home: a server works by itself.
func (h *serverHome) Start(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

// Settle implements home: a server seals by itself. That somebody has seen the end is noted for whoever may run packs.
func (h *serverHome) Settle(ctx context.Context, run work.Run) error {
	err := h.control.Store.Acknowledge(ctx, run.Tenant, run.ID)
	if fault.CodeOf(err) == fault.Denied {
		return nil
	}
	return err
}

// Export implements home.
func (h *serverHome) Export(ctx context.Context, run work.Run, w io.Writer) error {
	return h.Evidence(ctx, run.ID, w)
}
