package incident_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/incident"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

const (
	acme   work.Tenant = "acme"
	minute work.Time   = 60_000_000
)

// site is servers over one store, with a clock that only the test moves.
type site struct {
	*testing.T
	store   *lettered
	servers []*incident.Service
	at      work.Time
	behind  work.Time
	verbose bool
}

// lettered is a store with the dead letters that a test wants.
type lettered struct {
	*kernel.Store
	letters []store.DeadLetter
}

func (l *lettered) DeadLetters(context.Context, work.Tenant, int) ([]store.DeadLetter, error) {
	return l.letters, nil
}

func newSite(t *testing.T, servers int) *site {
	s := &site{T: t, at: 1_800_000_000_000_000}
	now := func() work.Time { return s.at }
	k := kernel.New(memory.New(), kernel.Options{Now: now})
	t.Cleanup(func() { _ = k.Close() })
	s.store = &lettered{Store: k}
	for range servers {
		s.servers = append(s.servers, &incident.Service{
			Store: s.store, Now: now, Log: slog.New(slog.DiscardHandler), Verbose: func(on bool) { s.verbose = on },
			Behind: func(context.Context, work.Tenant) (map[string]work.Time, error) {
				return map[string]work.Time{"nats://broker": s.behind}, nil
			},
		})
	}
	return s
}

// look lets every server look, and returns whether incident mode is on.
func (s *site) look() bool {
	s.Helper()
	on := false
	for _, server := range s.servers {
		var err error
		if on, err = server.Look(s.Context(), acme, 0); err != nil {
			s.Fatal(err)
		}
	}
	return on
}

// passes lets time pass, with a look every minute.
func (s *site) passes(minutes int) (on bool) {
	s.Helper()
	for range minutes {
		s.at += minute
		on = s.look()
	}
	return on
}

// ended lets runs end at a server.
func (s *site) ended(server, n int, state work.State) {
	run := &work.Run{Tenant: acme}
	for range n {
		s.servers[server].Committed(kernel.Commit{Changes: []kernel.Change{
			{Run: run, Type: work.StepEnded, Data: work.EndedData{State: state}}, {Run: run, Type: work.RunEnded, Data: work.EndedData{State: state}},
		}})
	}
}

// incidents returns what there is, as "cause/subject state".
func (s *site) incidents() []string {
	s.Helper()
	found, err := s.servers[0].List(s.Context(), acme, true, "", 100)
	if err != nil {
		s.Fatal(err)
	}
	out := []string{}
	for _, i := range found {
		out = append(out, i.Cause+"/"+i.Subject+" "+i.State)
	}
	return out
}

func (s *site) want(when string, want ...string) {
	s.Helper()
	if got := s.incidents(); !slices.Equal(got, want) {
		s.Errorf("%s there are %q, not %q", when, got, want)
	}
}

// told returns the events of incidents in the feed of the tenant.
func (s *site) told() []string {
	s.Helper()
	page, err := s.store.Feed(s.Context(), acme, -1, 1000)
	if err != nil {
		s.Fatal(err)
	}
	out := []string{}
	for i := range page.Events {
		out = append(out, string(page.Events[i].Type))
	}
	return out
}

// An error budget that burns opens one incident, whichever servers saw the runs, and turns incident mode on; it goes off, and the incident is
// resolved, when the burn has been low for the cooldown.
func TestT10_IncidentMode(t *testing.T) {
	s := newSite(t, 2)
	s.ended(0, 9, work.Failed)
	s.ended(0, 5, work.Cancelled)
	if s.look() {
		t.Error("nine runs say nothing, and incident mode is on")
	}
	s.ended(1, 1, work.TimedOut)
	if !s.look() {
		t.Error("every run of ten fails, and incident mode is off")
	}
	s.want("after ten failures", "error-budget/ open")
	m, err := s.servers[1].Mode(t.Context(), acme)
	if err != nil || !m.On || m.By.Name != "orrery" || m.Until != 0 {
		t.Errorf("incident mode is %+v, %v", m, err)
	}
	hold, err := s.store.Record(t.Context(), acme, store.HoldKind, store.HoldAll)
	if err != nil || hold.Expires < s.at+48*60*minute {
		t.Errorf("what retention would delete is held until %s, %v", hold.Expires, err)
	}
	// While the runs count, an hour, it stays on, and the hold stays ahead of it.
	if !s.passes(55) {
		t.Error("incident mode went off within the hour")
	}
	s.ended(0, 30, work.Succeeded)
	s.ended(1, 1, work.Failed) // a burn of 3 when the others count no more
	if !s.passes(20) {
		t.Error("incident mode went off although the burn was never low")
	}
	s.ended(1, 3000, work.Succeeded)
	if !s.passes(14) {
		t.Error("incident mode went off before the cooldown was over")
	}
	if s.passes(3) {
		t.Error("incident mode is on after the cooldown")
	}
	s.want("after the cooldown", "error-budget/ resolved")
	if hold, err = s.store.Record(t.Context(), acme, store.HoldKind, store.HoldAll); err != nil || hold.Expires > s.at+48*60*minute || hold.Expires < s.at+47*60*minute {
		t.Errorf("after incident mode, at %s, everything is held until %s, %v", s.at, hold.Expires, err)
	}
	want := []string{"incident.mode-off", "incident.mode-on", "incident.opened", "incident.resolved"}
	if told := s.told(); !slices.Equal(slices.Sorted(slices.Values(told)), want) {
		t.Errorf("told was %q", told)
	}
	s.at += 49 * 60 * minute
	if _, err := s.store.Record(t.Context(), acme, store.HoldKind, store.HoldAll); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("the hold is not over: %v", err)
	}
}

// A person turns incident mode on for a time, with a reason that is in the audit trail; it ends by itself.
func TestT10_IncidentModeByHand(t *testing.T) {
	s := newSite(t, 1)
	service := s.servers[0]
	by := work.Actor{Name: "ada", Reason: "payments fail", Ticket: "OPS-17"}
	entry := &store.Audit{Tenant: acme, Action: "turnIncidentMode", Actor: "ada", Kind: "user", Reason: by.Reason, Ticket: by.Ticket}
	for name, bad := range map[string]func() error{
		"without a reason": func() error {
			_, err := service.TurnOn(t.Context(), acme, time.Hour, work.Actor{Name: "ada"})
			return err
		},
		"for a second": func() error { _, err := service.TurnOn(t.Context(), acme, time.Second, by); return err },
		"for a month":  func() error { _, err := service.TurnOn(t.Context(), acme, 720*time.Hour, by); return err },
	} {
		if err := bad(); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := service.TurnOff(t.Context(), acme, by); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("off when it is off: %v", err)
	}
	m, err := service.TurnOn(store.WithAudit(t.Context(), entry), acme, 2*time.Hour, by)
	if err != nil || !m.On || !entry.Written() || m.Kept != s.at+50*60*minute {
		t.Errorf("%+v, written %t, %v", m, entry.Written(), err)
	}
	if !s.passes(119) {
		t.Error("it went off before its time")
	}
	if s.passes(2) {
		t.Error("it is on after its time")
	}
	if m, err = service.Mode(t.Context(), acme); err != nil || m.By.Reason != "its time is over" {
		t.Errorf("%+v, %v", m, err)
	}
}

// Each cause opens its incident and closes it; a person's word counts until the cause has gone.
func TestJ6_Incidents(t *testing.T) {
	s := newSite(t, 2)
	letter := func(code work.ReasonCode) store.DeadLetter {
		return store.DeadLetter{Tenant: acme, Reason: work.Reason{Code: code}}
	}
	for range 4 {
		s.store.letters = append(s.store.letters, letter(work.EndedByExit), letter(work.EndedByTimeout))
	}
	s.look()
	s.want("with four of each class")
	s.store.letters = append(s.store.letters, letter(work.EndedByExit))
	s.passes(3)
	s.want("with five of one class", "dead-letters/EXIT_CODE open")
	s.behind = 3 * minute
	s.servers[1].Committed(kernel.Commit{Changes: []kernel.Change{{Run: &work.Run{Tenant: acme}, Type: work.StepRevoked, Data: work.RevokedData{Reason: work.Reason{Code: work.EndedByWorkerLoss}}}}})
	s.passes(1)
	if got := s.incidents(); len(got) != 3 || !slices.Contains(got, "worker-lost/ open") || !slices.Contains(got, "publisher-down/nats://broker open") {
		t.Errorf("there are %q", got)
	}
	s.behind = 0
	s.passes(40)
	if got := s.incidents(); !slices.Contains(got, "worker-lost/ resolved") || !slices.Contains(got, "publisher-down/nats://broker resolved") || !slices.Contains(got, "dead-letters/EXIT_CODE open") {
		t.Errorf("when the others are over there are %q", got)
	}
	found, err := s.servers[0].List(t.Context(), acme, false, "", 10)
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	id, by := found[0].ID, work.Actor{Name: "ada", Reason: "the disk was full"}
	if _, err := s.servers[0].Acknowledge(t.Context(), acme, id, work.Actor{Name: "ada"}); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := s.servers[0].Acknowledge(t.Context(), "zenith", id, by); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("from another tenant: %v", err)
	}
	if i, err := s.servers[0].Acknowledge(t.Context(), acme, id, by); err != nil || i.State != incident.Acknowledged || i.Acknowledged.At != s.at {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := s.servers[1].Acknowledge(t.Context(), acme, id, by); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("twice: %v", err)
	}
	if i, err := s.servers[1].Resolve(t.Context(), acme, id, by); err != nil || i.State != incident.Resolved {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := s.servers[1].Resolve(t.Context(), acme, id, by); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("resolved twice: %v", err)
	}
	// The letters are still there: that was said, and is not said again until they have gone and come back.
	s.passes(40)
	if n := len(s.incidents()); n != 3 {
		t.Errorf("what a person has resolved opened again: %q", s.incidents())
	}
	letters := s.store.letters
	s.store.letters = nil
	s.passes(20)
	s.store.letters = letters
	s.passes(1)
	if got := s.incidents(); len(got) != 4 || got[3] != "dead-letters/EXIT_CODE open" {
		t.Errorf("when they came back there are %q", got)
	}
	page, err := s.store.Feed(t.Context(), acme, -1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range page.Events {
		var told incident.Incident
		if err := json.Unmarshal(page.Events[i].Data, &told); err != nil || told.ID == "" || told.Tenant != acme {
			t.Errorf("%s tells %s, %v", page.Events[i].Type, page.Events[i].Data, err)
		}
	}
}

// A store that was away for more than a moment is told when it is back.
func TestJ6_StoreDown(t *testing.T) {
	s := newSite(t, 1)
	service := s.servers[0]
	var away error
	tenants := func(context.Context) ([]work.Tenant, error) { return []work.Tenant{acme, "zenith"}, away }
	round := func(err error, later work.Time) {
		away = err
		s.at += later
		_ = incident.Round(service, t.Context(), acme, tenants)
	}
	round(nil, 0)
	round(fmt.Errorf("gone"), 0)
	round(nil, 10*minute/60)
	s.want("after a moment")
	round(fmt.Errorf("gone"), minute)
	round(fmt.Errorf("gone"), minute)
	round(nil, minute)
	s.want("after two minutes", "store-down/ open")
	for range 20 {
		round(nil, minute)
	}
	s.want("later", "store-down/ resolved")
	if other, err := service.List(t.Context(), "zenith", true, "", 10); err != nil || len(other) != 0 {
		t.Errorf("another tenant was told %v, %v", other, err)
	}
}

// What a policy may say.
func TestPolicy(t *testing.T) {
	s := newSite(t, 1)
	bad := func(change func(*incident.Policy)) {
		t.Helper()
		p := incident.DefaultPolicy()
		change(&p)
		if err := s.servers[0].SetPolicy(t.Context(), acme, p); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", p, err)
		}
	}
	bad(func(p *incident.Policy) { p.Objective = 1 })
	bad(func(p *incident.Policy) { p.Objective = 0.1 })
	bad(func(p *incident.Policy) { p.Threshold = p.Reset })
	bad(func(p *incident.Policy) { p.Threshold = 101 })
	bad(func(p *incident.Policy) { p.Cooldown = 0 })
	bad(func(p *incident.Policy) { p.Retain = -1 })
	bad(func(p *incident.Policy) { p.DeadLetters = 0 })
	p := incident.DefaultPolicy()
	p.Threshold, p.Retain = 10, 0
	if err := s.servers[0].SetPolicy(t.Context(), acme, p); err != nil {
		t.Fatal(err)
	}
	s.ended(0, 1, work.Failed)
	s.ended(0, 19, work.Succeeded)
	if s.look() {
		t.Error("a burn of 5 turned incident mode on, which is at 10")
	}
	s.ended(0, 4, work.Failed)
	if !s.look() {
		t.Error("a burn of 20 did not turn incident mode on")
	}
	if _, err := s.servers[0].TurnOff(t.Context(), acme, work.Actor{Name: "ada", Reason: "known"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Record(t.Context(), acme, store.HoldKind, store.HoldAll); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("nothing was to be kept, and is: %v", err)
	}
	if s.passes(45) {
		t.Error("what a person has turned off went on again within the hour")
	}
	s.ended(0, 20, work.Failed)
	if !s.passes(20) {
		t.Error("it does not go on any more")
	}
}
