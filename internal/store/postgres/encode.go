package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// A body is the part of a row that nobody searches for: fields in a fixed order, numbers as varints, texts with their length before
// them. So a transition costs a few hundred nanoseconds here and one column there. The first byte is the form; a form is never
// changed, only followed by another.
const (
	formV1 = 1
	formV2 = 2 // of a step: its queue comes last; of what a run is created with: trace state, baggage, project and time
)

// writer appends fields to a body.
type writer struct{ b []byte }

func (w *writer) number(n int64) { w.b = binary.AppendVarint(w.b, n) }

func (w *writer) flag(f bool) {
	n := byte(0)
	if f {
		n = 1
	}
	w.b = append(w.b, n)
}

func text[T ~string | ~[]byte](w *writer, s T) {
	w.b = binary.AppendUvarint(w.b, uint64(len(s)))
	w.b = append(w.b, s...)
}

// document appends JSON of something rare, nothing for none.
func (w *writer) document(present bool, v any) error {
	if !present {
		text(w, "")
		return nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "a row cannot be encoded: %w", err)
	}
	text(w, raw)
	return nil
}

func (w *writer) digest(d work.Digest) { text(w, digestBytes(d)) }

func (w *writer) actor(a *work.Actor) {
	w.flag(a != nil)
	if a == nil {
		return
	}
	text(w, a.Name)
	text(w, a.Key)
	text(w, a.Reason)
	text(w, a.Ticket)
	w.number(int64(a.At))
}

func (w *writer) reason(r work.Reason) {
	text(w, r.Code)
	text(w, r.Subject)
	text(w, r.Message)
	w.number(int64(r.Until))
}

// cursor takes fields from a body. After the first that does not fit it is broken and gives zeros.
type cursor struct {
	rest   []byte
	broken bool
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		c.broken, c.rest = true, nil
		return nil
	}
	out := c.rest[:n:n]
	c.rest = c.rest[n:]
	return out
}

func (c *cursor) number() int64 {
	v, n := binary.Varint(c.rest)
	if n <= 0 {
		c.broken, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) flag() bool { b := c.take(1); return len(b) == 1 && b[0] == 1 }

func (c *cursor) bytes() []byte {
	n, size := binary.Uvarint(c.rest)
	if size <= 0 {
		c.broken, c.rest = true, nil
		return nil
	}
	c.rest = c.rest[size:]
	return c.take(n)
}

func (c *cursor) text() string { return string(c.bytes()) }

func (c *cursor) json() json.RawMessage {
	if raw := c.bytes(); len(raw) > 0 {
		return slices.Clone(raw)
	}
	return nil
}

func (c *cursor) document(v any) {
	if raw := c.bytes(); len(raw) > 0 && json.Unmarshal(raw, v) != nil {
		c.broken = true
	}
}

func (c *cursor) digest() work.Digest { return digestOf(c.bytes()) }

func (c *cursor) actor() *work.Actor {
	if !c.flag() {
		return nil
	}
	return &work.Actor{Name: c.text(), Key: c.text(), Reason: c.text(), Ticket: c.text(), At: work.Time(c.number())}
}

func (c *cursor) reason() work.Reason {
	return work.Reason{Code: work.ReasonCode(c.text()), Subject: c.text(), Message: c.text(), Until: work.Time(c.number())}
}

func (c *cursor) end(kind, id string) error {
	if c.broken || len(c.rest) > 0 {
		return fault.New(fault.Internal, "the row of %s %s is damaged", kind, id).WithHint("orrery doctor")
	}
	return nil
}

// How a digest begins that is stored as bytes.
const (
	digestSHA256 = 1
	digestText   = 2 // one that is spelt in another way
)

// digestBytes is how a digest is stored: its bytes, empty for none.
func digestBytes(d work.Digest) []byte {
	if d == "" {
		return []byte{}
	}
	if digits, ok := strings.CutPrefix(string(d), "sha256:"); ok && len(digits) == 64 && strings.ToLower(digits) == digits {
		if out, err := hex.AppendDecode([]byte{digestSHA256}, []byte(digits)); err == nil {
			return out
		}
	}
	return append([]byte{digestText}, d...)
}

func digestOf(b []byte) work.Digest {
	switch {
	case len(b) == 0:
		return ""
	case b[0] == digestSHA256:
		return work.Digest("sha256:" + hex.EncodeToString(b[1:]))
	default:
		return work.Digest(b[1:])
	}
}

// identityOf is what a run is created with and no column has.
func identityOf(r *work.Run) []byte {
	w := writer{append(make([]byte, 0, 160), formV1)}
	text(&w, r.Pack.Version)
	w.digest(r.Pack.Digest)
	text(&w, r.Submitter)
	text(&w, r.SubmitterKey)
	text(&w, r.Note)
	text(&w, r.RetryOf)
	text(&w, r.TraceParent)
	text(&w, r.ConcurrencyKey)
	w.flag(r.Labels != nil)
	if r.Labels != nil {
		w.number(int64(len(r.Labels)))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		text(&w, k)
		text(&w, r.Labels[k])
	}
	if r.Project != "" || r.NotBefore != 0 || r.TraceState != "" || r.Baggage != "" {
		w.b[0] = formV2
		text(&w, r.TraceState)
		text(&w, r.Baggage)
		text(&w, r.Project)
		w.number(int64(r.NotBefore))
	}
	return w.b
}

// form reads how a body is written.
func (c *cursor) form(newest byte) byte {
	b := c.take(1)
	if len(b) != 1 || b[0] < formV1 || b[0] > newest {
		c.broken, c.rest = true, nil
		return 0
	}
	return b[0]
}

func (c *cursor) identity(r *work.Run) {
	form := c.form(formV2)
	r.Pack.Version, r.Pack.Digest = c.text(), c.digest()
	r.Submitter, r.SubmitterKey, r.Note = c.text(), c.text(), c.text()
	r.RetryOf, r.TraceParent, r.ConcurrencyKey = work.RunID(c.text()), c.text(), c.text()
	if c.flag() {
		r.Labels = map[string]string{}
		for n := c.number(); n > 0 && !c.broken; n-- {
			k := c.text()
			r.Labels[k] = c.text()
		}
	}
	if form == formV2 {
		r.TraceState, r.Baggage = c.text(), c.text()
		r.Project, r.NotBefore = c.text(), work.Time(c.number())
	}
}

// runBody is what changes of a run.
func runBody(r *work.Run) []byte {
	w := writer{append(make([]byte, 0, 128), formV1)}
	text(&w, r.Phase)
	w.reason(r.Reason)
	w.actor(r.Paused)
	w.actor(r.Cancel)
	w.flag(r.Stopping)
	text(&w, r.Outcome)
	for _, n := range [...]int{r.Next, r.Left, r.Active, r.Slots, r.Held} {
		w.number(int64(n))
	}
	w.number(r.Seq)
	w.digest(r.Head)
	w.number(r.LogSeq)
	for _, at := range [...]work.Time{r.Started, r.Ended, r.Updated, r.Due} {
		w.number(int64(at))
	}
	text(&w, r.Outputs)
	w.flag(r.Acknowledged)
	return w.b
}

func (c *cursor) run(r *work.Run) {
	if b := c.take(1); len(b) != 1 || b[0] != formV1 {
		c.broken = true
		return
	}
	r.Phase = work.Phase(c.text())
	r.Reason, r.Paused, r.Cancel, r.Stopping, r.Outcome = c.reason(), c.actor(), c.actor(), c.flag(), work.State(c.text())
	for _, n := range [...]*int{&r.Next, &r.Left, &r.Active, &r.Slots, &r.Held} {
		*n = int(c.number())
	}
	r.Seq, r.Head, r.LogSeq = c.number(), c.digest(), c.number()
	for _, at := range [...]*work.Time{&r.Started, &r.Ended, &r.Updated, &r.Due} {
		*at = work.Time(c.number())
	}
	r.Outputs, r.Acknowledged = c.json(), c.flag()
}

// shortValue is what a body may carry of a container's values itself.
const shortValue = 256

// stepBody is what a step is beside its key. It says of long values that they are elsewhere.
func stepBody(s *work.Step) ([]byte, error) {
	w := writer{append(make([]byte, 0, 192), formV1)}
	w.reason(s.Reason)
	w.flag(s.Held)
	w.flag(s.Stopping)
	w.flag(s.Lease != nil)
	if l := s.Lease; l != nil {
		text(&w, l.Session)
		text(&w, l.Worker)
		text(&w, l.Concurrency)
		w.flag(l.Cancel)
		for _, n := range [...]int64{int64(l.Granted), int64(l.Acked), int64(l.Deadline), l.Incarnation, l.Lines} {
			w.number(n)
		}
	}
	w.flag(s.Queue != nil)
	if q := s.Queue; q != nil {
		text(&w, q.Runner)
		text(&w, q.Concurrency)
		for _, n := range [...]int64{int64(q.Priority), int64(q.At), int64(q.Max)} {
			w.number(n)
		}
	}
	for _, n := range [...]int{s.Unmet, s.Attempt, s.Failures, s.Crashes, s.Total, s.Next, s.Open, s.Done, s.Bad} {
		w.number(int64(n))
	}
	w.number(s.Epoch)
	for _, at := range [...]work.Time{s.Timer, s.Created, s.Started, s.Ended} {
		w.number(int64(at))
	}
	for _, v := range [...]json.RawMessage{s.Items, s.Inputs} {
		w.flag(len(v) > shortValue)
		if len(v) <= shortValue {
			text(&w, v)
		}
	}
	text(&w, s.Outputs)
	text(&w, s.CarriedRun)
	if err := w.document(len(s.Artifacts) > 0, s.Artifacts); err != nil {
		return nil, err
	}
	decisions := make([]decision, len(s.Decisions))
	for i, d := range s.Decisions {
		decisions[i] = decision{d, string(d.Statement)}
	}
	err := w.document(len(s.Decisions) > 0, decisions)
	leased, queued := "", ""
	if s.Lease != nil {
		leased = s.Lease.Queue
	}
	if s.Queue != nil {
		queued = s.Queue.Queue
	}
	if leased != "" || queued != "" {
		w.b[0] = formV2
		text(&w, leased)
		text(&w, queued)
	}
	return w.b, err
}

// decision keeps the signed statement as a text: as JSON inside of JSON it would not come back byte for byte.
type decision struct {
	work.Decision
	Statement string `json:"statement,omitempty"`
}

// step reads a body and reports which long values are elsewhere.
func (c *cursor) step(s *work.Step) (items, inputs bool) {
	form := c.form(formV2)
	s.Reason, s.Held, s.Stopping = c.reason(), c.flag(), c.flag()
	if c.flag() {
		l := &work.Lease{Session: c.text(), Worker: c.text(), Concurrency: c.text(), Cancel: c.flag()}
		l.Granted, l.Acked, l.Deadline = work.Time(c.number()), work.Time(c.number()), work.Time(c.number())
		l.Incarnation, l.Lines = c.number(), c.number()
		s.Lease = l
	}
	if c.flag() {
		q := &work.QueueEntry{Runner: c.text(), Concurrency: c.text()}
		q.Priority, q.At, q.Max = int(c.number()), work.Time(c.number()), int(c.number())
		s.Queue = q
	}
	for _, n := range [...]*int{&s.Unmet, &s.Attempt, &s.Failures, &s.Crashes, &s.Total, &s.Next, &s.Open, &s.Done, &s.Bad} {
		*n = int(c.number())
	}
	s.Epoch = c.number()
	for _, at := range [...]*work.Time{&s.Timer, &s.Created, &s.Started, &s.Ended} {
		*at = work.Time(c.number())
	}
	if items = c.flag(); !items {
		s.Items = c.json()
	}
	if inputs = c.flag(); !inputs {
		s.Inputs = c.json()
	}
	s.Outputs, s.CarriedRun = c.json(), work.RunID(c.text())
	c.document(&s.Artifacts)
	var decisions []decision
	c.document(&decisions)
	for _, d := range decisions {
		if d.Decision.Statement = nil; d.Statement != "" {
			d.Decision.Statement = json.RawMessage(d.Statement)
		}
		s.Decisions = append(s.Decisions, d.Decision)
	}
	if form == formV2 {
		leased, queued := c.text(), c.text()
		if s.Lease != nil {
			s.Lease.Queue = leased
		}
		if s.Queue != nil {
			s.Queue.Queue = queued
		}
	}
	return items, inputs
}

// live reports whether a step may still go on by itself.
func live(s work.State) bool {
	switch s {
	case work.Queued, work.Throttled, work.Running, work.Waiting, work.Retrying:
		return true
	default:
		return false
	}
}
