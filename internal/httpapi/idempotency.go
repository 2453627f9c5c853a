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

// once performs a request with an Idempotency-Key, or gives the answer it had.
func (s *Server) once(w http.ResponseWriter, r *http.Request, route *Route, c *Call, body *spooled) error {
	if err := checkKey(c.Key); err != nil {
		return err
	}
	ctx := r.Context()
	entry := s.entry(r, route, c)
	id := sha256.Sum256([]byte(strings.Join([]string{c.Principal.Subject, r.Method, r.URL.RequestURI(), c.Key}, "\x00")))
	row := store.Record{Tenant: entry.Tenant, Kind: answerKind, ID: hex.EncodeToString(id[:])}
	digest := hex.EncodeToString(body.digest[:])
	lock, err := newLock(c.Key, r.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	earlier, err := s.Records.Record(ctx, row.Tenant, row.Kind, row.ID)
	if err == nil {
		a, err := s.replay(earlier, digest, lock)
		if err != nil {
			return err
		}
		if a != nil {
			w.Header().Set("Idempotency-Replayed", "true")
			a.send(w)
			return nil
		}
		row.Version = earlier.Version // its server was lost: the operation is done by somebody else
	} else if fault.CodeOf(err) != fault.NotFound {
		return err
	}
	row.Expires = s.Now().Add(answerLife)
	kept := keptAnswer{Request: digest, Begun: s.Now()}
	if err := s.keep(ctx, &row, kept); err != nil {
		if fault.CodeOf(err) == fault.Conflict {
			return stillUnderWay()
		}
		return err
	}
	a, err := s.perform(r, route, c, body)
	ctx = context.WithoutCancel(ctx) // what was done is done
	if err != nil {
		if statusOf(err) >= http.StatusInternalServerError || statusOf(err) == http.StatusTooManyRequests {
			_ = s.Records.Change(ctx, store.RecordChange{Record: row, Delete: true}) // else it is taken over after a minute
			return err
		}
		a = &answer{header: http.Header{}}
		s.fail(a, c, err)
	}
	a.fold()
	if kept.Sealed, err = lock.seal(a); err != nil {
		return err
	}
	if err := s.keep(ctx, &row, kept); err != nil {
		return err
	}
	a.send(w)
	return nil
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

// replay returns the earlier answer; nil when its server was lost before there was one.
func (s *Server) replay(earlier store.Record, digest string, l *lock) (*answer, error) {
	var kept keptAnswer
	if err := json.Unmarshal(earlier.Doc, &kept); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "a kept answer")
	}
	switch {
	case kept.Request != digest:
		return nil, fault.New(fault.Conflict, "this Idempotency-Key was used with another body").WithHint("use a new key for a new request")
	case kept.Sealed != nil:
		return l.open(kept.Sealed)
	case s.Now().Sub(kept.Begun) < answerGiven:
		return nil, stillUnderWay()
	default:
		return nil, nil
	}
}

func (s *Server) keep(ctx context.Context, row *store.Record, kept keptAnswer) error {
	var err error
	if row.Doc, err = json.Marshal(kept); err != nil {
		return fault.Wrap(fault.Internal, err, "keep an answer")
	}
	if err := s.Records.Change(ctx, store.RecordChange{Record: *row}); err != nil {
		return err
	}
	row.Version++
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
