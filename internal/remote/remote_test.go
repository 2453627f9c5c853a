package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

var _ worker.Source = (*remote.Source)(nil)
var _ worker.Blobs = (*remote.Blobs)(nil)

// The same worker code that runs on a store runs on a server: values, files, output and results arrive as they do at home.
func TestRunOverHTTP(t *testing.T) {
	r := newRig(t)
	r.timers()
	ctx := context.Background()
	file, _, err := r.blobs.Put(ctx, acme, strings.NewReader("from the pack"))
	if err != nil {
		t.Fatal(err)
	}
	one := runStep("one", work.RunSpec{
		Runner: "shell", Script: `cat in.txt; echo "$N"; echo "out=$N" > "$ORRERY_OUTPUT"; head -c 3000000 /dev/zero > big`,
		Env:     map[string]string{"N": "${{ inputs.n }}"},
		Outputs: []work.StepOutput{{Name: "big", Path: "big"}, {Name: "out"}},
	})
	two := runStep("two", work.RunSpec{
		Runner: "shell", Script: `wc -c < got; echo "$O"`, Env: map[string]string{"O": "${{ steps.one.outputs.out }}"},
		Artifacts: []work.ArtifactUse{{Step: "one", Output: "big", To: "got"}},
	})
	two.Needs = []work.StepID{"one"}
	r.worker(r.server.URL, 2, nil)
	id, _ := r.submit(nil, "", &work.Plan{
		Inputs: []work.Input{{Name: "n", Type: "integer", Value: []byte("41")}},
		Files:  []work.File{{Path: "in.txt", Digest: file, Size: 13}}, Steps: []work.PlanStep{one, two},
	})
	if run := r.ends(id); run.State != work.Succeeded {
		t.Fatalf("%s %+v\n%s", run.State, run.Reason, r.text(id))
	}
	if got, want := r.text(id), "from the pack41\n3000000\n41\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
	for _, e := range r.events(id) {
		if e.Type == work.StepReported && !bytes.Contains(e.Data, []byte(`"worker":"pool/w"`)) {
			t.Errorf("the report is not under the name that the worker proved: %s", e.Data)
		}
	}
}

// Ten thousand steps in one run: nothing gets lost, nothing runs twice.
func TestThroughput(t *testing.T) {
	r := newRig(t)
	const steps = 2000
	p := &work.Plan{}
	for i := range steps {
		p.Steps = append(p.Steps, noop(fmt.Sprintf("s%05d", i)))
	}
	r.worker(r.server.URL, 50, nil)
	start := time.Now()
	id, _ := r.submit(nil, "", p)
	if run := r.ends(id); run.State != work.Succeeded {
		t.Fatal(run.State, run.Reason)
	}
	took := time.Since(start)
	if claimed := r.count(id, work.StepClaimed); claimed != steps {
		t.Errorf("%d claims for %d steps", claimed, steps)
	}
	t.Logf("%d steps in %s, %d requests", steps, took, r.requests.Load())
}

// A worker without work asks once and then waits; work that comes is there at once.
func TestIdle(t *testing.T) {
	r := newRig(t)
	b := r.worker(r.server.URL, 1, nil)
	id, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("a")}})
	r.ends(id)
	before := r.requests.Load()
	select {
	case <-b.source.Drained():
	case <-time.After(1500 * time.Millisecond):
	}
	if n := r.requests.Load() - before; n > 4 {
		t.Errorf("%d requests in a second and a half without work", n)
	}
	// What comes is the answer to the request that waits: the next one has the report in it already. A wait may be over just then, and the
	// one for what follows may have begun, but not time after time.
	for range 10 {
		before := r.exchanges.Load()
		id, _ = r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("a")}})
		r.ends(id)
		if r.exchanges.Load()-before == 1 {
			return
		}
	}
	t.Error("a waiting worker finds work by asking again")
}

// An order to cancel reaches a worker and stops what runs, long before it would end.
func TestCancel(t *testing.T) {
	r := newRig(t)
	r.timers()
	r.worker(r.server.URL, 2, nil)
	id, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{shell("a", "echo begun; exec sleep 500")}})
	r.until(id, "any output", func(run *work.Run) bool { return run.LogSeq > 0 })
	if err := r.store.Control(context.Background(), []store.ControlCommand{{Tenant: acme, Run: id, Verb: "cancel", Actor: work.Actor{Name: "eve"}}})[0]; err != nil {
		t.Fatal(err)
	}
	if run := r.ends(id); run.State != work.Cancelled {
		t.Error(run.State, run.Reason)
	}
}

// A file of any size arrives whole, and one that is there is not sent again.
func TestBlobs(t *testing.T) {
	r := newRig(t)
	c := r.client(r.server.URL, "one")
	t.Cleanup(c.Close)
	b := c.Blobs(nil, t.TempDir())
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 20 << 20} {
		data := make([]byte, size)
		seed := rand.NewChaCha8([32]byte{byte(size)})
		_, _ = seed.Read(data)
		for range 2 {
			before := r.requests.Load()
			d, n, err := b.Put(context.Background(), acme, bytes.NewReader(data))
			if err != nil || n != int64(size) || d != canonical.Digest(data) {
				t.Fatalf("%d bytes: %s %d %v", size, d, n, err)
			}
			if sent := r.requests.Load() - before; size == 20<<20 && sent != 4 && sent != 1 {
				t.Errorf("%d requests for a file of three parts", sent)
			}
		}
		if got := read(t, b, canonical.Digest(data)); !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
	}
}
