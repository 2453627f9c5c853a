package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"orrery.example/orrery"
	"orrery.example/orrery/api"
)

// shape is how an installation is put together.
type shape struct {
	up       bool // the worker is in the server
	postgres bool
	workers  int
	sdk      bool // the worker is this process
}

// installation is a server with its workers. Everything is asked over HTTP, by the Go SDK.
type installation struct {
	c       *cell
	shape   shape
	dir     string
	store   string
	server  *process
	url     string
	token   string
	ready   time.Duration
	workers []*process
	client  *orrery.Client
	http    *http.Client
	left    context.CancelFunc // of a worker in this process
	ended   chan error
	sealed  int
}

func overHTTP(s shape) func(context.Context, *cell) error {
	return func(ctx context.Context, c *cell) error {
		for _, workload := range c.Workloads {
			if err := inInstallation(ctx, c, s, workload); err != nil {
				return fmt.Errorf("%s: %w", workload, err)
			}
		}
		return nil
	}
}

func inInstallation(ctx context.Context, c *cell, s shape, workload string) (err error) {
	i := &installation{c: c, shape: s, dir: c.path("server-" + workload)}
	defer os.RemoveAll(i.dir)
	if s.postgres {
		if i.store, err = c.database(ctx); err != nil {
			return err
		}
	}
	// W1 submits before anybody works.
	drains := workload == "W1" || workload == "W8"
	if err := i.serve(ctx, s.up); err != nil {
		return err
	}
	defer func() { i.stop() }()
	if !drains {
		if err := i.work(ctx); err != nil {
			return err
		}
	}
	var figures map[string]float64
	switch workload {
	case "W1":
		figures, err = i.jobs(ctx, true)
	case "W2":
		figures, err = i.latency(ctx)
	case "W3":
		figures, err = i.steps(ctx, fanOf(c.Sizes.Fan), 1, c.Sizes.Fan)
	case "W4":
		figures, err = i.steps(ctx, chainOf(c.Sizes.Chain), 1, c.Sizes.Chain)
	case "W5":
		figures, err = i.steps(ctx, chainOf(10), c.Sizes.Runs, 10*c.Sizes.Runs)
	case "W6":
		figures, err = i.processes(ctx)
	case "W7":
		figures, err = i.idle(ctx)
	case "W8":
		figures, err = i.afterMany(ctx)
	}
	if err != nil {
		return err
	}
	return c.report(workload, figures)
}

// serve starts the server, with or without a worker in it.
func (i *installation) serve(ctx context.Context, work bool) error {
	args := []string{"server"}
	if work {
		args = []string{"up", "--slots", "100", "--allow-unsandboxed"}
	}
	args = append(args, "--data", i.dir, "--listen", "127.0.0.1:0", "--rate", "0")
	if i.store != "" {
		args = append(args, "--store", i.store)
	}
	var err error
	if i.server, i.url, err = start("ready at ", i.c.Orrery, args...); err != nil {
		return err
	}
	i.ready = time.Since(i.server.begun)
	raw, err := os.ReadFile(i.dir + "/admin-token")
	if err != nil {
		return err
	}
	i.token = strings.TrimSpace(string(raw))
	i.http = &http.Client{Transport: &http.Transport{MaxIdleConns: 64, MaxIdleConnsPerHost: 64}}
	i.client, err = orrery.NewClient(orrery.Config{Server: i.url, Token: i.token, Tenant: "local", HTTP: i.http})
	return err
}

// work starts the workers.
func (i *installation) work(ctx context.Context) error {
	if i.shape.up {
		return nil
	}
	if i.sealed > 0 {
		return i.start(ctx)
	}
	// Somebody has to have signed something before there is a trust root with his key.
	i.sealed++
	run, err := i.submit(ctx, i.source(chainOf(1)))
	if err == nil {
		err = i.start(ctx)
	}
	if err == nil {
		err = i.follow(ctx, run)
	}
	return err
}

func (i *installation) start(ctx context.Context) error {
	token := i.dir + "/worker-token"
	if _, err := os.Stat(token); err != nil {
		if err := i.send(ctx, http.MethodPost, "accounts", map[string]any{"name": "pool", "kind": "service", "scopes": []string{"worker"}}, nil); err != nil {
			return err
		}
		var made struct {
			Token string `json:"token"`
		}
		if err := i.send(ctx, http.MethodPost, "tokens", map[string]any{"account": "pool", "scopes": []string{"worker"}}, &made); err != nil {
			return err
		}
		if err := os.WriteFile(token, []byte(made.Token), 0o600); err != nil {
			return err
		}
	}
	trust := i.dir + "/trust.json"
	var keys json.RawMessage
	if err := i.send(ctx, http.MethodGet, "trust-root", nil, &keys); err != nil {
		return err
	}
	if err := os.WriteFile(trust, keys, 0o644); err != nil {
		return err
	}
	if i.shape.sdk {
		return i.workHere(ctx, token, trust)
	}
	joined := make([]*process, i.shape.workers)
	err := each(i.shape.workers, max(1, i.shape.workers), func(n int) (err error) {
		// With the trust root of the installation, so that the worker checks every request itself.
		joined[n], _, err = start("joined as ", i.c.Orrery, "worker", "--data", i.dir+"-worker-"+strconv.Itoa(n), "--server", i.url, "--token-file", token,
			"--trust", trust, "--slots", strconv.Itoa(100/i.shape.workers), "--allow-unsandboxed")
		return err
	})
	for _, w := range joined {
		if w != nil {
			i.workers = append(i.workers, w)
		}
	}
	return err
}

// workHere makes this process a worker, with a handler that does nothing.
func (i *installation) workHere(ctx context.Context, token, root string) error {
	raw, err := os.ReadFile(token)
	if err != nil {
		return err
	}
	client, err := orrery.NewClient(orrery.Config{Server: i.url, Token: string(raw), HTTP: i.http})
	if err != nil {
		return err
	}
	raw, err = os.ReadFile(root)
	if err != nil {
		return err
	}
	trust, err := orrery.ParseTrust(raw)
	if err != nil {
		return err
	}
	w := orrery.NewWorker(client, orrery.WorkerConfig{Name: "bench", Slots: 100, Trust: func() (orrery.Trust, error) { return trust, nil }, Log: warn})
	w.Handle("bench/noop", func(context.Context, *orrery.Job) error { return nil })
	ctx, i.left = context.WithCancel(ctx)
	i.ended = make(chan error, 1)
	go func() { i.ended <- w.Run(ctx) }()
	return nil
}

func (i *installation) stop() {
	if i.left != nil {
		i.left()
		<-i.ended
	}
	for _, w := range i.workers {
		w.stop()
	}
	i.workers = nil
	i.server.stop()
	i.http.CloseIdleConnections()
}

// send makes a request for which the SDK has no words.
func (i *installation) send(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, i.url+"/api/v1/"+path, body)
	if err != nil {
		return err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + i.token}, "X-Orrery-Tenant": {"local"}, "Content-Type": {"application/json"}}
	res, err := i.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// who is whose processor time counts.
func (i *installation) who() map[string][]int {
	who := map[string][]int{"server": {i.server.pid()}}
	for _, w := range i.workers {
		who["worker"] = append(who["worker"], w.pid())
	}
	if i.shape.sdk {
		who["worker"] = []int{0}
	} else {
		who[asker] = []int{0}
	}
	if i.store != "" {
		who["database"] = []int{i.c.Postgres.PID}
	}
	return who
}

func (i *installation) source(steps string) api.PackSource {
	if i.shape.sdk {
		steps = strings.ReplaceAll(steps, "uses: noop", "uses: bench/noop")
	}
	return api.PackSource{Manifest: manifest("bench", steps)}
}

func (i *installation) submit(ctx context.Context, p api.PackSource) (string, error) {
	reply, err := i.client.Submit(ctx, api.SubmitRequest{PackSource: p}, nil)
	return reply.RunID, err
}

// inLog waits until every run that was submitted has ended and is in the log.
func (i *installation) inLog(ctx context.Context) error {
	return until(ctx, 20*time.Millisecond, func() (bool, error) {
		var log struct {
			Size int `json:"size"`
		}
		err := i.send(ctx, http.MethodGet, "ledger/checkpoint", nil, &log)
		if err != nil && strings.Contains(err.Error(), "404") {
			return false, nil // before the first
		}
		return log.Size >= i.sealed, err
	})
}

// many submits runs of one pack in batches.
func (i *installation) many(ctx context.Context, p api.PackSource, n int) error {
	const most = 100
	return each((n+most-1)/most, 2, func(at int) error {
		reply, err := i.client.SubmitMany(ctx, api.BatchRequest{PackSource: p, Runs: make([]api.BatchRun, min(most, n-at*most))})
		for _, r := range reply.Runs {
			if r.Error != nil {
				return fmt.Errorf("a run of a batch: %s %s", r.Error.Code, r.Error.Message)
			}
		}
		return err
	})
}

// jobs submits while nobody works, then lets workers drain.
func (i *installation) jobs(ctx context.Context, singles bool) (map[string]float64, error) {
	figures := map[string]float64{}
	p, n := i.source(chainOf(1)), i.c.Sizes.Jobs
	if i.shape.up { // its worker would not wait
		i.stop()
		if err := i.serve(ctx, false); err != nil {
			return nil, err
		}
	}
	rest := n
	if singles {
		first := min(n, i.c.Sizes.Singles)
		meter := measure(i.who())
		if err := each(first, 16, func(int) error {
			_, err := i.submit(ctx, p)
			return err
		}); err != nil {
			return nil, err
		}
		figures["single/s"] = rate(first, meter.elapsed())
		used := meter.used()
		figures["cpu/single"] = (ms(used["server"]) + ms(used["database"])) / float64(first)
		rest -= first
	}
	meter := measure(i.who())
	if err := i.many(ctx, p, rest); err != nil {
		return nil, err
	}
	figures["batch/s"] = rate(rest, meter.elapsed())
	used := meter.used()
	figures["cpu/submit"] = (ms(used["server"]) + ms(used["database"])) / float64(max(rest, 1))
	i.sealed += n
	if i.shape.up {
		i.stop()
		if err := i.serve(ctx, true); err != nil {
			return nil, err
		}
		meter = measure(i.who())
	} else {
		if err := i.work(ctx); err != nil {
			return nil, err
		}
		meter = measure(i.who())
	}
	if err := i.inLog(ctx); err != nil {
		return nil, err
	}
	figures["drain/s"] = rate(n, meter.elapsed())
	return meter.used().with(figures, n), nil
}

// latency measures from the request to the frame that says that the run has ended.
func (i *installation) latency(ctx context.Context) (map[string]float64, error) {
	p := i.source(chainOf(1))
	return samples(i.c.Sizes.Samples, i.c.Sizes.Limit, func() error {
		run, err := i.submit(ctx, p)
		if err != nil {
			return err
		}
		return i.follow(ctx, run)
	})
}

// follow reads the stream of a run to its end.
func (i *installation) follow(ctx context.Context, run string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.url+"/api/v1/runs/"+run+"/logs", nil)
	if err != nil {
		return err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + i.token}, "X-Orrery-Tenant": {"local"}, "Accept": {"text/event-stream"}}
	res, err := i.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte("run.ended")) || !bytes.Contains(text, []byte("succeeded")) {
		return fmt.Errorf("run %s did not succeed: %s", run, text)
	}
	return nil
}

// steps measures runs of one pack from their submission to the end of the last.
func (i *installation) steps(ctx context.Context, text string, runs, steps int) (map[string]float64, error) {
	p := i.source(text)
	meter := measure(i.who())
	reply, err := i.client.SubmitMany(ctx, api.BatchRequest{PackSource: p, Runs: make([]api.BatchRun, runs)})
	if err != nil {
		return nil, err
	}
	for _, r := range reply.Runs {
		if err := i.follow(ctx, r.RunID); err != nil {
			return nil, err
		}
	}
	took := meter.elapsed()
	return meter.used().with(map[string]float64{"s": took.Seconds(), "ms/step": ms(took) / float64(steps)}, steps), nil
}

// processes runs /bin/true again and again, bare and as steps in the default sandbox.
func (i *installation) processes(ctx context.Context) (map[string]float64, error) {
	n := i.c.Sizes.Procs
	out, err := bare(n)
	if err != nil {
		return nil, err
	}
	figures, err := i.steps(ctx, processesOf(n), 1, n)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"s", "cpu"} {
		out[name] = figures[name]
	}
	out["adds"] = out["cpu"] - out["bare cpu"]
	return out, nil
}

// idle is what an installation costs that has nothing to do.
func (i *installation) idle(ctx context.Context) (map[string]float64, error) {
	// The second start, with the keys made and the schema there.
	i.stop()
	if err := i.serve(ctx, true); err != nil {
		return nil, err
	}
	info, err := os.Stat(i.c.Orrery)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
	case <-time.After(2 * time.Second): // until it idles
	}
	return map[string]float64{"rss MiB": resident(i.server.pid()), "ready ms": ms(i.ready), "binary MB": float64(info.Size()) / 1e6}, nil
}

// afterMany is W1 when many jobs have ended before.
func (i *installation) afterMany(ctx context.Context) (map[string]float64, error) {
	if err := i.work(ctx); err != nil {
		return nil, err
	}
	if err := i.many(ctx, i.source(chainOf(1)), i.c.Sizes.Filled); err != nil {
		return nil, err
	}
	i.sealed += i.c.Sizes.Filled
	if err := i.inLog(ctx); err != nil {
		return nil, err
	}
	for _, w := range i.workers {
		w.stop()
	}
	i.workers = nil
	return i.jobs(ctx, false)
}
