package evidence

import (
	"bytes"
	"encoding/json"
	"iter"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

// Record is everything that is kept of one ended run.
type Record struct {
	Run     work.Run
	Plan    []byte // canonical JSON, the bytes that the plan hash is of
	Events  []work.Event
	Log     iter.Seq2[work.LogLine, error] // in order of the run, redacted; nil for none
	Request []byte                         // the signed submission as it came; nil when the run was not signed
	Seal    Seal
	Trust   keyring.Trust // as it was at the end; a verifier uses its own
	Outputs Outputs
}

// Seal is the run's place in its tenant's log.
type Seal struct {
	Position   ledger.Position
	Checkpoint []byte // a signed note over a log that holds the leaf
}

// Outputs says which bytes of artifacts go into the bundle. All of them are named by digest in any case.
type Outputs struct {
	Limit int64 // bytes in total, taken in order of digest as long as they fit; 0 for none
	Fetch func(work.Digest) ([]byte, error)
}

// Leaf returns what the log keeps of an ended run.
func Leaf(run work.Run) ledger.Leaf {
	return ledger.Leaf{
		Tenant: run.Tenant, Run: run.ID, PlanHash: run.PlanHash, State: run.State, Events: run.Seq, Head: run.Head, Ended: run.Ended,
	}
}

// history is a record that has been read and found to hold together.
type history struct {
	record    *Record
	plan      work.Plan
	kinds     map[work.StepID]work.StepKind
	leaf      []byte
	timeline  []byte
	egress    []byte
	submitted work.SubmittedData
	ended     work.EndedData
	times     struct{ submitted, started, ended work.Time }
	steps     []*stepRecord // in order of their first event
	byID      map[work.StepID]*stepRecord
	approvals []approvalRecord
	policies  []policyRecord
	files     map[string][]byte // of decisions, by path
}

// read verifies a record and takes it apart. Error: fault.Unverified when it contradicts itself, fault.Conflict when the
// run has not ended.
func read(r *Record) (*history, error) {
	h := &history{record: r, kinds: map[work.StepID]work.StepKind{}, byID: map[work.StepID]*stepRecord{}, files: map[string][]byte{}}
	if !r.Run.State.Terminal() {
		return nil, fault.New(fault.Conflict, "run %s has not ended: there is nothing to attest yet", r.Run.ID)
	}
	if got := canonical.Digest(r.Plan); got != r.Run.PlanHash {
		return nil, fault.New(fault.Unverified, "the stored plan of run %s hashes to %s, not %s", r.Run.ID, got.Short(), r.Run.PlanHash.Short())
	}
	if err := json.Unmarshal(r.Plan, &h.plan); err != nil {
		return nil, fault.New(fault.Unverified, "the stored plan of run %s is damaged: %s", r.Run.ID, err)
	}
	for _, s := range h.plan.Steps {
		h.kinds[s.ID] = s.Kind
	}
	if err := h.follow(); err != nil {
		return nil, err
	}
	return h, h.sealed()
}

// follow checks the chain and takes in every event.
func (h *history) follow() error {
	r := h.record
	var chain ledger.Chain
	var line []byte
	for i := range r.Events {
		e := r.Events[i]
		if err := chain.Check(&e); err != nil {
			return err
		}
		var err error
		if line, err = ledger.Encode(line[:0], &e); err != nil {
			return err
		}
		h.timeline = append(append(h.timeline, line...), '\n')
		// Read the line again: the data in it is canonical, whatever its spelling in the store.
		var plain work.Event
		if err := json.Unmarshal(line, &plain); err != nil {
			return fault.Wrap(fault.Internal, err, "event %d", e.Seq)
		}
		if err := h.take(&plain); err != nil {
			return fault.Wrap(fault.Unverified, err, "event %d (%s) of run %s", e.Seq, e.Type, r.Run.ID)
		}
	}
	switch {
	case chain.Head() != r.Run.Head || chain.Len() != r.Run.Seq:
		return fault.New(fault.Unverified, "run %s has %d events up to %s, its row says %d up to %s",
			r.Run.ID, chain.Len(), chain.Head().Short(), r.Run.Seq, r.Run.Head.Short())
	case len(r.Events) == 0 || r.Events[0].Tenant != r.Run.Tenant || r.Events[0].Run != r.Run.ID:
		return fault.New(fault.Unverified, "the events are not those of run %s of tenant %s", r.Run.ID, r.Run.Tenant)
	case h.times.submitted == 0 || h.times.ended == 0:
		return fault.New(fault.Unverified, "the history of run %s does not reach from submission to end", r.Run.ID)
	case h.submitted.PlanHash != r.Run.PlanHash || h.ended.State != r.Run.State || h.times.ended != r.Run.Ended:
		return fault.New(fault.Unverified, "the row of run %s says something else than its history", r.Run.ID)
	default:
		return nil
	}
}

// sealed checks the run's place in the log.
func (h *history) sealed() error {
	r := h.record
	var err error
	if h.leaf, err = Leaf(r.Run).Encode(); err != nil {
		return err
	}
	p := r.Seal.Position
	if p.Origin != ledger.Origin(r.Run.Tenant) || !bytes.HasPrefix(r.Seal.Checkpoint, []byte(p.Origin+"\n")) {
		return fault.New(fault.Unverified, "run %s of tenant %s is sealed in the log %q", r.Run.ID, r.Run.Tenant, p.Origin)
	}
	if p.Index < 0 || p.Index >= p.Size {
		return fault.New(fault.Unverified, "the log %s of %d leaves has no leaf %d", p.Origin, p.Size, p.Index)
	}
	return nil
}
