package cli

import (
	"context"
	"io"
	"time"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// place is where runs live: a data folder on this machine, or a server. Questions are the same for both; what is done differs, and that
// is its home.
type place struct {
	home
	Tenant  work.Tenant
	Store   ledger
	Control *control.Service
	beat    time.Duration // how often a follower draws
	tail    tail
	folder  *app.Folder // nil at a server
}

// tail returns what happens to a run behind an event and a line, and how often a follower looks at it beside its hints.
type tail func(ctx context.Context, run *work.Run, event, line int64) (store.History, time.Duration, error)

// ledger answers questions about runs.
type ledger interface {
	store.Reader
	store.History
}

// home does what commands ask for, where the runs are.
type home interface {
	// Submit makes a run of a planned pack; Rerun and Retry make one of another run. The person whose key signs is the home's affair.
	Submit(ctx context.Context, p *pack.Pack, sub control.Submission) (work.Run, error)
	Rerun(ctx context.Context, run work.Run, sub control.Submission) (work.Run, error)
	Retry(ctx context.Context, run work.Run, p *pack.Pack, sub control.Submission, selectors []string) (work.Run, control.Carry, error)

	// Answer decides at a gate and returns in whose name.
	Answer(ctx context.Context, a control.Answer) (by string, err error)

	// Start works on runs until ctx ends, where they would otherwise stand still, and returns how to wait for the end of that.
	Start(ctx context.Context) (wait func() error, err error)

	// Settle does what is left to do for a run that has ended and been seen.
	Settle(ctx context.Context, run work.Run) error

	// Export writes the evidence of an ended run.
	Export(ctx context.Context, run work.Run, w io.Writer) error

	io.Closer
}

// open opens the place that the flags, the environment or the context name.
func (c *cli) open(ctx context.Context, readOnly bool) (*place, error) {
	server, err := c.server()
	if err != nil {
		return nil, err
	}
	if server != nil {
		return c.openServer(server)
	}
	f, err := c.openFolder(ctx, readOnly)
	if err != nil {
		return nil, err
	}
	const beat = 120 * time.Millisecond
	look := 2 * time.Second // every commit gives a hint
	if f.ReadOnly {
		look = beat // those of another process give none
	}
	return &place{
		home: &localHome{Folder: f, person: c.person()}, Tenant: f.Tenant, Store: f.Store, Control: f.Control, beat: beat, folder: f,
		tail: func(context.Context, *work.Run, int64, int64) (store.History, time.Duration, error) {
			return f.Store, look, nil
		},
	}, nil
}

// either does something at the server that is meant, or in the data folder where none is.
func (c *cli) either(ctx context.Context, readOnly bool, there func(*client.Client) error, here func(*app.Folder) error) error {
	s, err := c.server()
	if err != nil {
		return err
	}
	if s != nil {
		defer s.Close()
		return there(s)
	}
	f, err := c.openFolder(ctx, readOnly)
	if err != nil {
		return err
	}
	defer f.Close()
	return here(f)
}

func (c *cli) openFolder(ctx context.Context, readOnly bool) (*app.Folder, error) {
	o, err := c.folderOptions(readOnly)
	if err != nil {
		return nil, err
	}
	if !readOnly { // spans go where the environment says
		if o.Telemetry, err = app.NewTelemetry(ctx, app.TelemetryOptions{Version: Version, Log: o.Log}); err != nil {
			return nil, err
		}
	}
	return app.Open(ctx, o)
}

// localHome is a data folder that this process holds, or looks at.
type localHome struct {
	*app.Folder
	person string
}

func (h *localHome) sign(sub *control.Submission) error {
	key, err := h.Person(h.person, keyring.Submit)
	sub.By = key
	return err
}

// Submit implements home.
func (h *localHome) Submit(ctx context.Context, p *pack.Pack, sub control.Submission) (work.Run, error) {
	if err := h.sign(&sub); err != nil {
		return work.Run{}, err
	}
	sub.Tenant, sub.Files = h.Tenant, p.FS
	return h.Control.Submit(ctx, sub)
}

// Rerun implements home.
func (h *localHome) Rerun(ctx context.Context, run work.Run, sub control.Submission) (work.Run, error) {
	if err := h.sign(&sub); err != nil {
		return work.Run{}, err
	}
	return h.Control.Rerun(ctx, run, sub)
}

// Retry implements home.
func (h *localHome) Retry(ctx context.Context, run work.Run, p *pack.Pack, sub control.Submission, selectors []string) (work.Run, control.Carry, error) {
	if err := h.sign(&sub); err != nil {
		return work.Run{}, control.Carry{}, err
	}
	if p != nil {
		sub.Files = p.FS
	}
	return h.Control.Retry(ctx, run, sub, selectors)
}

// Answer implements home.
func (h *localHome) Answer(ctx context.Context, a control.Answer) (string, error) {
	key, err := h.Person(h.person, keyring.Approve)
	if err != nil {
		return "", err
	}
	a.By = key
	envelope, err := h.Control.Sign(ctx, a)
	if err != nil {
		return "", err
	}
	_, err = h.Control.Decide(ctx, h.Tenant, envelope)
	return key.Name(), err
}

// Settle implements home.
func (h *localHome) Settle(ctx context.Context, run work.Run) error {
	if _, err := h.Attest.Seal(ctx, h.Tenant); err != nil {
		return err
	}
	return h.Store.Acknowledge(ctx, run.Tenant, run.ID)
}

// Export implements home. What is made is kept in the folder unless another process holds that.
func (h *localHome) Export(ctx context.Context, run work.Run, w io.Writer) error {
	if h.Attest == nil {
		return fault.New(fault.Locked, "the data folder can only be looked at, and its key to sign evidence with cannot be used").
			WithHint("orrery keys list")
	}
	var keep attest.Keeper
	if !h.ReadOnly {
		keep = h.Blobs
	}
	return h.Folder.Attest.Export(ctx, run, keep, w)
}
