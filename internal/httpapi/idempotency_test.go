package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

// counted is a driver that counts commits and looks, and breaks a commit before or after it is made.
type counted struct {
	*memory.Driver
	commits, looks atomic.Int64
	before, after  atomic.Bool
}

var errBroken = errors.New("broken")

func (d *counted) Update(ctx context.Context, fn func(kernel.Tx) error) error {
	if d.before.CompareAndSwap(true, false) {
		return errBroken
	}
	d.commits.Add(1)
	err := d.Driver.Update(ctx, fn)
	if err == nil && d.after.CompareAndSwap(true, false) {
		return errBroken
	}
	return err
}

func (d *counted) View(ctx context.Context, fn func(kernel.Reader) error) error {
	d.looks.Add(1)
	return d.Driver.View(ctx, fn)
}

// somebody is one caller in one tenant, whose records are looked up.
type somebody struct{ records store.Records }

var whoRef, whereRef = store.RecordRef{Tenant: "*", Kind: "who", ID: "ann"}, store.RecordRef{Tenant: "*", Kind: "where", ID: "acme"}

func (s somebody) Expect(string, work.Tenant) (string, []store.RecordRef) {
	return "ann", []store.RecordRef{whoRef, whereRef}
}

func (s somebody) Principal(ctx context.Context, _ string, found store.Found) (access.Principal, error) {
	_, err := found.Record(ctx, s.records, whoRef)
	return access.Principal{Subject: "ann", Tenant: "acme", TokenID: "t", Scopes: []access.Scope{access.PacksRun}}, err
}

func (s somebody) Tenant(ctx context.Context, _ work.Tenant, found store.Found) error {
	_, err := found.Record(ctx, s.records, whereRef)
	return err
}

// newServer has one operation, which makes a run.
func newServer(t *testing.T) (*httpapi.Server, *kernel.Store, *counted) {
	t.Helper()
	d := &counted{Driver: memory.New()}
	s := kernel.New(d, kernel.Options{Now: func() work.Time { return 1_000_000 }})
	t.Cleanup(func() { _ = s.Close() })
	for _, ref := range []store.RecordRef{whoRef, whereRef} {
		if err := s.Change(t.Context(), store.RecordChange{Record: store.Record{Tenant: ref.Tenant, Kind: ref.Kind, ID: ref.ID, Doc: []byte(`{}`)}}); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := canonical.Marshal(&work.Plan{Version: work.PlanVersion, Steps: []work.PlanStep{{ID: "a", Kind: work.KindRun, Run: &work.RunSpec{Runner: "process"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	submit := func(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
		answer := func(w http.ResponseWriter, made []store.Submitted) error {
			return httpapi.Reply(w, http.StatusCreated, map[string]any{"id": made[0].Run.ID})
		}
		c.Answers(answer)
		i := n.Add(1)
		run := work.Run{Tenant: c.Tenant, ID: work.RunID(fmt.Sprintf("run_%d", i)), Name: fmt.Sprint("name-", i), PlanHash: canonical.Digest(plan)}
		made := s.Submit(r.Context(), []store.Submission{{Run: run, Canonical: plan}})
		if made[0].Err != nil {
			return made[0].Err
		}
		return answer(w, made)
	}
	server, err := httpapi.New(httpapi.Config{
		Routes:   []httpapi.Route{{Method: http.MethodPost, Path: "/runs", Name: "submit", Scope: access.PacksRun, Runs: true, Handle: submit}},
		Identity: somebody{s}, Records: s, Now: func() work.Time { return 1_000_000 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return server, s, d
}

func post(s *httpapi.Server, key, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/runs", strings.NewReader(body))
	r.Header = http.Header{"Authorization": {"Bearer t"}, httpapi.TenantHeader: {"acme"}, "Idempotency-Key": {key}}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func runs(t *testing.T, s *kernel.Store) int {
	t.Helper()
	found, err := s.Find(t.Context(), "acme", store.RunQuery{})
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// A submission with a key costs one look and one commit, with its audit entry and its answer; sent again it costs the look.
func TestSubmissionIsOneCommit(t *testing.T) {
	server, s, d := newServer(t)
	cost := func() [2]int64 { return [2]int64{d.looks.Load(), d.commits.Load()} }
	before := cost()
	first := post(server, "k", "{}")
	if got := cost(); first.Code != 201 || got != [2]int64{before[0] + 1, before[1] + 1} {
		t.Fatalf("%d %s after %d looks and %d commits", first.Code, first.Body, got[0]-before[0], got[1]-before[1])
	}
	before = cost()
	again := post(server, "k", "{}")
	if got := cost(); again.Body.String() != first.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" || got != [2]int64{before[0] + 1, before[1]} {
		t.Fatalf("%d %s after %d looks and %d commits", again.Code, again.Body, got[0]-before[0], got[1]-before[1])
	}
	if other := post(server, "k", `{"other":1}`); other.Code != http.StatusConflict || runs(t, s) != 1 {
		t.Errorf("another body: %d %s, %d runs", other.Code, other.Body, runs(t, s))
	}
	end, err := s.AuditEnd(t.Context(), "acme")
	if err != nil || end.Seq != 1 {
		t.Errorf("%d audit entries of one submission, %v", end.Seq, err)
	}
}

// A commit that breaks leaves neither run nor answer, one whose outcome gets lost both: sent again the request has one run either way.
func TestSubmissionBreaksOff(t *testing.T) {
	for name, breaks := range map[string]func(*counted) *atomic.Bool{
		"before the commit": func(d *counted) *atomic.Bool { return &d.before },
		"after the commit":  func(d *counted) *atomic.Bool { return &d.after },
	} {
		t.Run(name, func(t *testing.T) {
			server, s, d := newServer(t)
			breaks(d).Store(true)
			if first := post(server, "k", "{}"); first.Code != http.StatusInternalServerError {
				t.Fatalf("%d %s", first.Code, first.Body)
			}
			again := post(server, "k", "{}")
			if again.Code != http.StatusCreated || runs(t, s) != 1 {
				t.Errorf("%d %s, %d runs", again.Code, again.Body, runs(t, s))
			}
			if third := post(server, "k", "{}"); third.Body.String() != again.Body.String() {
				t.Errorf("answered %s, then %s", again.Body, third.Body)
			}
		})
	}
}

// Of many with one key one makes a run, and all get its answer.
func TestSubmissionAtOnce(t *testing.T) {
	server, s, _ := newServer(t)
	var group sync.WaitGroup
	answers := make([]*httptest.ResponseRecorder, 20)
	for i := range answers {
		group.Go(func() { answers[i] = post(server, "k", "{}") })
	}
	group.Wait()
	for _, a := range answers {
		if a.Code != http.StatusCreated || a.Body.String() != answers[0].Body.String() {
			t.Errorf("%d %s, another %s", a.Code, a.Body, answers[0].Body)
		}
	}
	if n := runs(t, s); n != 1 {
		t.Errorf("%d runs", n)
	}
}
