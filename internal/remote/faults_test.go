package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// TestMain lets the test binary be a worker process, for the tests that kill it.
func TestMain(m *testing.M) {
	if server := os.Getenv("ORRERY_TEST_WORKER"); server != "" {
		os.Exit(process(server, os.Getenv("ORRERY_TEST_DIR")))
	}
	os.Exit(m.Run())
}

func process(server, dir string) int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	c, err := remote.New(remote.Config{Server: server, Token: func() string { return "one" }})
	if err != nil {
		return 1
	}
	source := c.Source(ctx, remote.About{Worker: "p", Slots: 4, Offer: api.WorkerOffer{Runners: worker.Runners(), Tier: 2}})
	w := worker.New(worker.Config{
		Name: "p", Tenant: acme, Slots: 4, Dir: dir, Sandbox: direct{}, Tier: 2, Inside: func(dir string) string { return dir },
		Path: os.Getenv("PATH"), Now: func() work.Time { return work.At(time.Now()) }, Log: slog.New(slog.DiscardHandler), Wake: source.Wake(),
	}, source, c.Blobs(nil, dir))
	if err := w.Run(ctx); err != nil {
		return 1
	}
	return 0
}

// network stands between workers and the server: of some requests the answer gets lost after the server has acted, some arrive twice.
func network(t *testing.T, to string, lose, double float64) (string, *atomic.Int64) {
	t.Helper()
	var faults atomic.Int64
	send := func(r *http.Request, body []byte) (*http.Response, error) {
		req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, to+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header = r.Header.Clone()
		return http.DefaultClient.Do(req)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		chance := rand.Float64()
		if chance < lose && !strings.HasSuffix(r.URL.Path, "/heartbeat") {
			faults.Add(1)
			if res, err := send(r, body); err == nil {
				res.Body.Close()
			}
			panic(http.ErrAbortHandler) // the connection is cut
		}
		if chance > 1-double {
			faults.Add(1)
			if res, err := send(r, body); err == nil {
				res.Body.Close()
			}
		}
		res, err := send(r, body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer res.Body.Close()
		for k, v := range res.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL, &faults
}

// journal is a file in which every execution leaves a line.
func journal(t *testing.T) (path, script string) {
	path = filepath.Join(t.TempDir(), "journal")
	return path, `echo "$ORRERY_STEP $ORRERY_ATTEMPT" >> ` + path + `; echo done`
}

// executedOnce checks that no attempt was executed twice, and returns how many were executed.
func executedOnce(t *testing.T, path string) int {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		if seen[line] {
			t.Errorf("%q was executed twice", line)
		}
		seen[line] = true
	}
	return len(seen)
}

// settled checks that every step ended exactly once, by a report under the token of its last claim.
func (r *rig) settled(id work.RunID, steps int) {
	r.t.Helper()
	reports, ends := map[work.StepID]int{}, map[work.StepID]int{}
	for _, e := range r.events(id) {
		switch e.Type {
		case work.StepReported:
			reports[e.Step]++
		case work.StepEnded:
			ends[e.Step]++
		}
	}
	for s, n := range reports {
		if n != 1 || ends[s] != 1 {
			r.t.Errorf("step %s was reported %d times and ended %d times", s, n, ends[s])
		}
	}
	if len(reports) != steps {
		r.t.Errorf("%d of %d steps were reported", len(reports), steps)
	}
}

// Whatever answers get lost and whatever arrives twice: every step ends once, no attempt is executed twice, no line is doubled.
func TestLostReplies(t *testing.T) {
	r := newRig(t)
	r.timers()
	at, faults := network(t, r.server.URL, 0.15, 0.15)
	path, script := journal(t)
	const steps = 60
	p := &work.Plan{}
	for i := range steps {
		p.Steps = append(p.Steps, shell(fmt.Sprintf("s%03d", i), script))
	}
	for range 3 {
		r.worker(at, 4, nil)
	}
	id, _ := r.submit(nil, "", p)
	if run := r.ends(id); run.State != work.Succeeded {
		t.Fatal(run.State, run.Reason)
	}
	r.settled(id, steps)
	executed := executedOnce(t, path)
	t.Logf("%d faults, %d executions of %d steps", faults.Load(), executed, steps)
	if faults.Load() < 10 {
		t.Error("hardly anything went wrong")
	}
	lines := map[string]int{}
	all, err := r.store.Lines(context.Background(), acme, id, 1, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		lines[fmt.Sprint(l.Step, l.Attempt)]++
	}
	for key, n := range lines {
		if n != 1 {
			t.Errorf("%s has its line %d times", key, n)
		}
	}
}

// Eight worker processes, of which one after another is killed: nothing is lost, nothing is done twice under one token.
func TestKilledWorkers(t *testing.T) {
	r := newRig(t)
	r.fast(3) // a session of thirty seconds lasts ten, which is long enough for a worker that waits for a processor
	r.timers()
	path, script := journal(t)
	const steps = 300
	p := &work.Plan{}
	for i := range steps {
		p.Steps = append(p.Steps, shell(fmt.Sprintf("s%03d", i), "sleep 0.05; "+script))
	}
	id, _ := r.submit(nil, "", p)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = append(os.Environ(), "ORRERY_TEST_WORKER="+r.server.URL, "ORRERY_TEST_DIR="+t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	var procs []*exec.Cmd
	for range 8 {
		procs = append(procs, start())
	}
	kills := 0
	for n := range 6 {
		floor := (n + 1) * steps / 10
		r.until(id, "so far", func(run *work.Run) bool { return run.State.Terminal() || r.count(id, work.StepReported) >= floor })
		if err := procs[n].Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = procs[n].Wait() // it was killed
		kills++
		procs[n] = start()
	}
	run := r.ends(id)
	stop()
	for _, cmd := range procs {
		_ = cmd.Wait() // killed with the context
	}
	if run.State != work.Succeeded {
		t.Fatal(run.State, run.Reason)
	}
	r.settled(id, steps)
	executed := executedOnce(t, path)
	t.Logf("%d kills, %d executions of %d steps, %d revocations", kills, executed, steps, r.count(id, work.StepRevoked))
	if executed < steps {
		t.Errorf("%d executions for %d steps", executed, steps)
	}
}

// A worker whose session ended elsewhere stops what it runs, and the step runs again under another token.
func TestSessionExpires(t *testing.T) {
	r := newRig(t)
	r.timers()
	r.worker(r.server.URL, 1, nil)
	path, _ := journal(t)
	step := shell("a", `echo "$ORRERY_STEP $ORRERY_ATTEMPT" >> `+path+`; test "$ORRERY_ATTEMPT" != 1 || exec sleep 600`)
	id, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{step}})
	r.until(id, "begun", func(*work.Run) bool { _, err := os.Stat(path); return err == nil })
	r.skew.Add(int64(time.Minute))
	if run := r.ends(id); run.State != work.Succeeded {
		t.Fatal(run.State, run.Reason)
	}
	if n := executedOnce(t, path); n != 2 {
		t.Errorf("%d executions", n)
	}
	if n := r.count(id, work.StepRevoked); n != 1 {
		t.Errorf("%d revocations", n)
	}
}

// A worker that is told to leave ends what it runs, takes no more and goes.
func TestDrain(t *testing.T) {
	r := newRig(t)
	r.timers()
	path, script := journal(t)
	left := make(chan struct{})
	b := r.worker(r.server.URL, 1, nil)
	go func() {
		<-b.source.Drained()
		b.stop()
		close(left)
	}()
	first, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{shell("a", script+"; sleep 1")}})
	r.until(first, "begun", func(*work.Run) bool { _, err := os.Stat(path); return err == nil })
	c := &raw{t, r.server.URL, "one", "session-1"}
	if status, code := c.do(http.MethodPost, "workers/nobody/drain", nil, http.Header{"X-Orrery-Tenant": {"acme"}}, nil); status != 404 {
		t.Error(status, code)
	}
	if status, code := c.do(http.MethodPost, "workers/pool%2Fw/drain", nil, http.Header{"X-Orrery-Tenant": {"acme"}}, nil); status != 200 {
		t.Fatal(status, code)
	}
	<-left
	second, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("b")}})
	if run := r.ends(first); run.State != work.Succeeded {
		t.Error(run.State, run.Reason)
	}
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	b.ended <- nil
	run, err := r.store.Run(context.Background(), acme, string(second))
	if err != nil || run.State.Terminal() || r.count(second, work.StepClaimed) != 0 {
		t.Error("a worker that leaves took more work", run.State, err)
	}
	// It is held back under its name until somebody says otherwise; then it takes what it left.
	if _, err := r.store.ChangeFlow(t.Context(), store.FlowChange{Tenant: acme, Kind: store.FlowWorker, Name: "pool/w", Verb: "uncordon", Actor: work.Actor{Name: "ops", Reason: "back"}}); err != nil {
		t.Fatal(err)
	}
	r.worker(r.server.URL, 1, nil)
	r.ends(second)
}
