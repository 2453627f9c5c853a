package control

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Kinds of records in an export.
const (
	ExportLogs    = "log"
	ExportTraces  = "span"
	ExportMetrics = "metric"
)

// exported is one line of an export. What follows the first five fields depends on the kind.
type exported struct {
	Timestamp work.Time   `json:"timestamp"`
	DagID     string      `json:"dagId"`
	RunID     work.RunID  `json:"runId"`
	Tenant    work.Tenant `json:"tenant"`
	Kind      string      `json:"kind"`

	StepID work.StepID `json:"stepId,omitempty"`

	Sequence  int64  `json:"sequence,omitempty"`
	Level     string `json:"level,omitempty"`
	EventType string `json:"eventType,omitempty"`
	Attempt   int    `json:"attempt,omitempty"`
	Message   string `json:"message,omitempty"`

	Name       string            `json:"name,omitempty"`
	TraceID    string            `json:"traceId,omitempty"`
	SpanID     string            `json:"spanId,omitempty"`
	Parent     string            `json:"parentSpanId,omitempty"`
	End        work.Time         `json:"endTime,omitzero"`
	Failed     bool              `json:"failed,omitempty"`
	Attributes map[string]any    `json:"attributes,omitempty"`
	Value      *float64          `json:"value,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Export writes what a run told as lines of JSON: its output, its spans and its figures, ordered by time, pack and run, and where these are
// the same by kind and by the order in which it happened. Without kinds it writes all. It needs about as much memory as it writes.
func Export(ctx context.Context, h store.History, run *work.Run, kinds []string, w io.Writer) error {
	for _, k := range kinds {
		if k != ExportLogs && k != ExportTraces && k != ExportMetrics {
			return fault.New(fault.Invalid, "there is no kind %q of records", k).WithHint("kinds are log, span and metric")
		}
	}
	wanted := func(kind string) bool { return len(kinds) == 0 || slices.Contains(kinds, kind) }
	var all []exported
	add := func(e exported) {
		e.DagID, e.RunID, e.Tenant = run.Pack.Name, run.ID, run.Tenant
		all = append(all, e)
	}
	if wanted(ExportTraces) || wanted(ExportMetrics) {
		told := span.NewHistory(run)
		if wanted(ExportTraces) {
			told.Span = func(s span.Span) { add(spanRecord(&s)) }
		}
		if wanted(ExportMetrics) {
			told.Metric = func(m span.Metric) {
				add(exported{Kind: ExportMetrics, Timestamp: m.At, Name: m.Name, Value: &m.Value, Labels: m.Labels, StepID: work.StepID(m.Labels["stepId"])})
			}
		}
		if err := EachEvent(ctx, h, run, told.Add); err != nil {
			return err
		}
	}
	if wanted(ExportLogs) {
		if err := eachLine(ctx, h, run, func(l *work.LogLine) {
			add(exported{
				Kind: ExportLogs, Timestamp: l.Time, StepID: l.Step, Sequence: l.Seq, Level: l.Level, EventType: l.EventType, Attempt: l.Attempt, Message: l.Message,
			})
		}); err != nil {
			return err
		}
	}
	// All records are of one pack and run: time decides, and then the kind.
	slices.SortStableFunc(all, func(a, b exported) int {
		return cmp.Or(cmp.Compare(a.Timestamp, b.Timestamp), cmp.Compare(a.Kind, b.Kind))
	})
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for i := range all {
		if err := enc.Encode(&all[i]); err != nil {
			return fault.Wrap(fault.Internal, err, "write the export")
		}
	}
	return fault.Wrap(fault.Internal, out.Flush(), "write the export")
}

func spanRecord(s *span.Span) exported {
	e := exported{
		Kind: ExportTraces, Timestamp: s.Start, Name: s.Name, TraceID: s.Trace, SpanID: s.Span, Parent: s.Parent, End: s.End, Failed: s.Failed,
		Attributes: map[string]any{},
	}
	for _, a := range s.Attributes {
		switch a.Key {
		case "tenant", "dagId", "runId":
		case "stepId":
			text, _ := a.Value.(string)
			e.StepID = work.StepID(text)
		default:
			e.Attributes[a.Key] = a.Value
		}
	}
	return e
}

const exportPage = 1000

// EachEvent calls take with the history of a run, in order.
func EachEvent(ctx context.Context, h store.History, run *work.Run, take func(*work.Event) error) error {
	for from := int64(1); ; {
		events, err := h.Events(ctx, run.Tenant, run.ID, from, exportPage)
		if err != nil {
			return err
		}
		for i := range events {
			if err := take(&events[i]); err != nil {
				return err
			}
		}
		if len(events) < exportPage {
			return nil
		}
		from = events[len(events)-1].Seq + 1
	}
}

func eachLine(ctx context.Context, h store.History, run *work.Run, take func(*work.LogLine)) error {
	for from := int64(1); ; {
		lines, err := h.Lines(ctx, run.Tenant, run.ID, from, exportPage)
		if err != nil {
			return err
		}
		for i := range lines {
			take(&lines[i])
		}
		if len(lines) < exportPage {
			return nil
		}
		from = lines[len(lines)-1].Seq + 1
	}
}
