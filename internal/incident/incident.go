// Package incident keeps what needs people: it opens an incident when an error budget burns, dead letters of one class gather, workers are
// lost, or the store or a broker is away, resolves it when that has been over for a while, and turns on incident mode.
//
// An incident is a record; what happens to it is an event of the tenant, so that streams, brokers and notifications tell it as they tell
// everything else. There is at most one of a cause and subject that is not resolved, however many servers look.
package incident

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store is what incidents are kept in and made of.
type Store interface {
	store.Records
	DeadLetters(ctx context.Context, tenant work.Tenant, limit int) ([]store.DeadLetter, error)
}

// Service keeps the incidents of tenants. It is safe for concurrent use, also on several servers.
type Service struct {
	Store Store
	Now   func() work.Time
	Log   *slog.Logger

	// Behind returns for how long the oldest event that a broker has not got waits, by broker; nil where nothing is published.
	Behind func(ctx context.Context, tenant work.Tenant) (map[string]work.Time, error)

	Verbose func(on bool) // is told whether incident mode is on in a tenant; nil for nobody

	mu    sync.Mutex
	tally map[work.Tenant]cell // that is not written yet
	away  work.Time            // since when the store does not answer
}

// What opens an incident.
const (
	ErrorBudget   = "error-budget"   // more runs fail than the objective allows
	DeadLetters   = "dead-letters"   // steps used up their attempts for one reason, which is the subject
	WorkerLost    = "worker-lost"    // leases ended because their workers were lost
	PublisherDown = "publisher-down" // events wait for the broker that is the subject
	StoreDown     = "store-down"     // the store did not answer; opened when it does again
)

// States of an incident.
const (
	Open         = "open"
	Acknowledged = "acknowledged"
	Resolved     = "resolved"
)

// Events of a tenant. The data of the first three is an Incident, of the others a Mode.
const (
	Opened  work.EventType = "incident.opened"
	Acked   work.EventType = "incident.acknowledged"
	Closed  work.EventType = "incident.resolved"
	ModeOn  work.EventType = "incident.mode-on"
	ModeOff work.EventType = "incident.mode-off"

	robot              = "orrery"                   // who opens and resolves by itself
	kind               = "incident"                 // Incident by id
	kindOpen           = "incident-open"            // the id of the incident whose cause is there, by cause and subject
	remember work.Time = 90 * 24 * 3600 * 1_000_000 // how long a resolved incident is listed
)

// Incident is one of them.
type Incident struct {
	ID           string      `json:"id"`
	Tenant       work.Tenant `json:"tenant"`
	Cause        string      `json:"cause"`
	Subject      string      `json:"subject,omitempty"`
	State        string      `json:"state"`
	Message      string      `json:"message"`
	Closes       string      `json:"closes"` // the condition under which it is resolved without people
	Opened       work.Time   `json:"opened"`
	Seen         work.Time   `json:"seen"` // when its cause was there last
	Acknowledged *work.Actor `json:"acknowledged,omitempty"`
	Resolved     *work.Actor `json:"resolved,omitempty"`
}

// expires is when what is resolved is forgotten.
func (i *Incident) expires() work.Time {
	if i.State != Resolved {
		return 0
	}
	return max(i.Resolved.At, i.Seen) + remember
}

func openID(cause, subject string) string { return cause + "/" + subject }

// List returns the incidents of a tenant behind an id, oldest first, at most limit; those that are resolved only when all is set.
func (s *Service) List(ctx context.Context, tenant work.Tenant, all bool, after string, limit int) ([]Incident, error) {
	out := []Incident{}
	for len(out) < limit {
		rows, err := s.Store.Records(ctx, tenant, kind, "", after, limit)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			after = rows[i].ID
			var one Incident
			if err := decode(&rows[i], &one); err != nil {
				return nil, err
			}
			if (all || one.State != Resolved) && len(out) < limit {
				out = append(out, one)
			}
		}
		if len(rows) < limit {
			break
		}
	}
	return out, nil
}

// Incident returns one. Error: fault.NotFound.
func (s *Service) Incident(ctx context.Context, tenant work.Tenant, id string) (Incident, error) {
	one, _, err := s.one(ctx, tenant, id)
	return one, err
}

func (s *Service) one(ctx context.Context, tenant work.Tenant, id string) (i Incident, version int64, err error) {
	r, err := s.Store.Record(ctx, tenant, kind, id)
	if err != nil {
		return i, 0, err
	}
	return i, r.Version, decode(&r, &i)
}

func decode(r *store.Record, v any) error {
	return fault.Wrap(fault.Internal, json.Unmarshal(r.Doc, v), "the record %s %s", r.Kind, r.ID)
}

// put is a change of a record to what JSON makes of v.
func put(tenant work.Tenant, kind, id string, version int64, expires work.Time, v any) store.RecordChange {
	raw, err := json.Marshal(v)
	if err != nil { // structs of texts and numbers have a JSON form
		raw = []byte("null")
	}
	return store.RecordChange{Record: store.Record{Tenant: tenant, Kind: kind, ID: id, Version: version, Doc: raw, Expires: expires}}
}

// Acknowledge says that somebody is at it. Errors: fault.NotFound; fault.Conflict for one that is not open; fault.Invalid without a reason.
func (s *Service) Acknowledge(ctx context.Context, tenant work.Tenant, id string, by work.Actor) (Incident, error) {
	i, version, err := s.mine(ctx, tenant, id, &by)
	if err != nil {
		return i, err
	}
	if i.State != Open {
		return i, fault.New(fault.Conflict, "the incident %s is %s, by %s", id, i.State, cmp.Or(i.Resolved, i.Acknowledged).Name)
	}
	i.State, i.Acknowledged = Acknowledged, &by
	return i, s.Store.Announce(ctx, tenant, Acked, i, put(tenant, kind, id, version, 0, i))
}

// Resolve ends it. While its cause is still there it opens no other; when it has been gone for the cooldown and comes back, it does. Errors: fault.NotFound; fault.Conflict for one that is resolved;
// fault.Invalid without a reason.
func (s *Service) Resolve(ctx context.Context, tenant work.Tenant, id string, by work.Actor) (Incident, error) {
	i, version, err := s.mine(ctx, tenant, id, &by)
	if err != nil {
		return i, err
	}
	if i.State == Resolved {
		return i, fault.New(fault.Conflict, "the incident %s is resolved, by %s", id, i.Resolved.Name)
	}
	i.State, i.Resolved = Resolved, &by
	return i, s.Store.Announce(ctx, tenant, Closed, i, put(tenant, kind, id, version, i.expires(), i))
}

func (s *Service) mine(ctx context.Context, tenant work.Tenant, id string, by *work.Actor) (Incident, int64, error) {
	if by.Reason == "" {
		return Incident{}, 0, fault.New(fault.Invalid, "whoever acknowledges or resolves an incident says why").WithHint("add a reason")
	}
	store.About(ctx, id)
	by.At = s.Now()
	return s.one(ctx, tenant, id)
}

// forget ends what concerns a cause that is not there any more.
func (s *Service) forget(ctx context.Context, i *Incident, version int64) error {
	open, err := s.Store.Record(ctx, i.Tenant, kindOpen, openID(i.Cause, i.Subject))
	if fault.CodeOf(err) == fault.NotFound { // another server was faster
		return nil
	}
	if err != nil {
		return err
	}
	gone := store.RecordChange{Record: open, Delete: true}
	if i.State == Resolved {
		return s.Store.Change(ctx, gone)
	}
	by := work.Actor{Name: robot, Reason: "its cause has been gone since " + i.Seen.String(), At: s.Now()}
	i.State, i.Resolved = Resolved, &by
	ctx = store.WithAudit(ctx, &store.Audit{Tenant: i.Tenant, Action: "resolveIncident", Actor: robot, Kind: "service", Subject: i.ID, Reason: by.Reason})
	return s.Store.Announce(ctx, i.Tenant, Closed, i, gone, put(i.Tenant, kind, i.ID, version, i.expires(), i))
}

// present returns those whose cause is there or was a moment ago, by cause and subject, with their versions. People may have resolved them.
func (s *Service) present(ctx context.Context, tenant work.Tenant) (map[string]*Incident, map[string]int64, error) {
	rows, err := s.Store.Records(ctx, tenant, kindOpen, "", "", 0)
	found, versions := map[string]*Incident{}, map[string]int64{}
	for i := range rows {
		var id string
		if err := decode(&rows[i], &id); err != nil {
			return nil, nil, err
		}
		one, version, err := s.one(ctx, tenant, id)
		if fault.CodeOf(err) == fault.NotFound { // resolved at this moment
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		found[rows[i].ID], versions[rows[i].ID] = &one, version
	}
	return found, versions, err
}

// open makes an incident. Error: fault.Conflict when there is one of the cause and subject by now.
func (s *Service) open(ctx context.Context, tenant work.Tenant, c *condition) error {
	now := s.Now()
	i := Incident{
		ID: fmt.Sprintf("inc_%013x%s", int64(now), strings.ToLower(rand.Text()[:8])), Tenant: tenant, Cause: c.cause, Subject: c.subject, State: Open,
		Message: c.message, Closes: c.closes, Opened: now, Seen: now,
	}
	ctx = store.WithAudit(ctx, &store.Audit{Tenant: tenant, Action: "openIncident", Actor: robot, Kind: "service", Subject: i.ID, Reason: i.Message})
	return s.Store.Announce(ctx, tenant, Opened, i,
		put(tenant, kindOpen, openID(c.cause, c.subject), 0, 0, i.ID), put(tenant, kind, i.ID, 0, 0, i))
}

// condition is a cause that is there now.
type condition struct {
	cause, subject, message, closes string
	opens                           bool // it is bad enough for a new incident; else only for one that is there
}

// settle opens, keeps and resolves incidents by what is the case now.
func (s *Service) settle(ctx context.Context, tenant work.Tenant, p *Policy, now []condition) error {
	found, versions, err := s.present(ctx, tenant)
	if err != nil {
		return err
	}
	at, cooldown := s.Now(), p.cooldown()
	for n := range now {
		c := &now[n]
		i := found[openID(c.cause, c.subject)]
		switch {
		case i == nil && c.opens:
			err = s.open(ctx, tenant, c)
		case i != nil && at-i.Seen > cooldown/5: // not with every look
			i.Seen = at
			err = s.Store.Change(ctx, put(tenant, kind, i.ID, versions[openID(c.cause, c.subject)], i.expires(), i))
		}
		if err = conflictIsFine(err); err != nil {
			return err
		}
		delete(found, openID(c.cause, c.subject))
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if i := found[key]; at-i.Seen >= cooldown {
			if err := conflictIsFine(s.forget(ctx, i, versions[key])); err != nil {
				return err
			}
		}
	}
	return nil
}

func conflictIsFine(err error) error {
	if fault.CodeOf(err) == fault.Conflict { // another server or a person was faster
		return nil
	}
	return err
}
