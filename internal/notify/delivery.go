package notify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Delivery is one message to one receiver, with what became of it.
type Delivery struct {
	ID       string          `json:"id"`
	Rule     string          `json:"rule"`
	Type     string          `json:"type"`
	State    string          `json:"state"` // pending, delivered, failed
	Created  work.Time       `json:"created"`
	Next     work.Time       `json:"next,omitzero"` // the next attempt, while pending
	Tries    int             `json:"tries"`
	Attempts []Attempt       `json:"attempts"` // the last ten
	Body     json.RawMessage `json:"body"`
}

// Attempt is one try.
type Attempt struct {
	At      work.Time `json:"at"`
	TookMs  int64     `json:"tookMs"`
	Status  int       `json:"status,omitempty"` // of HTTP or SMTP
	Error   string    `json:"error,omitempty"`
	Excerpt string    `json:"excerpt,omitempty"` // of the answer, at most 1 KiB
}

// States of a delivery.
const (
	Pending   = "pending"
	Delivered = "delivered"
	Failed    = "failed"
)

const (
	second   work.Time = 1_000_000
	hold               = 30 * second        // how long the server that takes a delivery has
	firstGap           = 5 * second         // between attempts; three times as long after each
	longest            = 4 * 3600 * second  //
	giveUp             = 72 * 3600 * second // after this a delivery has failed
	logged             = 30 * 24 * 3600 * second
	attempts           = 10
	tryLimit           = 20 * time.Second // one attempt
	page               = 200
	atOnce             = 8
)

// cursor is how far the feed of a tenant has been looked at.
type cursor struct {
	Incarnation int64 `json:"incarnation"`
	Position    int64 `json:"position"`
}

func dueID(at work.Time, delivery string) string { return fmt.Sprintf("%020d/%s", at, delivery) }

// enqueue is the changes that put a delivery before the senders.
func enqueue(tenant work.Tenant, d *Delivery) []store.RecordChange {
	return []store.RecordChange{
		record(store.Record{Tenant: tenant, Kind: kindDelivery, ID: d.ID, Expires: d.Created + logged}, d),
		record(store.Record{Tenant: tenant, Kind: kindDue, ID: dueID(d.Next, d.ID)}, struct{}{}),
	}
}

func newDelivery(rule, suffix string, m *Message, now work.Time) *Delivery {
	body, err := json.Marshal(m)
	if err != nil { // texts and numbers have a JSON form
		body = nil
	}
	return &Delivery{ID: rule + "/" + suffix, Rule: rule, Type: m.Type, State: Pending, Created: now, Next: now, Attempts: []Attempt{}, Body: body}
}

// Test sends a message of its own to the receiver of a rule. Error: fault.NotFound.
func (s *Service) Test(ctx context.Context, tenant work.Tenant, rule string) (Delivery, error) {
	if _, _, err := s.one(ctx, tenant, rule); err != nil {
		return Delivery{}, err
	}
	m := &Message{Type: Test, Timestamp: s.Now(), Data: Subject{Tenant: tenant, Project: "default", CorrelationID: rule}}
	d := newDelivery(rule, "t"+strings.ToLower(rand.Text()[:12]), m, s.Now())
	return *d, s.Store.Change(ctx, enqueue(tenant, d)...)
}

// Redeliver sends the message of a delivery again, as a new one. Error: fault.NotFound.
func (s *Service) Redeliver(ctx context.Context, tenant work.Tenant, rule, id string) (Delivery, error) {
	if _, _, err := s.one(ctx, tenant, rule); err != nil {
		return Delivery{}, err
	}
	old, _, err := s.delivery(ctx, tenant, rule+"/"+id)
	if err != nil {
		return old, err
	}
	original, _, _ := strings.Cut(id, ".")
	now := s.Now()
	d := &Delivery{
		ID: rule + "/" + original + "." + strings.ToLower(rand.Text()[:8]), Rule: rule, Type: old.Type, State: Pending, Created: now, Next: now,
		Attempts: []Attempt{}, Body: old.Body,
	}
	return *d, s.Store.Change(ctx, enqueue(tenant, d)...)
}

func (s *Service) delivery(ctx context.Context, tenant work.Tenant, id string) (d Delivery, version int64, err error) {
	r, err := s.Store.Record(ctx, tenant, kindDelivery, id)
	if err != nil {
		return d, 0, err
	}
	return d, r.Version, decode(&r, &d)
}

// Deliveries returns the deliveries of a rule behind an id, at most limit. Error: fault.NotFound.
func (s *Service) Deliveries(ctx context.Context, tenant work.Tenant, rule, after string, limit int) ([]Delivery, error) {
	if _, _, err := s.one(ctx, tenant, rule); err != nil {
		return nil, err
	}
	if after != "" {
		after = rule + "/" + after
	}
	rows, err := s.Store.Records(ctx, tenant, kindDelivery, rule+"/", after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Delivery, len(rows))
	for i := range rows {
		if err := decode(&rows[i], &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Scan looks at what has happened in a tenant since the last look and puts the deliveries that follow before the senders. It reports whether there
// may be more.
func (s *Service) Scan(ctx context.Context, tenant work.Tenant) (more bool, err error) {
	row, err := s.Store.Record(ctx, tenant, kindCursor, cursorID)
	if err != nil {
		if fault.CodeOf(err) == fault.NotFound { // the tenant has never had a rule
			err = nil
		}
		return false, err
	}
	var c cursor
	if err := decode(&row, &c); err != nil {
		return false, err
	}
	end, err := s.Store.FeedEnd(ctx, tenant)
	if err != nil {
		return false, err
	}
	if c.Incarnation != end.Incarnation { // restored from a backup: cursor and feed are of the same moment
		c.Incarnation, c.Position = end.Incarnation, min(c.Position, end.Number)
	}
	found, err := s.Store.Feed(ctx, tenant, c.Position, page)
	if err != nil || len(found.Events) == 0 {
		return false, err
	}
	rules, err := s.kept(ctx, tenant)
	if err != nil {
		return false, err
	}
	c.Position = found.Events[len(found.Events)-1].Position
	changes := []store.RecordChange{record(store.Record{Tenant: tenant, Kind: kindCursor, ID: cursorID, Version: row.Version}, c)}
	now := s.Now()
	for i := range found.Events {
		more, err := s.derive(ctx, tenant, rules, &found.Events[i], now)
		if err != nil {
			return false, err
		}
		changes = append(changes, more...)
	}
	err = s.Store.Change(ctx, changes...)
	if fault.CodeOf(err) == fault.Conflict { // another server was faster
		return true, nil
	}
	return len(found.Events) == page, err
}

// derive returns the deliveries of one event.
func (s *Service) derive(ctx context.Context, tenant work.Tenant, rules []kept, e *store.FeedEvent, now work.Time) (changes []store.RecordChange, err error) {
	m := messageOf(&e.Event)
	if m == nil {
		return nil, nil
	}
	m.position = e.Position
	if m.Data.Incident == "" {
		if err := s.aboutRun(ctx, tenant, m); err != nil {
			return nil, err
		}
	}
	for i := range rules {
		if rules[i].wants(m) {
			changes = append(changes, enqueue(tenant, newDelivery(rules[i].ID, fmt.Sprintf("%019d", e.Position), m, now))...)
		}
	}
	return changes, nil
}

// aboutRun fills in what a message says of its run.
func (s *Service) aboutRun(ctx context.Context, tenant work.Tenant, m *Message) error {
	d := &m.Data
	run, err := s.Store.Run(ctx, tenant, string(d.Run))
	if err != nil && fault.CodeOf(err) != fault.NotFound { // deleted meanwhile: what the event says is told
		return err
	}
	d.RunName, d.Pack, d.Project, d.CorrelationID, d.JobType = run.Name, run.Pack.Name, run.Project, string(d.Run), "pack-run"
	if len(run.TraceParent) == 55 {
		d.CorrelationID = run.TraceParent[3:35]
	}
	if d.Project == "" {
		d.Project = "default"
	}
	return nil
}

// Send makes the deliveries of a tenant that are due, a few at a time, and returns when the next one is; zero for none.
func (s *Service) Send(ctx context.Context, tenant work.Tenant) (next work.Time, err error) {
	for ctx.Err() == nil {
		due, err := s.Store.Records(ctx, tenant, kindDue, "", "", atOnce)
		if err != nil || len(due) == 0 {
			return 0, err
		}
		var group sync.WaitGroup
		taken, first := 0, work.Time(0)
		for i := range due {
			at, id, _ := strings.Cut(due[i].ID, "/")
			micros, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				return 0, fault.Wrap(fault.Internal, err, "a delivery that is due")
			}
			if work.Time(micros) > s.Now() {
				first = work.Time(micros)
				break
			}
			taken++
			group.Go(func() {
				if err := s.send(ctx, tenant, due[i], id); err != nil && ctx.Err() == nil {
					s.Log.Error("a notification", "tenant", tenant, "delivery", id, "error", err)
				}
			})
		}
		group.Wait()
		if first != 0 || taken == 0 {
			return first, nil
		}
	}
	return 0, ctx.Err()
}

// send takes a delivery, so that no other server has it for a while, tries it, and notes what became of it.
func (s *Service) send(ctx context.Context, tenant work.Tenant, due store.Record, id string) error {
	d, version, err := s.delivery(ctx, tenant, id)
	gone := store.RecordChange{Record: due, Delete: true}
	if fault.CodeOf(err) == fault.NotFound || err == nil && d.State != Pending { // the log has forgotten it
		return conflictIsFine(s.Store.Change(ctx, gone))
	}
	if err != nil {
		return err
	}
	d.Tries++
	d.Next = s.Now() + hold
	held := store.Record{Tenant: tenant, Kind: kindDue, ID: dueID(d.Next, id)}
	row := store.Record{Tenant: tenant, Kind: kindDelivery, ID: id, Version: version, Expires: d.Created + logged}
	if err := s.Store.Change(ctx, gone, record(held, struct{}{}), record(row, d)); err != nil {
		return conflictIsFine(err)
	}
	attempt, channel, forGood := s.try(ctx, tenant, &d)
	if ctx.Err() != nil && attempt.Error != "" {
		return nil // the server stops: whoever comes next tries again when the time of this one is over
	}
	d.Attempts = append(d.Attempts, attempt)
	if n := len(d.Attempts); n > attempts {
		d.Attempts = d.Attempts[n-attempts:]
	}
	held.Version, row.Version = 1, version+1
	changes := []store.RecordChange{{Record: held, Delete: true}}
	now := s.Now()
	switch {
	case attempt.Error == "":
		d.State, d.Next = Delivered, 0
		s.count(channel, "delivered")
	case forGood || now-d.Created >= giveUp:
		d.State, d.Next = Failed, 0
		s.count(channel, "given-up")
	default:
		s.count(channel, "failed")
		d.Next = now + backoff(d.Tries)
		changes = append(changes, record(store.Record{Tenant: tenant, Kind: kindDue, ID: dueID(d.Next, id)}, struct{}{}))
	}
	// What was sent was sent: it is noted although the server stops.
	return conflictIsFine(s.Store.Change(context.WithoutCancel(ctx), append(changes, record(row, d))...))
}

func (s *Service) count(channel, result string) {
	if s.Metrics != nil && channel != "" {
		s.Metrics.Delivered(channel, result)
	}
}

func conflictIsFine(err error) error {
	if fault.CodeOf(err) == fault.Conflict { // another server has it
		return nil
	}
	return err
}

// backoff is the wait after a number of attempts: 5 s, 15 s, 45 s … 4 h, and up to a fifth more.
func backoff(tries int) work.Time {
	wait := firstGap
	for n := 1; n < tries && wait < longest; n++ {
		wait *= 3
	}
	wait = min(wait, longest)
	return wait + work.Time(mathrand.Int64N(int64(wait)/5))
}

// try makes one attempt over the channel that it returns; "" when the rule is gone. ForGood says that another would end the same way.
func (s *Service) try(ctx context.Context, tenant work.Tenant, d *Delivery) (a Attempt, channel string, forGood bool) {
	ctx, stop := context.WithTimeout(ctx, tryLimit)
	defer stop()
	began := s.Now()
	k, _, err := s.one(ctx, tenant, d.Rule)
	if err != nil {
		return Attempt{At: began, Error: "the notification was deleted"}, "", fault.CodeOf(err) == fault.NotFound
	}
	a, err = s.deliver(ctx, tenant, &k, d)
	a.At, a.TookMs = began, int64(s.Now()-began)/1000
	if err != nil {
		a.Error = err.Error()
	}
	return a, k.Channel, a.Status == 410 || fault.CodeOf(err) == fault.Invalid
}

func (s *Service) deliver(ctx context.Context, tenant work.Tenant, k *kept, d *Delivery) (Attempt, error) {
	if s.Sealed {
		return Attempt{}, sealed()
	}
	var m Message
	if err := json.Unmarshal(d.Body, &m); err != nil {
		return Attempt{}, fault.Wrap(fault.Internal, err, "a notification")
	}
	var secret []byte
	if len(k.Secret) > 0 {
		var err error
		if secret, err = s.Encrypter.Decrypt(k.Secret, about(tenant, k.ID)); err != nil {
			return Attempt{}, err
		}
	}
	// The same message has the same id, however often it is sent: receivers leave out what they have.
	_, id, _ := strings.Cut(d.ID, "/")
	original, _, _ := strings.Cut(id, ".")
	switch k.Channel {
	case Webhook:
		return s.Post.webhook(ctx, k.URL, string(secret), "msg_"+strings.TrimPrefix(k.ID, "ntf_")+"_"+original, d.Body, s.Now().Std())
	case Chat:
		return s.Post.chat(ctx, string(secret), &m)
	default:
		if s.Mail == nil {
			return Attempt{}, fault.New(fault.Unavailable, "this installation sends no mail")
		}
		return s.Mail.send(ctx, k.To, &m, strings.TrimPrefix(k.ID, "ntf_")+"."+original, s.Now().Std())
	}
}

// Run scans and sends for tenants until ctx ends. Tenants returns the names of all of them.
func (s *Service) Run(ctx context.Context, tenants func(context.Context) ([]work.Tenant, error)) {
	wake := s.Store.Watch(ctx)
	const quiet, soon = time.Second, 100 * time.Millisecond
	for {
		all, err := tenants(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("notifications", "error", err)
		}
		for _, tenant := range all {
			if err := s.work(ctx, tenant); err != nil && ctx.Err() == nil {
				s.Log.Error("notifications", "tenant", tenant, "error", err)
			}
		}
		for _, wait := range []struct {
			hint  <-chan struct{}
			limit time.Duration
		}{{nil, soon}, {wake, quiet}} {
			t := time.NewTimer(wait.limit)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-wait.hint:
			case <-t.C:
			}
			t.Stop()
		}
	}
}

func (s *Service) work(ctx context.Context, tenant work.Tenant) error {
	for {
		more, err := s.Scan(ctx, tenant)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	_, err := s.Send(ctx, tenant)
	return err
}
