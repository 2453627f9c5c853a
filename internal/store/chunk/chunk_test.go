package chunk

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

func digests() *rapid.Generator[work.Digest] {
	return rapid.Custom(func(t *rapid.T) work.Digest {
		switch rapid.IntRange(0, 3).Draw(t, "form") {
		case 0:
			return ""
		case 1:
			return work.Digest(rapid.StringN(1, 20, -1).Draw(t, "text"))
		case 2:
			return work.Digest("sha256:" + strings.ToUpper(rapid.StringMatching("[0-9a-f]{64}").Draw(t, "digits")))
		default:
			return work.Digest("sha256:" + rapid.StringMatching("[0-9a-f]{64}").Draw(t, "digits"))
		}
	})
}

func events() *rapid.Generator[[]work.Event] {
	return rapid.Custom(func(t *rapid.T) []work.Event {
		out := make([]work.Event, rapid.IntRange(0, 8).Draw(t, "count"))
		for i := range out {
			e := &out[i]
			*e = work.Event{
				Tenant: "t", Run: "run_1", Seq: 7 + int64(i),
				Time: work.Time(rapid.Int64().Draw(t, "time")), Attempt: rapid.IntRange(-1, 5).Draw(t, "attempt"),
				Type: rapid.SampledFrom(append(eventTypes[:], "a.new-one", "")).Draw(t, "type"),
				Step: rapid.SampledFrom([]work.StepID{"", "a", "b/c", "m[3]::d"}).Draw(t, "step"),
				Prev: digests().Draw(t, "prev"), Hash: digests().Draw(t, "hash"),
			}
			if i > 0 && rapid.Bool().Draw(t, "linked") {
				e.Prev = out[i-1].Hash
			}
			if rapid.Bool().Draw(t, "data") {
				e.Data = json.RawMessage(rapid.SampledFrom([]string{`{}`, `{"a":"<ü>"}`, `{ "b" : 1 }`}).Draw(t, "json"))
			}
		}
		return out
	})
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := events().Draw(t, "events")
		got, err := Events("t", "run_1", 7, AppendEvents(nil, want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, want)
		}
	})
}

func TestLinesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := make([]work.LogLine, rapid.IntRange(0, 8).Draw(t, "count"))
		for i := range want {
			want[i] = work.LogLine{
				Run: "run_1", Seq: 3 + int64(i), Time: work.Time(rapid.Int64().Draw(t, "time")),
				Level:     rapid.SampledFrom([]string{"", "info", "error"}).Draw(t, "level"),
				EventType: rapid.SampledFrom([]string{"", "step.stdout", "step.stderr"}).Draw(t, "type"),
				Step:      rapid.SampledFrom([]work.StepID{"", "a", "b"}).Draw(t, "step"),
				Attempt:   rapid.IntRange(-1, 3).Draw(t, "attempt"), Message: rapid.String().Draw(t, "message"),
			}
		}
		got, err := Lines("run_1", 3, AppendLines(nil, want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, want)
		}
	})
}

// What a chunk leaves out must not be needed: a usual transition is small.
func TestATransitionIsSmall(t *testing.T) {
	hash := func(digit string) work.Digest { return work.Digest("sha256:" + strings.Repeat(digit, 64)) }
	transition := []work.Event{
		{Tenant: "local", Run: "run_1", Seq: 4, Time: 1_790_000_000_000_000, Type: work.StepReported, Step: "build", Attempt: 1, Data: []byte(`{}`), Prev: hash("a"), Hash: hash("b")},
		{Tenant: "local", Run: "run_1", Seq: 5, Time: 1_790_000_000_000_000, Type: work.StepEnded, Step: "build", Attempt: 1, Data: []byte(`{}`), Prev: hash("b"), Hash: hash("c")},
	}
	if n := len(AppendEvents(nil, transition)); n > 130 {
		t.Fatalf("two events without much data take %d bytes", n)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(AppendEvents(nil, []work.Event{{Tenant: "t", Run: "r", Seq: 1, Type: work.RunSubmitted, Data: []byte(`{}`), Hash: "x"}}))
	f.Add([]byte{eventsV1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte("\x01\x017\x0000\x00\x00")) // data of no bytes
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := Events("t", "r", 1, body)
		if err != nil {
			if fault.CodeOf(err) != fault.Internal || got != nil {
				t.Fatalf("%v with %v", err, got)
			}
			return
		}
		again, err := Events("t", "r", 1, AppendEvents(nil, got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, again, got)
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add(AppendLines(nil, []work.LogLine{{Run: "r", Seq: 1, Level: "info", EventType: "step.stdout", Step: "a", Message: "hello"}}))
	f.Add([]byte{linesV1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := Lines("r", 1, body)
		if err != nil {
			if fault.CodeOf(err) != fault.Internal || got != nil {
				t.Fatalf("%v with %v", err, got)
			}
			return
		}
		again, err := Lines("r", 1, AppendLines(nil, got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, again, got)
		}
	})
}
