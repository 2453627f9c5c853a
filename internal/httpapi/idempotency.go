package httpapi

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	answerKind  = "answer"
	answerLife  = 24 * time.Hour
	answerGiven = time.Minute // a request that has not been answered for so long was lost with its server
	maxKey      = 255
)

// keptAnswer is what is kept of a request with an Idempotency-Key. The answer may hold a secret that is shown once, a token for example,
// so it is sealed with what only its caller has: the key of the request and the token it came with.
type keptAnswer struct {
	Request string    `json:"request"` // digest of the body
	Begun   work.Time `json:"begun"`
	Sealed  []byte    `json:"sealed,omitempty"` // nonce and ciphertext; nothing while the operation goes on
}

// asked is a request with an Idempotency-Key.
type asked struct {
	s    *Server
	row  store.Record // of its answer
	kept keptAnswer
	lock *lock
}

// answerRef names the answer to a request.
func answerRef(r *http.Request, home work.Tenant, subject, key string) store.RecordRef {
	id := sha256.Sum256([]byte(strings.Join([]string{subject, r.Method, r.URL.RequestURI(), key}, "\x00")))
	return store.RecordRef{Tenant: home, Kind: answerKind, ID: hex.EncodeToString(id[:])}
}

// once performs a request with an Idempotency-Key, or gives the answer it had.
func (s *Server) once(w http.ResponseWriter, r *http.Request, route *Route, c *Call, body *spooled) error {
	if err := checkKey(c.Key); err != nil {
		return err
	}
	ref := answerRef(r, homeOf(c), c.Principal.Subject, c.Key)
	q := &asked{
		s: s, row: store.Record{Tenant: ref.Tenant, Kind: ref.Kind, ID: ref.ID, Expires: s.Now().Add(answerLife)},
		kept: keptAnswer{Request: hex.EncodeToString(body.digest[:]), Begun: s.Now()},
	}
	var err error
	if q.lock, err = newLock(c.Key, r.Header.Get("Authorization")); err != nil {
		return err
	}
	earlier, err := c.found.Record(r.Context(), s.Records, ref)
	if err == nil {
		if replayed, err := q.replay(w, earlier); err != nil || replayed {
			return err
		}
		q.row.Version = earlier.Version // its server was lost: the operation is done by somebody else
	} else if fault.CodeOf(err) != fault.NotFound {
		return err
	}
	if route.Runs {
		return q.runs(w, r, route, c, body)
	}
	return q.act(w, r, route, c, body)
}

// act performs an operation between two commits: one that others who come with the same key see, and one that keeps the answer.
func (q *asked) act(w http.ResponseWriter, r *http.Request, route *Route, c *Call, body *spooled) error {
	ctx := r.Context()
	if err := q.keep(ctx); err != nil {
		if fault.CodeOf(err) == fault.Conflict {
			return stillUnderWay()
		}
		return err
	}
	a, err := q.s.perform(r, route, c, body)
	ctx = context.WithoutCancel(ctx) // what was done is done
	if err != nil {
		if passing(err) {
			_ = q.s.Records.Change(ctx, store.RecordChange{Record: q.row, Delete: true}) // else it is taken over after a minute
			return err
		}
		a = q.refusal(c, err)
	}
	if err := q.seal(a); err != nil {
		return err
	}
	if err := q.keep(ctx); err != nil {
		return err
	}
	a.send(w)
	return nil
}

// runs performs an operation that makes runs and keeps its answer in their transaction: of several that come with the same key one makes runs,
// and the others get its answer.
func (q *asked) runs(w http.ResponseWriter, r *http.Request, route *Route, c *Call, body *spooled) error {
	var sent *answer
	to := &store.Answer{Record: q.row}
	c.answers = func(how render) {
		to.Render = func(made []store.Submitted) json.RawMessage {
			sent = newAnswer()
			if how(sent, made) != nil || q.seal(sent) != nil {
				return nil
			}
			doc, _ := json.Marshal(q.kept) // texts and numbers
			return doc
		}
	}
	a, err := q.s.perform(r.WithContext(store.WithAnswer(r.Context(), to)), route, c, body)
	if to.Kept() {
		sent.send(w)
		return nil
	}
	ctx := context.WithoutCancel(r.Context())
	if fault.CodeOf(err) == fault.Conflict {
		if replayed, err := q.answered(ctx, w); err != nil || replayed {
			return err
		}
	}
	if err != nil {
		if passing(err) {
			return err
		}
		a = q.refusal(c, err)
	}
	if err := q.seal(a); err != nil {
		return err
	}
	if err := q.keep(ctx); fault.CodeOf(err) == fault.Conflict {
		if replayed, err := q.answered(ctx, w); err != nil || replayed {
			return err
		}
		return stillUnderWay()
	} else if err != nil {
		return err
	}
	a.send(w)
	return nil
}

// answered sends the answer that somebody else has kept meanwhile.
func (q *asked) answered(ctx context.Context, w http.ResponseWriter) (bool, error) {
	earlier, err := q.s.Records.Record(ctx, q.row.Tenant, q.row.Kind, q.row.ID)
	if fault.CodeOf(err) == fault.NotFound || err == nil && earlier.Version == q.row.Version {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return q.replay(w, earlier)
}

// passing reports whether an error says nothing about the request: sent again it may be answered.
func passing(err error) bool {
	return statusOf(err) >= http.StatusInternalServerError || statusOf(err) == http.StatusTooManyRequests
}

// refusal is an error as an answer.
func (q *asked) refusal(c *Call, err error) *answer {
	a := newAnswer()
	q.s.fail(a, c, err)
	return a
}

func checkKey(key string) error {
	if len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fault.New(fault.Invalid, "an Idempotency-Key has 1 to %d visible characters of ASCII", maxKey).WithHint("a random UUID does it")
	}
	return nil
}

func stillUnderWay() error {
	return fault.New(fault.Conflict, "the request with this Idempotency-Key is still under way").WithHint("send it again in a moment")
}

// replay sends the earlier answer, and reports false when its server was lost before there was one.
func (q *asked) replay(w http.ResponseWriter, earlier store.Record) (bool, error) {
	var kept keptAnswer
	if err := json.Unmarshal(earlier.Doc, &kept); err != nil {
		return false, fault.Wrap(fault.Internal, err, "a kept answer")
	}
	switch {
	case kept.Request != q.kept.Request:
		return false, fault.New(fault.Conflict, "this Idempotency-Key was used with another body").WithHint("use a new key for a new request")
	case kept.Sealed == nil && q.s.Now().Sub(kept.Begun) < answerGiven:
		return false, stillUnderWay()
	case kept.Sealed == nil:
		return false, nil
	}
	a, err := q.lock.open(kept.Sealed)
	if err != nil {
		return false, err
	}
	w.Header().Set("Idempotency-Replayed", "true")
	a.send(w)
	return true, nil
}

func (q *asked) seal(a *answer) (err error) {
	a.fold()
	q.kept.Sealed, err = q.lock.seal(a)
	return err
}

func (q *asked) keep(ctx context.Context) error {
	var err error
	if q.row.Doc, err = json.Marshal(q.kept); err != nil {
		return fault.Wrap(fault.Internal, err, "keep an answer")
	}
	if err := q.s.Records.Change(ctx, store.RecordChange{Record: q.row}); err != nil {
		return err
	}
	q.row.Version++
	return nil
}

// lock seals answers.
type lock struct{ aead cipher.AEAD }

func newLock(secrets ...string) (*lock, error) {
	sum := sha256.Sum256([]byte("orrery kept answer\x00" + strings.Join(secrets, "\x00")))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "seal an answer")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &lock{aead}, fault.Wrap(fault.Internal, err, "seal an answer")
}

func (l *lock) seal(a *answer) ([]byte, error) {
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "seal an answer")
	}
	return l.aead.Seal(nil, nil, raw, nil), nil
}

func (l *lock) open(sealed []byte) (*answer, error) {
	raw, err := l.aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, fault.New(fault.Conflict, "this Idempotency-Key was used with another token").WithHint("its answer is for the holder of that token; use a new key")
	}
	a := &answer{}
	return a, fault.Wrap(fault.Internal, json.Unmarshal(raw, a), "a kept answer")
}
