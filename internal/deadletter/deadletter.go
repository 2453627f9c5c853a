// Package deadletter keeps what people say of steps that used up their attempts: notes, who looks after one, how it was dealt with; and
// has many of them run again.
//
// A dead letter is open until its run is retried, by whatever way, or somebody discards it with a reason. What people say is kept in a
// record beside it and goes with the run. Every change is in the audit stream.
package deadletter

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// State is how far a dead letter has been dealt with.
type State string

// The states.
const (
	Open         State = "open"
	Acknowledged State = "acknowledged" // somebody looks after it
	Redriven     State = "redriven"     // its run was retried
	Discarded    State = "discarded"    // with a reason, for good
)

// Note is what a person says.
type Note struct {
	By   string    `json:"by"`
	At   work.Time `json:"at"`
	Text string    `json:"text"`
}

// Case is a dead letter with what people have said of it.
type Case struct {
	store.DeadLetter
	Pack  string      `json:"pack"`
	State State       `json:"state"`
	By    *work.Actor `json:"by,omitempty"`    // who acknowledged, redrove or discarded it
	Again work.RunID  `json:"again,omitempty"` // the run that it was redriven as, where that is known
	Notes []Note      `json:"notes,omitempty"`
}

// file is the document of a record.
type file struct {
	State State       `json:"state,omitempty"`
	By    *work.Actor `json:"by,omitempty"`
	Again work.RunID  `json:"again,omitempty"`
	Notes []Note      `json:"notes,omitempty"`

	version int64
}

// Store is what dead letters are kept in.
type Store interface {
	store.Reader
	store.Records
	ResolveDeadLetter(ctx context.Context, tenant work.Tenant, run work.RunID, step work.StepID, by work.Actor) error
}

// Service answers what people ask of dead letters. It is safe for concurrent use, also on several servers.
type Service struct {
	Store Store
	Now   func() work.Time
}

// Query selects dead letters. Zero fields select all.
type Query struct {
	Pack   string
	Step   string // an id, perhaps with wildcards
	Code   work.ReasonCode
	Since  work.Time // dead since then
	Before work.Time
	Labels map[string]string // of the run, all of them
	State  State             // open or acknowledged
}

// Most is how many letters a list holds, and how many one query looks through.
const Most = 10_000

const (
	maxText  = 4096 // bytes of a note
	maxNotes = 200
	tries    = 10 // of a change that meets others
)

// List returns letters that nobody has dealt with, oldest first.
func (s *Service) List(ctx context.Context, tenant work.Tenant, q Query) ([]Case, error) {
	if q.State != "" && q.State != Open && q.State != Acknowledged {
		return nil, fault.New(fault.Invalid, "letters that wait are %s or %s, not %q", Open, Acknowledged, q.State)
	}
	if _, err := path.Match(bare(q.Step), ""); err != nil {
		return nil, fault.New(fault.Invalid, "%q is no pattern of steps", q.Step)
	}
	letters, err := s.Store.DeadLetters(ctx, tenant, Most)
	if err != nil {
		return nil, err
	}
	runs := map[work.RunID]*work.Run{}
	out := []Case{}
	for i := range letters {
		l := &letters[i]
		if !q.fits(l) {
			continue
		}
		run := runs[l.Run]
		if run == nil {
			found, err := s.Store.Run(ctx, tenant, string(l.Run))
			if fault.CodeOf(err) == fault.NotFound {
				continue // it is being deleted
			}
			if err != nil {
				return nil, err
			}
			run = &found
			runs[l.Run] = run
		}
		if q.Pack != "" && run.Pack.Name != q.Pack || !carries(run.Labels, q.Labels) {
			continue
		}
		c, err := s.open(ctx, run, l)
		if err != nil {
			return nil, err
		}
		if q.State == "" || c.State == q.State {
			out = append(out, c)
		}
	}
	return out, nil
}

// bare takes the brackets of a map item for what they are, and not for a class of characters.
func bare(pattern string) string { return strings.NewReplacer("[", `\[`, "]", `\]`).Replace(pattern) }

func (q *Query) fits(l *store.DeadLetter) bool {
	if q.Step != "" {
		if ok, err := path.Match(bare(q.Step), string(l.Step)); !ok || err != nil {
			return false
		}
	}
	return (q.Code == "" || l.Reason.Code == q.Code) && l.At >= q.Since && (q.Before == 0 || l.At < q.Before)
}

func carries(has, wants map[string]string) bool {
	for key, value := range wants {
		if got, ok := has[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// open is the case of a letter that nobody has dealt with.
func (s *Service) open(ctx context.Context, run *work.Run, l *store.DeadLetter) (Case, error) {
	f, err := s.file(ctx, run.Tenant, run.ID, l.Step)
	c := Case{DeadLetter: *l, Pack: run.Pack.Name, State: Open, Notes: f.Notes}
	if f.State == Acknowledged {
		c.State, c.By = f.State, f.By
	}
	return c, err
}

// Show returns the letters of a run, by step, also those that have been dealt with.
func (s *Service) Show(ctx context.Context, run work.Run) ([]Case, error) {
	waiting, err := s.waiting(ctx, run)
	if err != nil {
		return nil, err
	}
	out := []Case{}
	for after := work.StepID(""); ; {
		const page = 500
		rows, err := s.Store.Steps(ctx, run.Tenant, run.ID, after, page)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			row := &rows[i]
			if after = row.ID; row.State != work.Dead {
				continue
			}
			c := Case{Pack: run.Pack.Name, State: Open, DeadLetter: store.DeadLetter{
				Tenant: run.Tenant, Run: run.ID, RunName: run.Name, Step: row.ID, Attempt: row.Attempt, Reason: row.Reason, At: row.Ended,
			}}
			f, err := s.file(ctx, run.Tenant, run.ID, row.ID)
			if err != nil {
				return nil, err
			}
			if c.Notes = f.Notes; f.State != "" {
				c.State, c.By, c.Again = f.State, f.By, f.Again
			}
			if !waiting[row.ID] && c.State != Discarded {
				c.State = Redriven // its run was retried
			}
			out = append(out, c)
		}
		if len(rows) < page {
			break
		}
	}
	return out, nil
}

// waiting returns the dead steps of a run that nobody has dealt with.
func (s *Service) waiting(ctx context.Context, run work.Run) (map[work.StepID]bool, error) {
	letters, err := s.Store.DeadLetters(ctx, run.Tenant, 0)
	out := map[work.StepID]bool{}
	for i := range letters {
		if letters[i].Run == run.ID {
			out[letters[i].Step] = true
		}
	}
	return out, err
}

func id(run work.RunID, step work.StepID) string { return string(run) + "/" + string(step) }

func (s *Service) file(ctx context.Context, tenant work.Tenant, run work.RunID, step work.StepID) (f file, err error) {
	row, err := s.Store.Record(ctx, tenant, store.LetterKind, id(run, step))
	if fault.CodeOf(err) == fault.NotFound {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	err = fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &f), "what was said of step %s", step)
	f.version = row.Version
	return f, err
}

// change changes what is kept of some letters of a run together, with the audit entry of ctx.
func (s *Service) change(ctx context.Context, run work.Run, steps []work.StepID, apply func(*file) error) error {
	store.About(ctx, string(run.ID))
	for range tries {
		var changes []store.RecordChange
		for _, step := range steps {
			f, err := s.file(ctx, run.Tenant, run.ID, step)
			if err == nil {
				err = apply(&f)
			}
			if err != nil {
				return err
			}
			doc, err := json.Marshal(&f)
			if err != nil {
				return fault.Wrap(fault.Internal, err, "what is said of step %s", step)
			}
			changes = append(changes, store.RecordChange{Record: store.Record{
				Tenant: run.Tenant, Kind: store.LetterKind, ID: id(run.ID, step), Version: f.version, Doc: doc,
			}})
		}
		if err := s.Store.Change(ctx, changes...); fault.CodeOf(err) != fault.Conflict {
			return err
		}
	}
	return fault.New(fault.Unavailable, "the dead letters of run %s change all the time", run.Name)
}

// of returns the steps of the letters of a run, or the one that is named if it is one of them, in a state.
func (s *Service) of(ctx context.Context, run work.Run, step work.StepID, states ...State) ([]work.StepID, error) {
	cases, err := s.Show(ctx, run)
	if err != nil {
		return nil, err
	}
	var out []work.StepID
	for i := range cases {
		if c := &cases[i]; (step == "" || c.Step == step) && (len(states) == 0 || slices.Contains(states, c.State)) {
			out = append(out, c.Step)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case len(cases) == 0:
		return nil, fault.New(fault.NotFound, "no step of run %s has used up its attempts", run.Name).WithHint("orrery deadletter list")
	case step != "" && !slices.ContainsFunc(cases, func(c Case) bool { return c.Step == step }):
		return nil, fault.New(fault.NotFound, "step %s of run %s has not used up its attempts", step, run.Name).WithHint("orrery deadletter show %s", run.Name)
	default:
		return nil, fault.New(fault.Conflict, "the dead letters of run %s have been dealt with", run.Name).WithHint("orrery deadletter show %s", run.Name)
	}
}

// Note adds what a person says of the letters of a run, or of the one of a step. Errors: fault.Invalid, fault.NotFound, fault.Exhausted.
func (s *Service) Note(ctx context.Context, run work.Run, step work.StepID, by, text string) error {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxText {
		return fault.New(fault.Invalid, "a note has 1 to %d bytes, not %d", maxText, len(text))
	}
	steps, err := s.of(ctx, run, step)
	if err != nil {
		return err
	}
	if a := store.AuditOf(ctx); a != nil {
		a.Reason = text
	}
	note := Note{By: by, At: s.Now(), Text: text}
	return s.change(ctx, run, steps, func(f *file) error {
		if len(f.Notes) == maxNotes {
			return fault.New(fault.Exhausted, "a dead letter has at most %d notes", maxNotes)
		}
		f.Notes = append(f.Notes, note)
		return nil
	})
}

// Acknowledge says that somebody looks after the open letters of a run, or the one of a step. Errors: fault.NotFound, fault.Conflict for
// those that were dealt with.
func (s *Service) Acknowledge(ctx context.Context, run work.Run, step work.StepID, by work.Actor) error {
	steps, err := s.of(ctx, run, step, Open, Acknowledged)
	if err != nil {
		return err
	}
	by.At = s.Now()
	return s.change(ctx, run, steps, func(f *file) error {
		f.State, f.By = Acknowledged, &by
		return nil
	})
}

// Discard deals with the letters of a run, or the one of a step, for good: nobody needs them. Errors: fault.Invalid without a reason,
// fault.NotFound, fault.Conflict for those that were dealt with.
func (s *Service) Discard(ctx context.Context, run work.Run, step work.StepID, by work.Actor) error {
	if by.Reason == "" {
		return fault.New(fault.Invalid, "whoever discards a dead letter says why").WithHint(`add a reason: orrery deadletter discard %s --reason "…"`, run.Name)
	}
	steps, err := s.of(ctx, run, step, Open, Acknowledged)
	if fault.CodeOf(err) == fault.Conflict { // what a process began that is gone
		if half, again := s.of(ctx, run, step, Discarded); again == nil {
			return s.resolve(ctx, run, half, by)
		}
	}
	if err != nil {
		return err
	}
	by.At = s.Now()
	err = s.change(ctx, run, steps, func(f *file) error {
		f.State, f.By = Discarded, &by
		return nil
	})
	if err != nil {
		return err
	}
	return s.resolve(ctx, run, steps, by)
}

func (s *Service) resolve(ctx context.Context, run work.Run, steps []work.StepID, by work.Actor) error {
	for _, step := range steps {
		if err := s.Store.ResolveDeadLetter(ctx, run.Tenant, run.ID, step, by); err != nil {
			return err
		}
	}
	return nil
}
