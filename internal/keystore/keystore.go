// Package keystore keeps the keys of tenants in a store that several servers share, so that a server needs no files of its own: the trust
// root as it is, the private parts encrypted with a key that only the servers have.
package keystore

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	kindTrust   = "keyring"
	kindPrivate = "private-key"
	kindCipher  = "encryption-key"
	only        = "only"
)

// fresh is how long what was read counts: how soon a server hears what another one was told.
const fresh = time.Second

// patience bounds one question to the store.
const patience = 10 * time.Second

// Store is the keys of an installation.
type Store struct {
	Records   store.Records
	Encrypter *keyring.Encrypter
}

// Check refuses a server whose encryption key is not the one that the installation began with. Error: fault.Denied.
func (s *Store) Check(ctx context.Context) error {
	type mark struct {
		ID string `json:"id"`
	}
	for {
		row, err := s.Records.Record(ctx, store.Installation, kindCipher, only)
		if fault.CodeOf(err) == fault.NotFound {
			doc, _ := json.Marshal(mark{s.Encrypter.ID}) // a string
			err = s.Records.Change(ctx, store.RecordChange{Record: store.Record{Tenant: store.Installation, Kind: kindCipher, ID: only, Doc: doc}})
			if fault.CodeOf(err) == fault.Conflict {
				continue // another server began at the same moment
			}
			return err
		}
		if err != nil {
			return err
		}
		var m mark
		if err := json.Unmarshal(row.Doc, &m); err != nil {
			return fault.Wrap(fault.Internal, err, "the mark of the encryption key")
		}
		if m.ID != s.Encrypter.ID {
			return fault.New(fault.Denied, "the keys in this store are encrypted with the key %s, and this server has %s", m.ID, s.Encrypter.ID).
				WithHint("give every server the same file: --encryption-key FILE")
		}
		return nil
	}
}

// Ring returns the keys of a tenant.
func (s *Store) Ring(tenant work.Tenant) keyring.Ring {
	return &ring{Store: s, tenant: tenant, private: map[string]*keyring.Private{}}
}

// ring implements keyring.Ring.
type ring struct {
	*Store
	tenant work.Tenant

	mu      sync.Mutex
	trust   keyring.Trust
	version int64 // of its record
	read    time.Time
	held    map[string]bool             // ids of the keys whose private parts are here
	heldAt  int64                       // the version that held belongs to
	private map[string]*keyring.Private // by id; what was decrypted once stays, as it does in a process that reads files
}

func (r *ring) Trust() (keyring.Trust, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.read.IsZero() && time.Since(r.read) < fresh {
		return r.trust, nil
	}
	return r.trust, r.load()
}

// load reads the trust root. The lock is held.
func (r *ring) load() error {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	row, err := r.Records.Record(ctx, r.tenant, kindTrust, only)
	switch {
	case fault.CodeOf(err) == fault.NotFound:
		r.trust, r.version = keyring.Trust{Version: keyring.TrustVersion}, 0
	case err != nil:
		return err
	case row.Version != r.version:
		t, err := keyring.ParseTrust(row.Doc)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "the keyring of %s", r.tenant)
		}
		r.trust, r.version = t, row.Version
	}
	r.read = time.Now()
	return nil
}

// change replaces the trust root, and keeps a private part with it or does neither. Another server may do so at the same moment.
func (r *ring) change(change func(keyring.Trust) (keyring.Trust, error), also ...store.RecordChange) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	for {
		if err := r.load(); err != nil {
			return err
		}
		next, err := change(r.trust)
		if err != nil {
			return err
		}
		raw, err := next.Encode()
		if err != nil {
			return err
		}
		row := store.Record{Tenant: r.tenant, Kind: kindTrust, ID: only, Version: r.version, Doc: raw}
		err = r.Records.Change(ctx, append([]store.RecordChange{{Record: row}}, also...)...)
		if fault.CodeOf(err) == fault.Conflict && ctx.Err() == nil {
			continue
		}
		if err == nil {
			r.trust, r.version, r.read = next, r.version+1, time.Now()
		}
		return err
	}
}

// about is what the private part of a key is bound to.
func (r *ring) about(id string) string { return "private key " + string(r.tenant) + "/" + id }

type kept struct {
	Encrypted []byte `json:"encrypted"`
}

func (r *ring) Generate(name string, a keyring.Algorithm, usage []keyring.Usage, now work.Time) (*keyring.Private, error) {
	p, err := keyring.Generate(name, a, usage, now)
	if err != nil {
		return nil, err
	}
	text, err := p.PEM()
	if err != nil {
		return nil, err
	}
	doc, err := json.Marshal(kept{r.Encrypter.Encrypt(text, r.about(p.Key.ID))})
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "keep a key")
	}
	return p, r.change(func(t keyring.Trust) (keyring.Trust, error) { return t.With(p.Key) },
		store.RecordChange{Record: store.Record{Tenant: r.tenant, Kind: kindPrivate, ID: p.Key.ID, Doc: doc}})
}

func (r *ring) Load(name string, u keyring.Usage, now work.Time) (*keyring.Private, error) {
	t, err := r.Trust()
	if err != nil {
		return nil, err
	}
	for _, k := range t.Named(name) {
		if !k.May(u) || keyring.Judge(k, keyring.Moment{At: now}, now) != keyring.Valid {
			continue
		}
		p, err := r.open(k)
		if fault.CodeOf(err) != fault.NotFound {
			return p, err
		}
	}
	return nil, fault.New(fault.NotFound, "there is no valid private key of %s to %s with", name, u)
}

// open returns the private part of a key. Error: fault.NotFound when it is held elsewhere.
func (r *ring) open(k keyring.Key) (*keyring.Private, error) {
	r.mu.Lock()
	p := r.private[k.ID]
	r.mu.Unlock()
	if p != nil {
		return p, nil
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	row, err := r.Records.Record(ctx, r.tenant, kindPrivate, k.ID)
	if err != nil {
		return nil, err
	}
	var doc kept
	if err := json.Unmarshal(row.Doc, &doc); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the key %.12s", k.ID)
	}
	text, err := r.Encrypter.Decrypt(doc.Encrypted, r.about(k.ID))
	if err != nil {
		return nil, err
	}
	if p, err = keyring.ParsePrivate(text, k); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.private[k.ID] = p
	return p, nil
}

func (r *ring) Held() ([]keyring.Key, error) {
	t, err := r.Trust()
	if err != nil {
		return nil, err
	}
	ids, err := r.privates()
	if err != nil {
		return nil, err
	}
	var out []keyring.Key
	for _, k := range t.Keys {
		if ids[k.ID] {
			out = append(out, k)
		}
	}
	return out, nil
}

// privates returns the ids of the keys whose private parts are here. They change with the trust root and never without it.
func (r *ring) privates() (map[string]bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held != nil && r.heldAt == r.version {
		return r.held, nil
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	held := map[string]bool{}
	const page = 500
	for after := ""; ; {
		rows, err := r.Records.Records(ctx, r.tenant, kindPrivate, "", after, page)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			after = rows[i].ID
			held[after] = true
		}
		if len(rows) < page {
			break
		}
	}
	r.held, r.heldAt = held, r.version
	return held, nil
}

func (r *ring) Import(name string, public []byte, usage []keyring.Usage, now work.Time) (keyring.Key, error) {
	pub, err := keyring.ParsePublic(public)
	if err != nil {
		return keyring.Key{}, err
	}
	k, err := keyring.NewKey(name, pub, usage, now)
	if err != nil {
		return keyring.Key{}, err
	}
	return k, r.change(func(t keyring.Trust) (keyring.Trust, error) { return t.With(k) })
}

func (r *ring) Revoke(id string, end keyring.Revocation) error {
	return r.change(func(t keyring.Trust) (keyring.Trust, error) { return t.Revoke(id, end) })
}
