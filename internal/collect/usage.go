package collect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"maps"
	"sync"
	"time"

	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Flows knows the quotas of tenants.
type Flows interface {
	Flow(ctx context.Context, tenant work.Tenant) (store.Flow, error)
}

// current is for how long a process goes by what it knows of a tenant. Several servers may exceed a quota by what they store meanwhile.
const current = time.Second

// Meter counts the bytes that tenants store and refuses those that go beyond a quota. What is stored is what was counted at the last
// collection and what was added since then; each process writes down what it has added at most once in a second, so that a file costs
// nothing but memory. Of a process that is killed that last second is missing until the next collection. It is safe for concurrent use.
type Meter struct {
	Records store.Records
	Flows   Flows
	Blobs   blob.Store // those that are metered
	Now     func() work.Time
	Observe func(tenant work.Tenant, stored int64) // hears what was found; nil for nobody

	mu      sync.Mutex
	tallies map[work.Tenant]*tally
}

// tally is what a process knows of a tenant.
type tally struct {
	sync.Mutex // held while the store is asked
	at         work.Time
	usage      store.Usage
	quota      int64

	added sync.Mutex
	fresh int64 // what was stored here and is not written down
}

func (m *Meter) tally(tenant work.Tenant) *tally {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tallies[tenant]
	if t == nil {
		if m.tallies == nil {
			m.tallies = map[work.Tenant]*tally{}
		}
		t = &tally{}
		m.tallies[tenant] = t
	}
	return t
}

// Stored notes that bytes are there that were not. Drivers call it.
func (m *Meter) Stored(tenant work.Tenant, bytes int64) {
	t := m.tally(tenant)
	t.added.Lock()
	t.fresh += bytes
	t.added.Unlock()
}

func (t *tally) pending() int64 {
	t.added.Lock()
	defer t.added.Unlock()
	return t.fresh
}

// Usage returns how many bytes a tenant stores, without writing anything.
func (m *Meter) Usage(ctx context.Context, tenant work.Tenant) (int64, error) {
	row, err := m.Records.Record(ctx, tenant, store.UsageKind, store.UsageKind)
	if fault.CodeOf(err) == fault.NotFound {
		u, err := m.counted(ctx, tenant)
		return u.Bytes(), err
	}
	if err != nil {
		return 0, err
	}
	var u store.Usage
	err = fault.Wrap(fault.Internal, json.Unmarshal(row.Doc, &u), "the usage of %s", tenant)
	return u.Bytes() + m.tally(tenant).pending(), err
}

// Flush writes down what was added by this process, before it ends.
func (m *Meter) Flush(ctx context.Context) error {
	m.mu.Lock()
	all := maps.Clone(m.tallies)
	m.mu.Unlock()
	var failed error
	for tenant, t := range all {
		t.Lock()
		if t.pending() != 0 {
			failed = errors.Join(failed, m.refresh(ctx, tenant, t))
		}
		t.Unlock()
	}
	return failed
}

// mark returns what has been added so far, for a count that begins.
func (m *Meter) mark(ctx context.Context, tenant work.Tenant) (int64, error) {
	t := m.tally(tenant)
	t.Lock()
	defer t.Unlock()
	err := m.refresh(ctx, tenant, t)
	return t.usage.Added, err
}

// recount replaces the count by one that began at a mark. What was added while it went on may be in it twice, until the next one.
func (m *Meter) recount(ctx context.Context, tenant work.Tenant, from, bytes int64) error {
	t := m.tally(tenant)
	t.Lock()
	defer t.Unlock()
	u, err := m.change(ctx, tenant, func(u *store.Usage) { u.Counted, u.From = bytes, from })
	if err == nil {
		t.usage = u
	}
	return err
}

// state returns how many bytes a tenant stores, and how many it may, 0 for any number.
func (m *Meter) state(ctx context.Context, tenant work.Tenant) (stored, quota int64, err error) {
	t := m.tally(tenant)
	t.Lock()
	defer t.Unlock()
	if now := m.Now(); t.at == 0 || now < t.at || now >= t.at.Add(current) {
		if err := m.refresh(ctx, tenant, t); err != nil {
			return 0, 0, err
		}
		t.at = now
	}
	return t.usage.Bytes() + t.pending(), t.quota, nil
}

// refresh writes down what was added here, and reads what others have.
func (m *Meter) refresh(ctx context.Context, tenant work.Tenant, t *tally) error {
	flow, err := m.Flows.Flow(ctx, tenant)
	if err != nil {
		return err
	}
	t.quota = flow.Quota.Bytes
	mine := t.pending()
	t.usage, err = m.change(ctx, tenant, func(u *store.Usage) { u.Added += mine })
	if err != nil {
		return err
	}
	t.added.Lock()
	t.fresh -= mine
	t.added.Unlock()
	if m.Observe != nil {
		m.Observe(tenant, t.usage.Bytes())
	}
	return nil
}

// attempts is how often a change of the record is tried when others change it as well.
const attempts = 20

// change changes the record of a tenant's usage; without one the blobs are counted first.
func (m *Meter) change(ctx context.Context, tenant work.Tenant, apply func(*store.Usage)) (u store.Usage, err error) {
	quiet := store.WithAudit(ctx, nil)
	for range attempts {
		row, err := m.Records.Record(ctx, tenant, store.UsageKind, store.UsageKind)
		switch {
		case fault.CodeOf(err) == fault.NotFound:
			row = store.Record{Tenant: tenant, Kind: store.UsageKind, ID: store.UsageKind}
			if u, err = m.counted(ctx, tenant); err != nil {
				return u, err
			}
		case err != nil:
			return u, err
		default:
			if err := json.Unmarshal(row.Doc, &u); err != nil {
				return u, fault.Wrap(fault.Internal, err, "the usage of %s", tenant)
			}
			before := u
			if apply(&u); u == before {
				return u, nil
			}
		}
		if row.Doc, err = json.Marshal(&u); err != nil {
			return u, fault.Wrap(fault.Internal, err, "the usage of %s", tenant)
		}
		if err = m.Records.Change(quiet, store.RecordChange{Record: row}); fault.CodeOf(err) != fault.Conflict {
			return u, err
		}
		u = store.Usage{}
	}
	return u, fault.New(fault.Unavailable, "the usage of %s changes all the time", tenant)
}

// counted counts what is there, with what this process has just added.
func (m *Meter) counted(ctx context.Context, tenant work.Tenant) (u store.Usage, err error) {
	for e, err := range m.Blobs.List(ctx, tenant) {
		if err != nil {
			return u, err
		}
		u.Counted += e.Size
	}
	return u, nil
}

// Limited are blobs of which a tenant may put no more than its quota. What is there already can be put again.
type Limited struct {
	blob.Store
	m *Meter
}

// Limit returns the metered blobs behind the quota.
func (m *Meter) Limit() blob.Store { return &Limited{m.Blobs, m} }

// Has implements blob.Store. Whoever is about to name files asks for them, and goes by a usage that is written down.
func (l *Limited) Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error) {
	if _, _, err := l.m.state(ctx, tenant); err != nil {
		return false, err
	}
	return l.Store.Has(ctx, tenant, digest)
}

var errRoom = errors.New("beyond the quota")

// Put implements blob.Store. Error: fault.OverQuota for what would go beyond the quota.
func (l *Limited) Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error) {
	stored, quota, err := l.m.state(ctx, tenant)
	if err != nil || quota == 0 {
		if err == nil {
			return l.Store.Put(ctx, tenant, r)
		}
		return "", 0, err
	}
	in := &bounded{r: r, room: quota - stored, sum: sha256.New()}
	digest, n, err := l.Store.Put(ctx, tenant, in)
	if !errors.Is(err, errRoom) {
		return digest, n, err
	}
	// Perhaps it is there already, and takes no room.
	if _, err := io.Copy(io.Discard, in); err != nil && !errors.Is(err, errRoom) {
		return "", 0, err
	}
	digest = work.Digest("sha256:" + hex.EncodeToString(in.sum.Sum(nil)))
	if has, err := l.Store.Has(ctx, tenant, digest); err != nil || has {
		return digest, in.n, err
	}
	return "", 0, over(tenant, stored, quota)
}

func over(tenant work.Tenant, stored, quota int64) error {
	return fault.New(fault.OverQuota, "the tenant %s stores %d of the %d bytes that it may, and a file of more than what is left was refused", tenant, stored, quota).
		WithHint("let old runs go (orrery retention set, orrery gc), or ask the operator: orrery tenant quota --bytes")
}

// PutAll implements blob.Store. Error: fault.OverQuota, for all of them, when those that are not there go beyond the quota.
func (l *Limited) PutAll(ctx context.Context, tenant work.Tenant, blobs [][]byte) ([]work.Digest, error) {
	stored, quota, err := l.m.state(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var more int64
	for _, data := range blobs {
		if quota == 0 {
			break
		}
		sum := sha256.Sum256(data)
		has, err := l.Store.Has(ctx, tenant, work.Digest("sha256:"+hex.EncodeToString(sum[:])))
		if err != nil {
			return nil, err
		}
		if !has {
			more += int64(len(data))
		}
	}
	if more > 0 && stored+more > quota {
		return nil, over(tenant, stored, quota)
	}
	return l.Store.PutAll(ctx, tenant, blobs)
}

// bounded ends with errRoom when more comes than there is room for, and hashes everything that it reads; with no room it hashes on.
type bounded struct {
	r    io.Reader
	room int64
	n    int64
	sum  hash.Hash
	out  bool // the room is used up
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	b.sum.Write(p[:n])
	if !b.out && b.n > b.room {
		b.out = true
		return 0, errRoom
	}
	return n, err
}
