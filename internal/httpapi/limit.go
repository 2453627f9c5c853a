package httpapi

import (
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// buckets is a token bucket per caller.
type buckets struct {
	rate  rate.Limit
	burst int
	mu    sync.Mutex
	of    map[string]*rate.Limiter
}

// maxBuckets bounds the memory; beyond it all callers begin again with a full bucket.
const maxBuckets = 10_000

func newBuckets(perSecond float64, burst int) *buckets {
	return &buckets{rate: rate.Limit(perSecond), burst: burst, of: map[string]*rate.Limiter{}}
}

func (b *buckets) take(who string, now time.Time) (left float64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of[who]
	if l == nil {
		if len(b.of) >= maxBuckets {
			clear(b.of)
		}
		l = rate.NewLimiter(b.rate, b.burst)
		b.of[who] = l
	}
	ok = l.AllowN(now, 1)
	return math.Max(0, l.TokensAt(now)), ok
}

// slow counts a request against its token and says in headers how many are left. Error: fault.Exhausted.
func (s *Server) slow(h http.Header, who string) error {
	if s.Rate <= 0 {
		return nil
	}
	now := s.Now().Std()
	left, ok := s.callers.take(who, now)
	full := now.Add(time.Duration((float64(s.Burst) - left) / s.Rate * float64(time.Second)))
	h.Set("X-RateLimit-Limit", strconv.Itoa(s.Burst))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(int(left)))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(full.Unix()+1, 10))
	if ok {
		return nil
	}
	wait := time.Duration((1 - left) / s.Rate * float64(time.Second))
	h.Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
	return fault.New(fault.Exhausted, "more than %g requests a second", s.Rate).WithHint("the header Retry-After says when to go on")
}

// Guesses of tokens from one address: enough for somebody who mistypes, too few for somebody who tries.
const (
	guessRate  = 20
	guessBurst = 200
)

// guessed counts a token that nobody knows against the address it came from.
func (s *Server) guessed(r *http.Request, refusal error) error {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if _, ok := s.guesses.take(host, s.Now().Std()); !ok {
		return fault.New(fault.Exhausted, "too many unknown tokens from %s", host)
	}
	return refusal
}

// clock is what a server without one goes by.
func clock() work.Time { return work.At(time.Now()) }
