// Package sandboxtest is the conformance and escape suite that every sandbox driver passes. What a step tries is done by the test
// binary itself, executed inside the sandbox, so the suite needs no compiler and no interpreter on the machine.
package sandboxtest

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery.example/orrery/internal/sandbox"
)

// Bench is a driver on this machine with the payload program in a folder that steps can read.
type Bench struct {
	Driver  sandbox.Driver
	Tier    sandbox.Tier
	payload string
}

// NewBench copies the running test binary to where any user may execute it.
func NewBench(t *testing.T, d sandbox.Driver, tier sandbox.Tier) *Bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox-payload-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	b := &Bench{Driver: d, Tier: tier, payload: filepath.Join(dir, "payload")}
	to, err := os.OpenFile(b.payload, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, self); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// Step is a spec whose command is one payload.
func (b *Bench) Step(t *testing.T, payload ...string) sandbox.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox-step-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reclaim(dir) })
	return sandbox.Spec{
		Name:    t.Name(),
		Command: append([]string{b.payload, payloadMark}, payload...),
		Env:     []string{"PATH=/usr/bin:/bin"},
		Dir:     dir,
		Policy: sandbox.Policy{MinTier: b.Tier, ReadOnly: []string{filepath.Dir(b.payload)},
			Limits: sandbox.Limits{Wall: time.Minute, Grace: time.Minute}},
	}
}

func reclaim(dir string) {
	_ = filepath.Walk(dir, func(p string, info os.FileInfo, _ error) error {
		if info != nil && info.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// Output keeps what a step wrote and lets a test wait for a word of it.
type Output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	waits map[string]chan struct{}
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	for word, c := range o.waits {
		if strings.Contains(o.buf.String(), word) {
			close(c)
			delete(o.waits, word)
		}
	}
	return len(p), nil
}

// Said is closed once word was written. Ask before the step starts.
func (o *Output) Said(word string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waits == nil {
		o.waits = map[string]chan struct{}{}
	}
	c := make(chan struct{})
	o.waits[word] = c
	return c
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Lines are the lines of the output.
func (o *Output) Lines() []string { return strings.Split(strings.TrimSuffix(o.String(), "\n"), "\n") }

// Do runs a step to its end and returns its standard output.
func (b *Bench) Do(t *testing.T, spec sandbox.Spec) (sandbox.Result, *Output) {
	t.Helper()
	out := &Output{}
	spec.Stdout = out
	if spec.Stderr == nil {
		spec.Stderr = testWriter{t}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := b.Driver.Run(ctx, spec)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	if r.Protections.Tier < b.Tier {
		t.Fatalf("ran in tier %d, weaker than the %d that was asked for", r.Protections.Tier, b.Tier)
	}
	return r, out
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("step: %s", p)
	return len(p), nil
}

func (b *Bench) wantOutput(t *testing.T, want string, payload ...string) {
	t.Helper()
	_, out := b.Do(t, b.Step(t, payload...))
	if got := strings.TrimSpace(out.String()); got != want {
		t.Errorf("%s: got %q, want %q", strings.Join(payload, " "), got, want)
	}
}

func wantEnd(t *testing.T, r sandbox.Result, cause sandbox.Cause, code int) {
	t.Helper()
	if r.Cause != cause || r.ExitCode != code {
		t.Errorf("ended with %s %d (limit %q), want %s %d", r.Cause, r.ExitCode, r.Limit, cause, code)
	}
}
