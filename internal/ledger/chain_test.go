package ledger_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"os/exec"
	"strings"
	"testing"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

const start = work.Time(1_767_323_045_000_000)

// history returns n linked events.
func history(t testing.TB, n int) []work.Event {
	t.Helper()
	var c ledger.Chain
	events := make([]work.Event, n)
	for i := range events {
		events[i] = work.Event{
			Tenant: "acme", Run: "run_01JBX2M8Q3T4V5W6X7Y8Z9A0BC", Time: start + work.Time(i)*1000, Type: work.StepReported,
			Step: work.StepID(fmt.Sprintf("build[%d]::compile", i)), Attempt: 1, Data: reported(i),
		}
		if err := c.Append(&events[i]); err != nil {
			t.Fatal(err)
		}
	}
	return events
}

func reported(i int) json.RawMessage {
	return fmt.Appendf(nil, `{"endedAt":"2026-01-02T03:04:06.000000Z","exitCode":0,"outputs":{"count":%d,"name":"Zoë"},"reason":{"code":"SUCCEEDED"},`+
		`"startedAt":"2026-01-02T03:04:05.000000Z","state":"succeeded","token":{"epoch":1,"incarnation":1},`+
		`"transcript":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","lines":12},"worker":"local/1"}`, i)
}

func each(events []work.Event) iter.Seq2[work.Event, error] {
	return func(yield func(work.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestVerifyChain(t *testing.T) {
	events := history(t, 9)
	head, n, err := ledger.VerifyChain(each(events))
	if err != nil || n != 9 || head != events[8].Hash {
		t.Fatal(head, n, err)
	}
	relink := func(events []work.Event) { // what an attacker without the head can do
		prev := work.Digest("")
		for i := range events {
			if err := ledger.Link(prev, &events[i]); err != nil {
				t.Fatal(err)
			}
			prev = events[i].Hash
		}
	}
	for name, c := range map[string]struct {
		change func(e []work.Event) []work.Event
		bad    string // in the message
		n      int64
	}{
		"data":         {func(e []work.Event) []work.Event { e[4].Data = reported(99); return e }, "event 5 hashes", 4},
		"type":         {func(e []work.Event) []work.Event { e[0].Type = work.StepEnded; return e }, "event 1 hashes", 0},
		"step":         {func(e []work.Event) []work.Event { e[8].Step = "x"; return e }, "event 9 hashes", 8},
		"attempt":      {func(e []work.Event) []work.Event { e[8].Attempt++; return e }, "event 9 hashes", 8},
		"time":         {func(e []work.Event) []work.Event { e[2].Time++; return e }, "event 3 hashes", 2},
		"hash":         {func(e []work.Event) []work.Event { e[2].Hash = e[1].Hash; return e }, "event 3 hashes", 2},
		"prev":         {func(e []work.Event) []work.Event { e[3].Prev = e[1].Hash; return e }, "event 4 names", 3},
		"dropped":      {func(e []work.Event) []work.Event { return append(e[:3], e[4:]...) }, "event 5 stands where event 4", 3},
		"first gone":   {func(e []work.Event) []work.Event { return e[1:] }, "event 2 stands where event 1", 0},
		"swapped":      {func(e []work.Event) []work.Event { e[5], e[6] = e[6], e[5]; return e }, "event 7 stands where event 6", 5},
		"doubled":      {func(e []work.Event) []work.Event { return append(e, e[8]) }, "event 9 stands where event 10", 9},
		"other run":    {func(e []work.Event) []work.Event { e[1].Run = "run_other"; return e }, "belongs to run run_other", 1},
		"other tenant": {func(e []work.Event) []work.Event { e[1].Tenant = "evil"; return e }, "of tenant evil", 1},
		"no tenant":    {func(e []work.Event) []work.Event { e[0].Tenant = ""; return e }, "no tenant", 0},
		"renumbered":   {func(e []work.Event) []work.Event { e[1].Seq = 7; relink(e); return e }, "event 7 stands where event 2", 1},
		"not JSON":     {func(e []work.Event) []work.Event { e[1].Data = []byte("{"); return e }, "event 2", 1},
		"fraction":     {func(e []work.Event) []work.Event { e[1].Data = []byte(`{"a":1.5}`); return e }, "event 2", 1},
		"huge number":  {func(e []work.Event) []work.Event { e[1].Attempt = math.MaxInt; return e }, "event 2", 1},
	} {
		_, n, err := ledger.VerifyChain(each(c.change(append([]work.Event{}, events...))))
		if fault.CodeOf(err) != fault.Unverified || n != c.n || !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%s: %d events, %v", name, n, err)
		}
	}
	broken := errors.New("disk")
	_, n, err = ledger.VerifyChain(func(yield func(work.Event, error) bool) {
		_ = yield(events[0], nil) && yield(work.Event{}, broken)
	})
	if !errors.Is(err, broken) || n != 1 {
		t.Error(n, err)
	}
	if head, n, err := ledger.VerifyChain(each(nil)); head != "" || n != 0 || err != nil {
		t.Error("an empty history has no head", head, n, err)
	}
}

// A rewritten history is consistent in itself, but its head is another: that is what the log and attestations hold on to.
func TestRewrittenHistoryHasAnotherHead(t *testing.T) {
	events := history(t, 5)
	was := events[4].Hash
	events[1].Data = reported(7)
	prev := work.Digest("")
	for i := range events {
		if err := ledger.Link(prev, &events[i]); err != nil {
			t.Fatal(err)
		}
		prev = events[i].Hash
	}
	if head, _, err := ledger.VerifyChain(each(events)); err != nil || head == was {
		t.Fatal(head, err)
	}
}

func TestResumeAndAppend(t *testing.T) {
	events := history(t, 4)
	c := ledger.Resume(events[1].Tenant, events[1].Run, 2, events[1].Hash)
	again := events[2]
	again.Hash, again.Prev, again.Seq = "", "", 0
	if err := c.Append(&again); err != nil || again.Hash != events[2].Hash || c.Len() != 3 || c.Head() != events[2].Hash {
		t.Fatal(again, err)
	}
	stranger := events[3]
	stranger.Run = "run_other"
	if err := c.Append(&stranger); fault.CodeOf(err) != fault.Invalid || c.Len() != 3 {
		t.Error("an event of another run is refused", err)
	}
	unspeakable := events[3]
	unspeakable.Data = []byte(`{"a":1,"a":2}`)
	if err := c.Append(&unspeakable); fault.CodeOf(err) != fault.Invalid || c.Len() != 3 {
		t.Error("an event without a canonical form is refused", err)
	}
	if err := c.Check(&events[3]); err != nil {
		t.Error("a refused event leaves the chain as it was", err)
	}
}

// sha256sum over the line without its hash is the hash: nobody needs this program to check a chain.
func TestHashWithStandardTools(t *testing.T) {
	e := history(t, 2)[1]
	line, err := ledger.Encode(nil, &e)
	if err != nil {
		t.Fatal(err)
	}
	bare := bytes.Replace(line, []byte(`"hash":"`+string(e.Hash)+`",`), nil, 1)
	cmd := exec.Command("sha256sum")
	cmd.Stdin = bytes.NewReader(bare)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal("sha256sum does not run here; apt-get install coreutils:", err)
	}
	if got := strings.Fields(string(out))[0]; got != e.Hash.Hex() {
		t.Errorf("sha256sum says %s, the event %s", got, e.Hash)
	}
}

// same holds Encode to the bytes of canonical.Marshal.
func same(t *testing.T, e work.Event) {
	t.Helper()
	got, err := ledger.Encode([]byte("kept"), &e)
	want, wantErr := canonical.MarshalUpTo(e, ledger.MaxEvent)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%+v data %q: %v, canonical says %v", e, e.Data, err, wantErr)
	}
	if err == nil && !bytes.Equal(got, append([]byte("kept"), want...)) {
		t.Fatalf("%s\n%s", got, want)
	}
}

func TestEncodeIsCanonical(t *testing.T) {
	for _, data := range []string{
		``, `null`, `{}`, `[]`, ` {}`, `{} `, `{"a":1,"b":2}`, `{"b":1,"a":2}`, `{"a":1,"a":2}`, `{"a" :1}`, `{"a":01}`, `{"a":-0}`,
		`{"a":0}`, `{"a":-1}`, `{"a":1.0}`, `{"a":1e3}`, `{"a":123456789012345}`, `{"a":9007199254740991}`, `{"a":9007199254740993}`,
		`{"a":"\n"}`, `{"a":"\u000a"}`, `{"a":"\u0001"}`, `{"a":"\/"}`, `{"a":"é"}`, `{"a":"\u00e9"}`, `{"é":1,"a":2}`, `{"a":"<>&"}`,
		`{"😀":1,"` + "\ufb33" + `":2}`, `{"a\n":1}`, `{"a":[1,2,[3,{"x":true,"y":false,"z":null}]]}`, `[1,]`, `{"a":1,}`, `{"a"}`,
		`{"a":"` + "\xff" + `"}`, `{"a":"\ud800"}`, `{"a":tru}`, `{"a":"` + "\u2028" + `"}`, strings.Repeat("[", 40) + strings.Repeat("]", 40),
		strings.Repeat("[", 70) + strings.Repeat("]", 70), `"text"`, `"te`, `-`, `12`, `{"":0}`, `{"a":"\`, "{\"a\":\"\t\"}",
		`{"\u0001":1}`, `{"\u00e9":1}`, `{"x":{"\u007f":1}}`, `{"\q":1}`, "{\"\t\":1}", `{"\`, `{"`, `{"\u000`, "{\"\xff\":1}",
	} {
		same(t, work.Event{Tenant: "acme", Run: "r", Seq: 3, Time: start, Type: work.RunQueued, Data: []byte(data), Prev: "sha256:00", Hash: "sha256:11"})
	}
	same(t, work.Event{})
	same(t, work.Event{Tenant: "a\"b\\c\n", Run: "é\u2028<", Step: "\x01", Type: "\U0001F600", Seq: -5, Attempt: -1, Time: -1})
	same(t, work.Event{Tenant: "\xff"})
	same(t, work.Event{Seq: math.MaxInt64})
}

func FuzzEncodeIsCanonical(f *testing.F) {
	f.Add([]byte(`{"a":[1,"x\n",true],"b":{}}`), "acme", "build[0]::x", int64(1), int64(start))
	f.Add([]byte(`{"x":{"\u0001":1}}`), "acme", "s", int64(1), int64(0))
	f.Add([]byte(`{"b":1,"a":-0}`), "é", "\"", int64(-1), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, tenant, step string, seq, at int64) {
		if at < -62135596800000000 || at > 253402300799999999 || bytes.Contains(data, []byte(`\ufffd`)) {
			return // beyond the years that a time can spell; canonical.Marshal's documented exception
		}
		if len(data) > 0 && !json.Valid(data) {
			data = nil
		}
		same(t, work.Event{Tenant: work.Tenant(tenant), Run: "r", Step: work.StepID(step), Seq: seq, Time: work.Time(at), Data: data, Attempt: int(seq % 3)})
	})
}

func BenchmarkChainAppend(b *testing.B) {
	events := history(b, 1000)
	b.ReportAllocs()
	var c ledger.Chain
	for i := 0; b.Loop(); i++ {
		if err := c.Append(&events[i%1000]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyChain(b *testing.B) {
	const n = 100_000
	events := history(b, n)
	for b.Loop() {
		if _, got, err := ledger.VerifyChain(each(events)); err != nil || got != n {
			b.Fatal(got, err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
