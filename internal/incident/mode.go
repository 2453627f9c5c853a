package incident

import (
	"context"
	"fmt"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Policy says when incident mode goes on and off by itself in a tenant, and what it keeps.
type Policy struct {
	Objective   float64 `json:"objective"`       // share of runs that do not fail
	Threshold   float64 `json:"threshold"`       // the burn over an hour that turns incident mode on
	Reset       float64 `json:"reset"`           // below it for the whole cooldown, incident mode goes off
	Cooldown    int     `json:"cooldownMinutes"` // also how long a cause is gone before its incident is resolved
	Retain      int     `json:"retainHours"`     // how long nothing is deleted after incident mode
	DeadLetters int     `json:"deadLetters"`     // of one class that open an incident
}

// DefaultPolicy is that of a tenant that has set none.
func DefaultPolicy() Policy {
	return Policy{Objective: 0.99, Threshold: 2.5, Reset: 0.4, Cooldown: 15, Retain: 48, DeadLetters: 5}
}

func (p *Policy) cooldown() work.Time { return work.Time(p.Cooldown) * minute }
func (p *Policy) retain() work.Time   { return work.Time(p.Retain) * hour }

// Mode is incident mode: while it is on, the servers log every request and everything that goes on beside requests, and nothing of the tenant
// is deleted, nor for some time after.
type Mode struct {
	On    bool        `json:"on"`
	Since work.Time   `json:"since,omitzero"` // it is as it is
	By    *work.Actor `json:"by,omitempty"`
	Until work.Time   `json:"until,omitzero"` // a person has turned it on until then; zero while the burn decides
	Quiet work.Time   `json:"quiet,omitzero"` // since when the burn is below the reset
	Kept  work.Time   `json:"kept,omitzero"`  // until then nothing is deleted
}

const (
	kindMode   = "incident-mode"
	kindPolicy = "incident-policy"
	longest    = 7 * 24 * time.Hour // that a person may turn incident mode on for
)

// Policy returns the policy of a tenant.
func (s *Service) Policy(ctx context.Context, tenant work.Tenant) (Policy, error) {
	p, _, err := s.policy(ctx, tenant)
	return p, err
}

func (s *Service) policy(ctx context.Context, tenant work.Tenant) (p Policy, version int64, err error) {
	p = DefaultPolicy()
	r, err := s.Store.Record(ctx, tenant, kindPolicy, kindPolicy)
	if fault.CodeOf(err) == fault.NotFound {
		return p, 0, nil
	}
	if err != nil {
		return p, 0, err
	}
	return p, r.Version, decode(&r, &p)
}

// SetPolicy replaces the policy of a tenant. Error: fault.Invalid.
func (s *Service) SetPolicy(ctx context.Context, tenant work.Tenant, p Policy) error {
	switch {
	case p.Objective < 0.5 || p.Objective > 0.9999:
		return fault.New(fault.Invalid, "an objective is a share from 0.5 to 0.9999, not %v", p.Objective)
	case p.Reset <= 0 || p.Threshold <= p.Reset || p.Threshold > 1/(1-p.Objective):
		return fault.New(fault.Invalid, "a burn turns incident mode on at a threshold above the reset of %v, and cannot be more than %.4g with this objective", p.Reset, 1/(1-p.Objective))
	case p.Cooldown < 1 || p.Cooldown > 24*60:
		return fault.New(fault.Invalid, "a cooldown is 1 to 1440 minutes, not %d", p.Cooldown)
	case p.Retain < 0 || p.Retain > 24*365:
		return fault.New(fault.Invalid, "nothing is deleted for 0 to 8760 hours after incident mode, not %d", p.Retain)
	case p.DeadLetters < 1 || p.DeadLetters > deadLettersRead:
		return fault.New(fault.Invalid, "1 to %d dead letters of a class open an incident, not %d", deadLettersRead, p.DeadLetters)
	}
	_, version, err := s.policy(ctx, tenant)
	if err != nil {
		return err
	}
	store.About(ctx, kindPolicy)
	return s.Store.Change(ctx, put(tenant, kindPolicy, kindPolicy, version, 0, p))
}

// Mode returns incident mode as it is in a tenant.
func (s *Service) Mode(ctx context.Context, tenant work.Tenant) (Mode, error) {
	m, _, err := s.mode(ctx, tenant)
	return m, err
}

func (s *Service) mode(ctx context.Context, tenant work.Tenant) (m Mode, version int64, err error) {
	r, err := s.Store.Record(ctx, tenant, kindMode, kindMode)
	if fault.CodeOf(err) == fault.NotFound {
		return m, 0, nil
	}
	if err != nil {
		return m, 0, err
	}
	return m, r.Version, decode(&r, &m)
}

// TurnOn turns incident mode on for a time, or for another time. Errors: fault.Invalid.
func (s *Service) TurnOn(ctx context.Context, tenant work.Tenant, long time.Duration, by work.Actor) (Mode, error) {
	if long < time.Minute || long > longest {
		return Mode{}, fault.New(fault.Invalid, "incident mode is on for a minute to %s, not %s", longest, long)
	}
	if by.Reason == "" {
		return Mode{}, fault.New(fault.Invalid, "whoever turns incident mode on says why").WithHint("add a reason")
	}
	_, version, err := s.mode(ctx, tenant)
	if err != nil {
		return Mode{}, err
	}
	by.At = s.Now()
	return s.turn(ctx, tenant, version, Mode{On: true, Since: by.At, By: &by, Until: by.At.Add(long)})
}

// TurnOff turns incident mode off; the burn does not turn it on again for an hour. Errors: fault.Invalid, fault.Conflict when it is off.
func (s *Service) TurnOff(ctx context.Context, tenant work.Tenant, by work.Actor) (Mode, error) {
	if by.Reason == "" {
		return Mode{}, fault.New(fault.Invalid, "whoever turns incident mode off says why").WithHint("add a reason")
	}
	m, version, err := s.mode(ctx, tenant)
	if err != nil {
		return m, err
	}
	if !m.On {
		return m, fault.New(fault.Conflict, "incident mode is off")
	}
	by.At = s.Now()
	return s.turn(ctx, tenant, version, Mode{Since: by.At, By: &by})
}

// turn notes the mode, holds what retention would delete, and announces it.
func (s *Service) turn(ctx context.Context, tenant work.Tenant, version int64, m Mode) (Mode, error) {
	changes, err := s.hold(ctx, tenant, &m)
	if err != nil {
		return m, err
	}
	event := ModeOff
	if m.On {
		event = ModeOn
	}
	store.About(ctx, kindMode)
	return m, s.Store.Announce(ctx, tenant, event, m, append(changes, put(tenant, kindMode, kindMode, version, 0, m))...)
}

// hold keeps everything of the tenant from retention for as long as the mode is known to last, and some time after.
func (s *Service) hold(ctx context.Context, tenant work.Tenant, m *Mode) ([]store.RecordChange, error) {
	p, err := s.Policy(ctx, tenant)
	if err != nil {
		return nil, err
	}
	m.Kept = max(s.Now(), m.Until) + p.retain()
	if m.On && m.Until == 0 {
		m.Kept += renewed // and is put off with every look that comes near to it
	}
	old, err := s.Store.Record(ctx, tenant, store.HoldKind, store.HoldAll)
	if err != nil && fault.CodeOf(err) != fault.NotFound {
		return nil, err
	}
	if m.Kept <= s.Now() {
		if old.Version == 0 {
			return nil, nil
		}
		return []store.RecordChange{{Record: old, Delete: true}}, nil
	}
	// The document of a legal hold, as package retention has it.
	doc := struct {
		On string     `json:"on"`
		By work.Actor `json:"by"`
	}{store.HoldAll, work.Actor{Name: m.By.Name, Reason: "incident mode: " + m.By.Reason, Ticket: m.By.Ticket, At: s.Now()}}
	return []store.RecordChange{put(tenant, store.HoldKind, store.HoldAll, old.Version, m.Kept, doc)}, nil
}

// renewed is how far ahead a hold reaches while nobody knows how long incident mode lasts.
const renewed = day

// decide turns incident mode on and off by the burn over an hour, and off when the time that a person gave it is over. It returns whether it is on.
func (s *Service) decide(ctx context.Context, tenant work.Tenant, p *Policy, b Burn) (bool, error) {
	m, version, err := s.mode(ctx, tenant)
	if err != nil {
		return false, err
	}
	now := s.Now()
	by := work.Actor{Name: robot, At: now}
	next := Mode{Since: now, By: &by}
	low := b.Burn < p.Reset || b.Ended < least
	told := m.By != nil && m.By.Name != robot && now-m.Since < hour // what a person said counts as long as what was so then does
	switch {
	case !m.On && !told && b.Ended >= least && b.Burn >= p.Threshold:
		next.On, by.Reason = true, fmt.Sprintf("the error budget burns %.1f times too fast: %d of %d runs of the last hour failed", b.Burn, b.Failed, b.Ended)
	case !m.On:
		return false, nil
	case m.Until != 0 && now >= m.Until:
		by.Reason = "its time is over"
	case m.Until != 0:
		return true, nil
	case low && m.Quiet == 0:
		m.Quiet = now
		return true, conflictIsFine(s.Store.Change(ctx, put(tenant, kindMode, kindMode, version, 0, m)))
	case low && now-m.Quiet >= p.cooldown():
		by.Reason = "the error budget has not burned since " + m.Quiet.String()
	case !low && m.Quiet != 0:
		m.Quiet = 0
		return true, conflictIsFine(s.Store.Change(ctx, put(tenant, kindMode, kindMode, version, 0, m)))
	case m.Kept-now < p.retain()+renewed/2:
		changes, err := s.hold(ctx, tenant, &m)
		if err != nil {
			return true, err
		}
		return true, conflictIsFine(s.Store.Change(ctx, append(changes, put(tenant, kindMode, kindMode, version, 0, m))...))
	default:
		return true, nil
	}
	audited := store.WithAudit(ctx, &store.Audit{Tenant: tenant, Action: "turnIncidentMode", Actor: robot, Kind: "service", Reason: by.Reason})
	_, err = s.turn(audited, tenant, version, next)
	return next.On, conflictIsFine(err)
}
