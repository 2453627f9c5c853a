// Package notify tells people and programs outside what happens to runs: by signed webhooks, by mail, and in chats.
//
// What is to be told is derived from the feed of the tenant: the deliveries of a part of the feed are written in the same transaction as
// the place up to which it was read, so that every event is looked at once however many servers look. A delivery is then tried until it
// succeeds or its time is over, by whichever server takes it; the one that has taken it has half a minute. So a delivery is made at least
// once; twice only when a server is lost between making it and noting that.
package notify

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store is what notifications are kept in and made of.
type Store interface {
	store.Records
	store.Feed
	Run(ctx context.Context, tenant work.Tenant, idOrName string) (work.Run, error)
	Watch(ctx context.Context) <-chan struct{}
}

// Service keeps the rules of tenants and delivers. It is safe for concurrent use.
type Service struct {
	Store     Store
	Encrypter *keyring.Encrypter // of secrets of webhooks and addresses of chats
	Post      Poster             // sends requests; see Outside
	Mail      *Mailer            // nil when the operator has set up no mail server
	Sealed    bool               // nobody outside is told
	Metrics   Metrics            // nil for nobody who counts
	Now       func() work.Time
	Log       *slog.Logger
}

// Metrics hear of every attempt: its channel, and whether it delivered, failed (it is tried again) or was given up: delivered, failed, given-up.
type Metrics interface {
	Delivered(channel, result string)
}

// What is told.
const (
	RunEnded       = "run.ended"       // a run has ended in one of the states of the rule
	ApprovalNeeded = "approval.needed" // a gate waits for people
	DeadLetter     = "dead-letter"     // a step has used up its attempts
	IncidentOpened = "incident.opened" // something needs people
	IncidentClosed = "incident.resolved"
	Test           = "notify.test" // somebody asked for it
)

// told lists what rules may name.
func told() []string {
	return []string{RunEnded, ApprovalNeeded, DeadLetter, IncidentOpened, IncidentClosed}
}

// Channels.
const (
	Webhook = "webhook"
	Mail    = "mail"
	Chat    = "chat"
)

// Rule says what is told to whom.
type Rule struct {
	ID       string       `json:"id"`
	Name     string       `json:"name"`
	Events   []string     `json:"events"`
	States   []work.State `json:"states"` // of run.ended
	Packs    []string     `json:"packs"`  // only runs of these; none means all
	Channel  string       `json:"channel"`
	URL      string       `json:"url,omitempty"` // of a webhook; that of a chat is a secret
	To       []string     `json:"to,omitempty"`  // of mail
	Disabled bool         `json:"disabled"`
	Created  work.Time    `json:"created"`
}

// kept is a rule as it is stored.
type kept struct {
	Rule
	Since  int64  `json:"since"`  // events up to here are from before
	Secret []byte `json:"secret"` // encrypted: of a webhook the key, of a chat the address
}

// Kinds of records.
const (
	kindRule     = "notify-rule"
	kindCursor   = "notify-cursor"
	kindDelivery = "notify-delivery" // "rule/position"
	kindDue      = "notify-due"      // "time/rule/position", in the order in which they are due
	cursorID     = "feed"
)

// Bounds.
const (
	maxRules   = 100
	maxEntries = 50 // of a list in a rule
)

func about(tenant work.Tenant, id string) string { return "notification " + string(tenant) + "/" + id }

// Create makes a rule. The secret of a webhook is returned here and never again. Errors: fault.Invalid, fault.Exhausted.
func (s *Service) Create(ctx context.Context, tenant work.Tenant, r Rule) (Rule, string, error) {
	address := r.URL
	if err := s.check(&r); err != nil {
		return r, "", err
	}
	if s.Sealed {
		return r, "", sealed()
	}
	all, err := s.Rules(ctx, tenant)
	if err != nil {
		return r, "", err
	}
	if len(all) >= maxRules {
		return r, "", fault.New(fault.Exhausted, "a tenant has %d notifications at most", maxRules)
	}
	end, err := s.Store.FeedEnd(ctx, tenant)
	if err != nil {
		return r, "", err
	}
	r.ID, r.Created = "ntf_"+strings.ToLower(rand.Text()[:16]), s.Now()
	store.About(ctx, r.ID)
	k, shown := kept{Rule: r, Since: end.Number}, ""
	switch r.Channel {
	case Webhook:
		shown = newSecret()
		k.Secret = s.Encrypter.Encrypt([]byte(shown), about(tenant, r.ID))
	case Chat:
		k.Secret, k.URL = s.Encrypter.Encrypt([]byte(address), about(tenant, r.ID)), ""
	}
	changes := []store.RecordChange{record(store.Record{Tenant: tenant, Kind: kindRule, ID: r.ID}, k)}
	if _, err := s.Store.Record(ctx, tenant, kindCursor, cursorID); fault.CodeOf(err) == fault.NotFound {
		changes = append(changes, record(store.Record{Tenant: tenant, Kind: kindCursor, ID: cursorID}, cursor{end.Incarnation, end.Number}))
	} else if err != nil {
		return r, "", err
	}
	return k.Rule, shown, s.Store.Change(ctx, changes...)
}

// sealed is why nobody is told.
func sealed() error {
	return fault.New(fault.Denied, "this installation is sealed: nobody outside is notified").WithHint("read what happens with: orrery runs list, orrery incidents list")
}

func newSecret() string {
	var raw [24]byte
	_, _ = rand.Read(raw[:]) // never fails, by its documentation
	return "whsec_" + base64.StdEncoding.EncodeToString(raw[:])
}

// record is a change of a record to what JSON makes of v.
func record(r store.Record, v any) store.RecordChange {
	raw, err := json.Marshal(v)
	if err != nil { // structs of texts and numbers have a JSON form
		raw = []byte("null")
	}
	r.Doc = raw
	return store.RecordChange{Record: r}
}

func (s *Service) check(r *Rule) error {
	if r.Name == "" || len(r.Name) > 100 {
		return fault.New(fault.Invalid, "a notification has a name of at most 100 bytes")
	}
	if len(r.Events) == 0 {
		r.Events = told()
	}
	for _, e := range r.Events {
		if !slices.Contains(told(), e) {
			return fault.New(fault.Invalid, "there is no event %q to be notified of", e).WithHint("use %s", strings.Join(told(), ", "))
		}
	}
	if len(r.States) == 0 {
		r.States = []work.State{work.Failed, work.TimedOut}
	}
	for _, state := range r.States {
		if !state.Terminal() {
			return fault.New(fault.Invalid, "no run ends as %q", state).WithHint("use succeeded, failed, timed-out, cancelled")
		}
	}
	if max(len(r.Events), len(r.States), len(r.Packs), len(r.To)) > maxEntries {
		return fault.New(fault.Invalid, "a list of a notification has %d entries at most", maxEntries)
	}
	switch r.Channel {
	case Webhook, Chat:
		if len(r.To) > 0 {
			return fault.New(fault.Invalid, "only mail has receivers")
		}
		return checkURL(r.URL)
	case Mail:
		if s.Mail == nil {
			return fault.New(fault.Unavailable, "this installation sends no mail").WithHint("the operator names a mail server with --mail-url")
		}
		if r.URL != "" {
			return fault.New(fault.Invalid, "mail has receivers and no URL")
		}
		return checkReceivers(r.To)
	}
	return fault.New(fault.Invalid, "a notification goes by webhook, mail or chat, not %q", r.Channel)
}

// Rules returns the rules of a tenant by id.
func (s *Service) Rules(ctx context.Context, tenant work.Tenant) ([]Rule, error) {
	all, err := s.kept(ctx, tenant)
	out := make([]Rule, len(all))
	for i := range all {
		out[i] = all[i].Rule
	}
	return out, err
}

func (s *Service) kept(ctx context.Context, tenant work.Tenant) ([]kept, error) {
	rows, err := s.Store.Records(ctx, tenant, kindRule, "", "", maxRules)
	if err != nil {
		return nil, err
	}
	out := make([]kept, len(rows))
	for i := range rows {
		if err := decode(&rows[i], &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func decode(r *store.Record, v any) error {
	return fault.Wrap(fault.Internal, json.Unmarshal(r.Doc, v), "the record %s %s", r.Kind, r.ID)
}

// Rule returns a rule. Error: fault.NotFound.
func (s *Service) Rule(ctx context.Context, tenant work.Tenant, id string) (Rule, error) {
	k, _, err := s.one(ctx, tenant, id)
	return k.Rule, err
}

func (s *Service) one(ctx context.Context, tenant work.Tenant, id string) (k kept, version int64, err error) {
	r, err := s.Store.Record(ctx, tenant, kindRule, id)
	if err != nil {
		return k, 0, err
	}
	return k, r.Version, decode(&r, &k)
}

// Update replaces a rule. Its channel stays, and so do the secret of a webhook and, without a new one, the address of a chat. Errors:
// fault.NotFound, fault.Invalid, fault.Conflict when somebody else has changed it meanwhile.
func (s *Service) Update(ctx context.Context, tenant work.Tenant, id string, r Rule) (Rule, error) {
	k, version, err := s.one(ctx, tenant, id)
	if err != nil {
		return r, err
	}
	if r.Channel != k.Channel {
		return r, fault.New(fault.Invalid, "the channel of a notification stays").WithHint("make another one")
	}
	address := r.URL
	if r.Channel == Chat && address == "" {
		r.URL = "https://unchanged.invalid/"
	}
	if err := s.check(&r); err != nil {
		return r, err
	}
	r.ID, r.Created = k.ID, k.Created
	if r.Channel == Chat {
		r.URL = ""
		if address != "" {
			k.Secret = s.Encrypter.Encrypt([]byte(address), about(tenant, id))
		}
	}
	k.Rule = r
	return r, s.Store.Change(ctx, record(store.Record{Tenant: tenant, Kind: kindRule, ID: id, Version: version}, k))
}

// Delete removes a rule. What was not delivered yet is not. Error: fault.NotFound.
func (s *Service) Delete(ctx context.Context, tenant work.Tenant, id string) error {
	_, version, err := s.one(ctx, tenant, id)
	if err != nil {
		return err
	}
	return s.Store.Change(ctx, store.RecordChange{Record: store.Record{Tenant: tenant, Kind: kindRule, ID: id, Version: version}, Delete: true})
}

// wants reports whether a rule is about a message.
func (k *kept) wants(m *Message) bool {
	return !k.Disabled && m.position > k.Since && slices.Contains(k.Events, m.Type) &&
		(m.Type != RunEnded || slices.Contains(k.States, m.Data.State)) && (len(k.Packs) == 0 || slices.Contains(k.Packs, m.Data.Pack))
}
