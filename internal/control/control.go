// Package control answers people: it submits runs, takes decisions, cancels, pauses and retries, and says why something waits.
//
// It checks what a person brings (a plan, a signature, a decision) before the store sees it, and signs what people ask for
// with their own keys. It decides nothing that the engine decides.
package control

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"io"
	"io/fs"

	"github.com/google/uuid"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Blobs is where the files of packs go.
type Blobs interface {
	Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error)
	Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error)
}

// Store is what people's questions and wishes go to: a store, or a server that has one.
type Store interface {
	store.Runs
	store.Reader
}

// Service answers people. It is safe for concurrent use.
type Service struct {
	Store  Store
	Blobs  Blobs
	Flows  Flows                         // nil where somebody else explains what waits
	Nonces store.Records                 // remembers what decisions have used up; nil where somebody else does
	Trust  func() (keyring.Trust, error) // the trust root of the moment
	Now    func() work.Time

	// Admit returns nil when a pack may run for somebody; nil for a function that always does.
	Admit func(ctx context.Context, tenant work.Tenant, pack work.PackRef, submitter string) error
}

// Plan turns a pack with its inputs into a plan. Errors: manifest.Problems with places in the manifest.
func Plan(p *pack.Pack, inputs map[string]plan.InputValue) (*plan.Built, error) {
	return plan.Build(p.Source(), inputs)
}

// Lint checks a pack without its inputs.
func Lint(p *pack.Pack) error {
	return plan.Check(p.Source())
}

// Submission is what somebody asks to have run.
type Submission struct {
	Tenant   work.Tenant
	Built    *plan.Built
	Files    fs.FS // where the files of the plan are, nil when their bytes are known already
	By       keyring.Signer
	Note     string
	Labels   map[string]string
	RunToken string
	Project  string
	At       work.Time // not before, 0 for at once
	RetryOf  work.RunID
	Carried  []work.Carried
	Trace    work.Trace
}

// Request signs what somebody asks to have run. It names the run.
func Request(ctx context.Context, sub Submission, now work.Time) (dsse.Envelope, error) {
	asked, err := ask(&sub, now)
	if err != nil {
		return dsse.Envelope{}, err
	}
	return evidence.SignSubmission(ctx, asked, sub.By)
}

// ask is what somebody signs to have something run, with a new id for it.
func ask(sub *Submission, now work.Time) (asked evidence.Submission, err error) {
	p := sub.Built.Plan
	asked = evidence.Submission{
		Tenant: sub.Tenant, RunToken: sub.RunToken, Pack: p.Pack, PlanHash: sub.Built.Hash, Nonce: rand.Text(), IssuedAt: now, Note: sub.Note,
	}
	if asked.InputsDigest, err = evidence.InputsDigest(p.Inputs); err != nil {
		return asked, err
	}
	asked.Run, err = newRunID()
	return asked, err
}

func (s *Service) admit(ctx context.Context, tenant work.Tenant, pack work.PackRef, submitter string) error {
	if s.Admit == nil {
		return nil
	}
	return s.Admit(ctx, tenant, pack, submitter)
}

// keepFiles sees that everything a new run will name is there, and will be when the run is created: whoever asks for a blob keeps it from
// being collected meanwhile.
func (s *Service) keepFiles(ctx context.Context, sub Submission) error {
	for i := range sub.Carried {
		for _, a := range sub.Carried[i].Artifacts {
			known, err := s.Blobs.Has(ctx, sub.Tenant, a.Digest)
			if err != nil {
				return err
			}
			if !known {
				return fault.New(fault.Conflict, "%s, an output of step %s of the earlier run, is no longer there", a.Path, sub.Carried[i].Step).
					WithHint("let the step run again: --from %s", sub.Carried[i].Step)
			}
		}
	}
	for _, f := range sub.Built.Plan.Files {
		known, err := s.Blobs.Has(ctx, sub.Tenant, f.Digest)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if sub.Files == nil {
			return fault.New(fault.Conflict, "%s, a file of the pack, is no longer there", f.Path).WithHint("submit the pack again")
		}
		r, err := sub.Files.Open(f.Path)
		if err != nil {
			return fault.Wrap(fault.Internal, err, "pack file %s", f.Path)
		}
		got, _, err := s.Blobs.Put(ctx, sub.Tenant, r)
		r.Close()
		if err != nil {
			return err
		}
		if got != f.Digest {
			return fault.New(fault.Conflict, "%s changed while the pack was read", f.Path).WithHint("run the command again")
		}
	}
	return nil
}

// concurrencyKey evaluates the key of the run over its inputs.
func concurrencyKey(p *work.Plan) (string, error) {
	if p.Concurrency == nil {
		return "", nil
	}
	t, err := expression.CompileTemplate(p.Concurrency.Key)
	if err != nil {
		return "", err
	}
	inputs, err := engine.InputValues(p)
	if err != nil {
		return "", err
	}
	return t.String(expression.Scope{Inputs: inputs})
}

// Answer is a decision that somebody makes here, with their own key.
type Answer struct {
	Tenant   work.Tenant
	Run      work.Run
	Gate     work.StepID
	PlanHash work.Digest // what the person looked at; "" means the run's
	Decision string      // approved or rejected
	Reason   string
	Ticket   string
	By       keyring.Signer
}

// Sign makes the signed statement of a decision.
func (s *Service) Sign(ctx context.Context, a Answer) (dsse.Envelope, error) {
	if a.PlanHash == "" {
		a.PlanHash = a.Run.PlanHash
	}
	return evidence.SignApproval(ctx, evidence.Answer{
		Tenant: a.Tenant, Run: a.Run.ID, Gate: a.Gate, PlanHash: a.PlanHash, Decision: a.Decision, Reason: a.Reason,
		Ticket: a.Ticket, DecidedAt: s.Now(), Nonce: rand.Text(),
	}, a.By)
}

// Decide verifies a signed decision and gives it to the run that it names. Errors: fault.Untrusted, fault.Unverified, and
// those of the gate.
func (s *Service) Decide(ctx context.Context, tenant work.Tenant, envelope dsse.Envelope) (work.RunID, error) {
	trust, err := s.Trust()
	if err != nil {
		return "", err
	}
	decision, answer, err := evidence.Approval(envelope, trust, s.Now())
	if err != nil {
		return "", err
	}
	if answer.Tenant != tenant {
		return "", fault.New(fault.NotFound, "the decision is for another tenant")
	}
	giveBack, err := s.useUp(tenant, decision.Key, answer.Nonce, envelope)
	if err != nil {
		return "", err
	}
	err = s.Store.Decide(ctx, []store.DecideCommand{{Tenant: tenant, Run: answer.Run, Decision: decision}})[0]
	switch fault.CodeOf(err) {
	case fault.PlanMismatch, fault.Denied, fault.NotFound, fault.Invalid, fault.Conflict: // it was refused, and not only its answer lost
		giveBack()
	}
	return answer.Run, err
}

// Control cancels, pauses or resumes a run.
func (s *Service) Control(ctx context.Context, tenant work.Tenant, run work.RunID, verb string, actor work.Actor) error {
	return s.Store.Control(ctx, []store.ControlCommand{{Tenant: tenant, Run: run, Verb: verb, Actor: actor}})[0]
}

var runAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

func newRunID() (work.RunID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "no randomness for a run id")
	}
	return work.RunID("run_" + runAlphabet.EncodeToString(id[:])), nil
}

// carry puts a run into the trace of whoever asks for it. Without one a trace begins with the run's own span.
func carry(run *work.Run, t work.Trace) {
	if _, ok := span.Parse(t.Parent); !ok {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails, by its documentation
		t.Parent, t.State = span.Context{Trace: hex.EncodeToString(id[:]), Span: span.RunID(run.Tenant, run.ID), Sampled: true}.String(), ""
	}
	run.TraceParent, run.TraceState, run.Baggage = t.Parent, span.State(t.State), span.Baggage(t.Baggage)
}

// TraceOf is the trace that a run goes on in when another carries it on: its own. Baggage of the new request counts.
func TraceOf(run *work.Run, asked work.Trace) work.Trace {
	if asked.Baggage == "" {
		asked.Baggage = run.Baggage
	}
	return work.Trace{Parent: run.TraceParent, State: run.TraceState, Baggage: asked.Baggage}
}
