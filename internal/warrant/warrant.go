// Package warrant decides on the worker's side whether a step may run here: by the signature of the person who asked for the run,
// checked against the trust root of the worker, and by the worker's own rules about whose signatures may run what.
//
// A server that was taken over has no key of an author. It can delay work or drop it; what it makes up itself is refused before
// anything is executed: another plan, another run's request, no request, a request of somebody unknown, other inputs or secrets
// than the plan has. What earlier steps produced is the server's word: values and files of other workers are not signed by them.
package warrant

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"reflect"
	"sync"
	"time"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Config is what a guard goes by.
type Config struct {
	Request func(ctx context.Context, tenant work.Tenant, run work.RunID) ([]byte, error)     // the signed request of a run, nil for none
	Authors func(ctx context.Context, tenant work.Tenant, pack work.Digest) ([][]byte, error) // what authors have signed of a pack
	Trust   func() (keyring.Trust, error)                                                     // the trust root of the worker
	Rules   []access.Rule                                                                     // none: every key that is trusted to submit may run everything
	Now     func() work.Time
}

// Guard checks leases. It is safe for concurrent use.
type Guard struct {
	Config

	mu     sync.Mutex
	trust  keyring.Trust
	loaded time.Time
	known  map[runKey]request

	batches batches
}

// batches remembers which signatures of batches hold: one signature is for many requests. Whether its key is trusted it does not say.
type batches struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]bool
}

const knownBatches = 4096

// holds is a dsse.Check.
func (b *batches) holds(k dsse.Key, message, sig []byte) bool {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(k.ID), sig, message} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	var key [sha256.Size]byte
	h.Sum(key[:0])
	b.mu.Lock()
	known := b.known[key]
	b.mu.Unlock()
	if known || !dsse.Holds(k, message, sig) {
		return known
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil || len(b.known) >= knownBatches {
		b.known = map[[sha256.Size]byte]bool{}
	}
	b.known[key] = true
	return true
}

type runKey struct {
	tenant work.Tenant
	run    work.RunID
}

// request is a signed request whose signature holds.
type request struct {
	evidence.Submission
	key string
}

const (
	knownRequests = 1024
	trustFor      = time.Second // how soon a revocation is noticed
)

// New returns a guard. Error: fault.Invalid for a rule that is none.
func New(c Config) (*Guard, error) {
	if err := access.CheckRules(c.Rules); err != nil {
		return nil, err
	}
	return &Guard{Config: c, known: map[runKey]request{}}, nil
}

// Check returns nil when the step of a lease may run here. Errors: fault.PlanMismatch when the server gives something else than was asked
// for; fault.Untrusted when nobody whom the worker trusts asked for it; fault.Unverified for a request that does not hold; those of Request.
func (g *Guard) Check(ctx context.Context, lease *store.Grant, plan *engine.Graph) error {
	req, err := g.request(ctx, lease)
	if err != nil {
		return err
	}
	switch {
	case req.Tenant != lease.Tenant:
		return fault.New(fault.Untrusted, "the request is for tenant %s, the lease for %s", req.Tenant, lease.Tenant)
	case req.Run != lease.Run:
		return fault.New(fault.Untrusted, "the request is for run %q, the lease for %s", req.Run, lease.Run)
	case req.PlanHash != lease.PlanHash || req.PlanHash != plan.Hash:
		return fault.New(fault.PlanMismatch, "%s asked for the plan %s, the lease is for %s", req.Submitter, req.PlanHash.Short(), lease.PlanHash.Short())
	case req.Pack != plan.Plan.Pack:
		return fault.New(fault.PlanMismatch, "%s asked for %s %s, the plan is of %s %s", req.Submitter, req.Pack.Name, req.Pack.Version,
			plan.Plan.Pack.Name, plan.Plan.Pack.Version)
	case req.ExpiresAt != 0 && g.Now() > req.ExpiresAt:
		return fault.New(fault.Untrusted, "the request of %s expired at %s", req.Submitter, req.ExpiresAt)
	}
	asked := access.Asked{Tenant: lease.Tenant, Pack: req.Pack.Name, Submitter: req.Submitter}
	if err := access.Permit(g.Rules, asked, func() ([]string, error) { return g.authors(ctx, lease.Tenant, req.Pack) }); err != nil {
		return err
	}
	return engine.CheckBindings(plan, lease.Step, lease.Bindings)
}

// authors are those who have signed a pack, of those whom the worker trusts to publish.
func (g *Guard) authors(ctx context.Context, tenant work.Tenant, pack work.PackRef) ([]string, error) {
	if g.Authors == nil {
		return nil, nil
	}
	raw, err := g.Authors(ctx, tenant, pack.Digest)
	if err != nil {
		return nil, err
	}
	trust, err := g.reload()
	if err != nil {
		return nil, err
	}
	var statements []dsse.Envelope
	for _, text := range raw {
		if e, err := dsse.Decode(text); err == nil { // what is none counts for nobody
			statements = append(statements, e)
		}
	}
	return evidence.Authors(statements, pack, trust, g.Now()), nil
}

// request returns the verified request of a run. The signature is checked once; whether its key is trusted, whenever the trust changes.
func (g *Guard) request(ctx context.Context, lease *store.Grant) (request, error) {
	key := runKey{lease.Tenant, lease.Run}
	trust, known, ok, err := g.recall(key)
	if err != nil || ok {
		return known, err
	}
	raw := lease.Request
	if len(raw) == 0 {
		if raw, err = g.Request(ctx, lease.Tenant, lease.Run); err != nil {
			return request{}, err
		}
	}
	if len(raw) == 0 {
		return request{}, fault.New(fault.Untrusted, "nobody has signed for run %s", lease.Run)
	}
	envelope, err := dsse.Decode(raw)
	if err != nil {
		return request{}, fault.New(fault.Unverified, "the request of run %s: %v", lease.Run, err)
	}
	sub, id, err := evidence.VerifySubmission(envelope, trust, g.Now(), g.batches.holds)
	if fault.CodeOf(err) == fault.Untrusted {
		// The key may be newer than what is remembered of the trust root: a stale no must not end a step.
		if trust, err = g.reload(); err == nil {
			sub, id, err = evidence.VerifySubmission(envelope, trust, g.Now(), g.batches.holds)
		}
	}
	if err != nil {
		return request{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= knownRequests {
		clear(g.known)
	}
	g.known[key] = request{sub, id}
	return request{sub, id}, nil
}

// reload reads the trust root however fresh it is.
func (g *Guard) reload() (keyring.Trust, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.load()
	return g.trust, err
}

// load reads the trust root and forgets what was verified under another one. The lock is held.
func (g *Guard) load() error {
	now := time.Now()
	trust, err := g.Trust()
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(trust, g.trust) {
		clear(g.known)
	}
	g.trust, g.loaded = trust, now
	return nil
}

// recall returns the trust root of the moment, and a request that was verified under it.
func (g *Guard) recall(key runKey) (keyring.Trust, request, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.loaded) > trustFor {
		if err := g.load(); err != nil {
			return keyring.Trust{}, request{}, false, err
		}
	}
	r, ok := g.known[key]
	if !ok {
		return g.trust, r, false, nil
	}
	// A key may run out by itself.
	if k, found := g.trust.Find(r.key); !found || !keyring.Judge(k, keyring.Moment{At: r.IssuedAt}, g.Now()).Counts() {
		delete(g.known, key)
		return g.trust, request{}, false, nil
	}
	return g.trust, r, true, nil
}
