package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/work"
)

// trust says whose keys count for a worker: those of a keyring file, which is read again and again; those of a signed trust root and the
// ones that follow it; or, when the operator says so, those that the server names.
func (o WorkerOptions) trust(client *remote.Client) (func() (keyring.Trust, error), error) {
	if o.TrustServer {
		if o.TrustFile != "" {
			return nil, fault.New(fault.Invalid, "a worker trusts a file or the server, not both").WithHint("leave out --trust-server")
		}
		o.Log.Warn("this worker takes the server's word for whose signatures count: whoever has the server has this machine's sandbox")
		return follow(client), nil
	}
	if o.TrustFile == "" {
		return nil, fault.New(fault.Invalid, "a worker must know whose work it runs").
			WithHint("give --trust FILE (orrery keys trust-root -f FILE, where the keys are), or --trust-server to take the server's word")
	}
	raw, err := os.ReadFile(o.TrustFile)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the trust root: %v", err)
	}
	if keyring.SignedRoot(raw) {
		r, err := openRoots(client, filepath.Join(o.Dir, "trust"), bytes.TrimSpace(raw), o.Log)
		if err != nil {
			return nil, err
		}
		_, err = r.Trust()
		return r.Trust, err
	}
	read := func() (keyring.Trust, error) {
		raw, err := os.ReadFile(o.TrustFile)
		if err != nil {
			return keyring.Trust{}, fault.New(fault.Invalid, "the trust root: %v", err)
		}
		return keyring.ParseTrust(raw)
	}
	_, err = read()
	return read, err
}

// rootSource hands on signed trust roots. It is not trusted.
type rootSource interface {
	// TrustRoots returns those that follow the given number, as far as the source has them.
	TrustRoots(ctx context.Context, after int64) ([]json.RawMessage, error)
}

// roots is the newest trust root that follows the pinned one.
type roots struct {
	source rootSource
	file   string // where the newest is kept, so that a server cannot take the worker back by waiting for its restart
	log    *slog.Logger

	mu     sync.Mutex
	newest keyring.Root
	asked  time.Time
}

// openRoots begins with the pinned root, or with what has followed it before.
func openRoots(source rootSource, dir string, pinned []byte, log *slog.Logger) (*roots, error) {
	pin, err := keyring.OpenRoot(pinned)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the folder of trust roots")
	}
	sum := sha256.Sum256(pinned)
	r := &roots{source: source, file: filepath.Join(dir, "after-"+hex.EncodeToString(sum[:8])+".json"), log: log, newest: pin}
	raw, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the newest trust root")
	}
	if r.newest, err = keyring.OpenRoot(raw); err != nil {
		return nil, err
	}
	return r, nil
}

// Trust returns the newest keyring. Error: fault.Unavailable when its root has ended and nobody has a newer one.
func (r *roots) Trust() (keyring.Trust, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const fresh = 15 * time.Second
	if now := time.Now(); r.asked.IsZero() || now.Sub(r.asked) >= fresh {
		r.asked = now
		if err := r.advance(); err != nil {
			r.log.Warn("no newer trust root", "have", r.newest.Number, "error", err)
		}
	}
	return r.newest.Keyring, r.newest.Current(Now())
}

// advance takes what follows, one after the other. The lock is held.
func (r *roots) advance() error {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	for {
		found, err := r.source.TrustRoots(ctx, r.newest.Number)
		if err != nil || len(found) == 0 {
			return err
		}
		for _, raw := range found {
			next, err := r.newest.Accept(raw)
			if err != nil {
				return err
			}
			if err := keyring.KeepRoot(r.file, raw); err != nil {
				return err
			}
			r.newest = next
			r.log.Info("a newer trust root", "number", next.Number, "ends", next.ExpiresAt.String())
		}
	}
}

// ringOf finds the keys of a tenant.
type ringOf func(ctx context.Context, tenant work.Tenant) (keyring.Ring, error)

// signer signs what a worker of this process reports: for each tenant with the key that the tenant's ring has for that. It is called by one
// goroutine at a time.
func signer(rings ringOf) func(context.Context, []evidence.Result) error {
	keys := map[work.Tenant]*keyring.Private{}
	return func(ctx context.Context, results []evidence.Result) error {
		var tenants []work.Tenant
		of := map[work.Tenant][]evidence.Result{}
		for _, r := range results {
			if of[r.Tenant] == nil {
				tenants = append(tenants, r.Tenant)
			}
			of[r.Tenant] = append(of[r.Tenant], r)
		}
		for _, t := range tenants {
			key := keys[t]
			if key == nil {
				ring, err := rings(ctx, t)
				if err != nil {
					return err
				}
				if key, err = own(ring, WorkerName, keyring.ECDSAP256, keyring.Worker); err != nil {
					return err
				}
				keys[t] = key
			}
			err := evidence.SignResults(of[t], nil, func(payloadType string, payload []byte) (dsse.Envelope, error) {
				return key.Sign(ctx, payloadType, payload)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// signers lets a tenant trust those who sign results: the worker of this process, and workers with certificates of the authority.
func (s *Server) signers(keys keyring.Ring) error {
	if s.opts.Work {
		if _, err := own(keys, WorkerName, keyring.ECDSAP256, keyring.Worker); err != nil {
			return err
		}
	}
	root := s.authority.Root()
	issuer, err := keyring.NewKey(IssuerName, root.PublicKey, []keyring.Usage{keyring.Worker}, work.At(root.NotBefore))
	if err != nil {
		return err
	}
	_, err = keys.Import(IssuerName, []byte(issuer.Public), issuer.Usage, issuer.NotBefore)
	return err
}

// keysOf returns the keys of a tenant of the server.
func (s *Server) keysOf(ctx context.Context, tenant work.Tenant) (keyring.Ring, error) {
	sp, err := s.space(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return sp.Keys, nil
}
