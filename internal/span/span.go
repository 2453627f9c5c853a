package span

import (
	"encoding/json"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Names of spans.
const (
	NameRun     = "orchestrator.run"
	NameStep    = "orchestrator.step" // one attempt
	NameGate    = "orchestrator.gate" // from when it opened until it was decided or expired
	NameExecute = "orchestrator.execute"
)

// Span is something that took time. It carries ids, states, reason codes and figures, and no text that a step or a person wrote.
type Span struct {
	Context
	Parent     string // id of the span above, "" for none
	Name       string
	Start, End work.Time
	Failed     bool
	Attributes []Attribute
}

// Attribute says more about a span. Value is a string, an int64 or a bool.
type Attribute struct {
	Key   string
	Value any
}

// Metric is one figure of a run, under the name of the metric that it went into.
type Metric struct {
	Name   string
	At     work.Time
	Value  float64
	Labels map[string]string
}

// History turns the events of one run into its spans and figures.
type History struct {
	run    *work.Run
	root   Context
	open   map[work.StepID]begun // attempts and gates under way
	queued map[work.StepID]work.Time

	Span   func(Span)   // called for each span when it has ended; nil for none
	Metric func(Metric) // likewise for figures
}

type begun struct {
	at      work.Time
	attempt int
	worker  string
	gate    bool
}

// NewHistory begins with a run as it stands.
func NewHistory(run *work.Run) *History {
	h := &History{run: run, open: map[work.StepID]begun{}, queued: map[work.StepID]work.Time{}}
	h.root, _ = Parse(run.TraceParent)
	return h
}

// Add takes the next event. Errors: fault.Invalid for data that cannot be read.
func (h *History) Add(e *work.Event) error {
	switch e.Type {
	case work.StepQueued:
		h.queued[e.Step] = e.Time
	case work.StepClaimed:
		var d work.ClaimedData
		if err := read(e, &d); err != nil {
			return err
		}
		h.open[e.Step] = begun{at: e.Time, attempt: e.Attempt, worker: d.Worker}
		if since, ok := h.queued[e.Step]; ok {
			h.measure("orchestrator_queue_wait_seconds", e, seconds(e.Time-since))
		}
	case work.StepWaiting:
		h.open[e.Step] = begun{at: e.Time, gate: true}
	case work.StepReported:
		return h.reported(e)
	case work.StepRevoked:
		var d work.RevokedData
		if err := read(e, &d); err != nil {
			return err
		}
		h.attempt(e, "lost", string(d.Reason.Code), true)
	case work.StepRetrying:
		h.measure("orchestrator_step_retries_total", e, 1)
	case work.StepEnded:
		return h.gate(e)
	case work.RunEnded:
		return h.ended(e)
	}
	return nil
}

func read(e *work.Event, into any) error {
	if err := json.Unmarshal(e.Data, into); err != nil {
		return fault.New(fault.Invalid, "event %d (%s) cannot be read: %v", e.Seq, e.Type, err)
	}
	return nil
}

func seconds(t work.Time) float64 { return float64(t) / 1e6 }

func (h *History) measure(name string, e *work.Event, value float64, labels ...string) {
	if h.Metric == nil {
		return
	}
	m := Metric{Name: name, At: e.Time, Value: value, Labels: map[string]string{}}
	if e.Step != "" {
		m.Labels["stepId"] = string(e.Step)
	}
	for i := 0; i+1 < len(labels); i += 2 {
		m.Labels[labels[i]] = labels[i+1]
	}
	h.Metric(m)
}

func (h *History) reported(e *work.Event) error {
	var d work.ReportedData
	if err := read(e, &d); err != nil {
		return err
	}
	more := []Attribute{{"exitCode", int64(d.ExitCode)}}
	if d.Class != "" {
		more = append(more, Attribute{"class", d.Class})
	}
	if u := d.Usage; u != nil {
		more = append(more, Attribute{"cpuMs", u.CPUMs}, Attribute{"maxRssBytes", u.MaxRSSBytes})
		h.measure("orchestrator_step_cpu_seconds_total", e, float64(u.CPUMs)/1000)
		h.measure("orchestrator_step_memory_bytes", e, float64(u.MaxRSSBytes))
	}
	h.measure("orchestrator_step_duration_seconds", e, seconds(d.EndedAt-d.StartedAt), "status", string(d.State))
	if d.State != work.Succeeded {
		h.measure("orchestrator_failures_total", e, 1, "class", d.Class)
	}
	h.attempt(e, string(d.State), string(d.Reason.Code), d.State != work.Succeeded, more...)
	return nil
}

// attempt ends the span of an attempt.
func (h *History) attempt(e *work.Event, status, reason string, failed bool, more ...Attribute) {
	b, ok := h.open[e.Step]
	delete(h.open, e.Step)
	if !ok {
		return
	}
	h.emit(Span{
		Context: Context{Span: AttemptID(h.run.Tenant, h.run.ID, e.Step, b.attempt)}, Parent: RunID(h.run.Tenant, h.run.ID), Name: NameStep,
		Start: b.at, End: e.Time, Failed: failed,
		Attributes: append([]Attribute{
			{"stepId", string(e.Step)}, {"attempt", int64(b.attempt)}, {"worker", b.worker}, {"status", status}, {"reason", reason},
		}, more...),
	})
}

// gate ends the span of a gate; that of an attempt has ended with its report.
func (h *History) gate(e *work.Event) error {
	b, ok := h.open[e.Step]
	if !ok || !b.gate {
		return nil
	}
	delete(h.open, e.Step)
	var d work.EndedData
	if err := read(e, &d); err != nil {
		return err
	}
	h.emit(Span{
		Context: Context{Span: id("gate", string(h.run.Tenant), string(h.run.ID), string(e.Step))}, Parent: RunID(h.run.Tenant, h.run.ID),
		Name: NameGate, Start: b.at, End: e.Time, Failed: d.State != work.Succeeded,
		Attributes: []Attribute{{"stepId", string(e.Step)}, {"status", string(d.State)}, {"reason", string(d.Reason.Code)}},
	})
	return nil
}

func (h *History) ended(e *work.Event) error {
	var d work.EndedData
	if err := read(e, &d); err != nil {
		return err
	}
	started := h.run.Started
	if started == 0 {
		started = h.run.Created
	}
	h.measure("orchestrator_run_duration_seconds", e, seconds(e.Time-started), "status", string(d.State))
	own := RunID(h.run.Tenant, h.run.ID)
	parent := h.root.Span
	if parent == own {
		parent = "" // the trace began with the run
	}
	h.emit(Span{
		Context: Context{Span: own}, Parent: parent, Name: NameRun,
		Start: h.run.Created, End: e.Time, Failed: d.State != work.Succeeded,
		Attributes: []Attribute{
			{"dagVersion", h.run.Pack.Version}, {"planHash", string(h.run.PlanHash)}, {"status", string(d.State)}, {"reason", string(d.Reason.Code)},
		},
	})
	return nil
}

// emit fills in what all spans of the run have.
func (h *History) emit(s Span) {
	if h.Span == nil {
		return
	}
	s.Trace, s.Sampled = h.root.Trace, h.root.Sampled
	s.Attributes = append(Identity(h.run), s.Attributes...)
	h.Span(s)
}

// Identity is what every span and line of a log about a run is tagged with.
func Identity(run *work.Run) []Attribute {
	return []Attribute{{"tenant", string(run.Tenant)}, {"dagId", run.Pack.Name}, {"runId", string(run.ID)}}
}
