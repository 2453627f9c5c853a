// Package admission keeps what authors have signed of packs, and the rules of a tenant about whose signatures may run what.
//
// It is the server's half: a run that the rules do not let in is refused before it begins. Workers have rules of their own, in package warrant,
// and check the same signatures again.
package admission

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	kindSignature = "pack-signature" // by the digest of the pack and the id of the key
	kindRules     = "run-rules"
	only          = "only"
)

// MaxSignatures is how many statements about one pack are looked at.
const MaxSignatures = 100

// Service keeps signatures and rules. It is safe for concurrent use.
type Service struct {
	Records store.Records
	Now     func() work.Time

	mu    sync.Mutex
	known map[work.Tenant]known
}

// known are rules that were read a moment ago: a batch of submissions asks once.
type known struct {
	rules Rules
	at    time.Time
}

// fresh is how soon a server goes by rules that were set on another one.
const fresh = time.Second

// Signature is one statement about a pack.
type Signature struct {
	Author   string          `json:"author"`
	KeyID    string          `json:"keyId"`
	Pack     work.PackRef    `json:"pack"`
	SignedAt work.Time       `json:"signedAt"`
	Note     string          `json:"note,omitempty"`
	Signed   json.RawMessage `json:"signed"` // the DSSE envelope
}

// AddSignature keeps the statement of an author whom the tenant trusts to publish. One that is there already changes nothing. Errors: those
// of evidence.VerifyPack, fault.Invalid for what is no envelope, fault.PlanMismatch for a statement about another pack.
func (s *Service) AddSignature(ctx context.Context, tenant work.Tenant, pack work.Digest, signed []byte, trust keyring.Trust) (Signature, error) {
	e, err := dsse.Decode(signed)
	if err != nil {
		return Signature{}, err
	}
	said, key, err := evidence.VerifyPack(e, trust, s.Now())
	if err != nil {
		return Signature{}, err
	}
	if said.Pack.Digest != pack {
		return Signature{}, fault.New(fault.PlanMismatch, "the statement is about the pack %s, not about %s", said.Pack.Digest.Short(), pack.Short())
	}
	store.About(ctx, said.Pack.Name+" "+string(pack))
	out := Signature{said.Author, key, said.Pack, said.SignedAt, said.Note, e.Encode()}
	row := store.Record{Tenant: tenant, Kind: kindSignature, ID: string(pack) + "/" + key}
	have, err := s.Records.Record(ctx, tenant, row.Kind, row.ID)
	if err == nil {
		var earlier Signature
		return earlier, fault.Wrap(fault.Internal, json.Unmarshal(have.Doc, &earlier), "a signature of a pack")
	}
	if fault.CodeOf(err) != fault.NotFound {
		return Signature{}, err
	}
	if row.Doc, err = json.Marshal(out); err != nil {
		return Signature{}, fault.Wrap(fault.Internal, err, "a signature of a pack")
	}
	return out, s.Records.Change(ctx, store.RecordChange{Record: row})
}

// Signatures returns the statements about a pack, by the ids of their keys.
func (s *Service) Signatures(ctx context.Context, tenant work.Tenant, pack work.Digest) ([]Signature, error) {
	rows, err := s.Records.Records(ctx, tenant, kindSignature, string(pack)+"/", "", MaxSignatures)
	if err != nil {
		return nil, err
	}
	out := make([]Signature, len(rows))
	for i := range rows {
		if err := json.Unmarshal(rows[i].Doc, &out[i]); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "a signature of a pack")
		}
	}
	return out, nil
}

// Rules are those of a tenant. Version rises with every change.
type Rules struct {
	Rules   []access.Rule `json:"rules"`
	Version int64         `json:"version"`
}

// Rules returns the rules of a tenant; none lets everything in.
func (s *Service) Rules(ctx context.Context, tenant work.Tenant) (Rules, error) {
	row, err := s.Records.Record(ctx, tenant, kindRules, only)
	if fault.CodeOf(err) == fault.NotFound {
		return Rules{Rules: []access.Rule{}}, nil
	}
	if err != nil {
		return Rules{}, err
	}
	var r Rules
	err = json.Unmarshal(row.Doc, &r)
	r.Version = row.Version
	return r, fault.Wrap(fault.Internal, err, "the rules of %s", tenant)
}

// SetRules replaces the rules of a tenant; none let everything in again. Errors: fault.Invalid, fault.Conflict when somebody else changed them
// meanwhile.
func (s *Service) SetRules(ctx context.Context, tenant work.Tenant, rules []access.Rule) (Rules, error) {
	if rules == nil {
		rules = []access.Rule{}
	}
	if err := access.CheckRules(rules); err != nil {
		return Rules{}, err
	}
	have, err := s.Rules(ctx, tenant)
	if err != nil {
		return Rules{}, err
	}
	next := Rules{rules, have.Version + 1}
	raw, err := json.Marshal(next)
	if err != nil {
		return Rules{}, fault.Wrap(fault.Internal, err, "the rules of %s", tenant)
	}
	row := store.Record{Tenant: tenant, Kind: kindRules, ID: only, Version: have.Version, Doc: raw}
	if err := s.Records.Change(ctx, store.RecordChange{Record: row}); err != nil {
		return Rules{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, tenant)
	return next, nil
}

// recent returns the rules as they were at most a moment ago.
func (s *Service) recent(ctx context.Context, tenant work.Tenant) (Rules, error) {
	s.mu.Lock()
	k, ok := s.known[tenant]
	s.mu.Unlock()
	if ok && time.Since(k.at) < fresh {
		return k.rules, nil
	}
	at := time.Now()
	rules, err := s.Rules(ctx, tenant)
	if err != nil {
		return Rules{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[work.Tenant]known{}
	}
	if now := s.known[tenant]; now.rules.Version <= rules.Version {
		s.known[tenant] = known{rules, at}
	}
	return rules, nil
}

// Admit returns nil when the rules of a tenant let somebody run a pack. Errors: those of access.Permit.
func (s *Service) Admit(ctx context.Context, tenant work.Tenant, pack work.PackRef, submitter string, trust keyring.Trust) error {
	rules, err := s.recent(ctx, tenant)
	if err != nil || len(rules.Rules) == 0 {
		return err
	}
	return access.Permit(rules.Rules, access.Asked{Tenant: tenant, Pack: pack.Name, Submitter: submitter}, func() ([]string, error) {
		have, err := s.Signatures(ctx, tenant, pack.Digest)
		if err != nil {
			return nil, err
		}
		statements := make([]dsse.Envelope, 0, len(have))
		for i := range have {
			e, err := dsse.Decode(have[i].Signed)
			if err != nil {
				return nil, err
			}
			statements = append(statements, e)
		}
		return evidence.Authors(statements, pack, trust, s.Now()), nil
	})
}
