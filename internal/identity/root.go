package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const kindRoot = "trust-root"

// Root is a signed trust root that the tenant hands on to its workers. The service checks it only so that nobody publishes one that all
// workers would refuse: they check it themselves.
type Root struct {
	Number    int64           `json:"number"`
	Published work.Time       `json:"publishedAt"`
	ExpiresAt work.Time       `json:"expiresAt"`
	Signed    json.RawMessage `json:"signed"` // the DSSE envelope
}

func rootID(number int64) string { return fmt.Sprintf("%012d", number) }

// PublishRoot keeps the next signed trust root of a tenant, or the first. The one that is there already changes nothing. Errors:
// fault.Invalid, fault.Unverified when too few have signed, fault.Conflict for another number than the next.
func (s *Service) PublishRoot(ctx context.Context, tenant work.Tenant, signed []byte) (Root, error) {
	signed = bytes.TrimSpace(signed)
	doc, err := keyring.ReadRoot(signed)
	if err != nil {
		return Root{}, err
	}
	store.About(ctx, fmt.Sprintf("trust root %d", doc.Number))
	r := Root{Number: doc.Number, Published: s.Now(), ExpiresAt: doc.ExpiresAt, Signed: signed}
	have, err := s.root(ctx, tenant, doc.Number)
	switch {
	case err == nil && bytes.Equal(have.Signed, signed):
		return have, nil
	case err == nil:
		return Root{}, fault.New(fault.Conflict, "another trust root %d is published", doc.Number).WithHint("orrery trust create makes the one that follows the newest")
	case fault.CodeOf(err) != fault.NotFound:
		return Root{}, err
	}
	if err := s.follows(ctx, tenant, doc, signed); err != nil {
		return Root{}, err
	}
	change, err := put(store.Record{Tenant: tenant, Kind: kindRoot, ID: rootID(doc.Number)}, r)
	if err != nil {
		return Root{}, err
	}
	return r, s.Records.Change(ctx, change)
}

// follows returns nil for the first root of a tenant, and for one that follows the newest.
func (s *Service) follows(ctx context.Context, tenant work.Tenant, doc keyring.Root, signed []byte) error {
	prev, err := s.root(ctx, tenant, doc.Number-1)
	if fault.CodeOf(err) == fault.NotFound {
		first, err := s.Roots(ctx, tenant, 0, 1)
		switch {
		case err != nil:
			return err
		case len(first) > 0:
			return fault.New(fault.Conflict, "trust root %d does not follow the newest", doc.Number)
		}
		// The first that is published need not be number 1: others may have lived as files.
		_, err = keyring.OpenRoot(signed)
		return err
	}
	if err != nil {
		return err
	}
	before, err := keyring.ReadRoot(prev.Signed)
	if err != nil {
		return err
	}
	_, err = before.Accept(signed)
	return err
}

func (s *Service) root(ctx context.Context, tenant work.Tenant, number int64) (r Root, err error) {
	row, err := s.Records.Record(ctx, tenant, kindRoot, rootID(number))
	if err != nil {
		return r, err
	}
	return r, decode(row, &r)
}

// Roots returns the published trust roots of a tenant in their order, those after a number.
func (s *Service) Roots(ctx context.Context, tenant work.Tenant, after int64, limit int) ([]Root, error) {
	return list[Root](ctx, s.Records, tenant, kindRoot, "", rootID(after), limit)
}
