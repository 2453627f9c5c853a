package kernel

import (
	"context"
	"sync"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// requests keeps the signed requests of runs that are submitted and claimed. They never change.
type requests struct {
	mu sync.Mutex
	m  map[runKey][]byte
}

const cachedRequests = 4096

func (c *requests) get(key runKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, known := c.m[key]
	return raw, known
}

func (c *requests) put(key runKey, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= cachedRequests {
		c.m = map[runKey][]byte{}
	}
	c.m[key] = raw
}

// hand puts the signed requests of their runs into grants, so that workers need not ask for each. What cannot be read now they ask for.
func (s *Store) hand(ctx context.Context, grants []store.Grant) {
	missing := map[work.Tenant][]work.RunID{}
	for i := range grants {
		g := &grants[i]
		key := runKey{g.Tenant, g.Run}
		raw, known := s.signed.get(key)
		if g.Request = raw; !known {
			missing[g.Tenant] = append(missing[g.Tenant], g.Run)
		}
	}
	for tenant, runs := range missing {
		var found [][]byte
		err := s.view(ctx, func(r Reader) (err error) {
			found, err = r.Documents(tenant, runs, DocumentRequest)
			return err
		})
		if err != nil {
			return
		}
		for i, run := range runs {
			s.signed.put(runKey{tenant, run}, found[i])
		}
	}
	if len(missing) == 0 {
		return
	}
	for i := range grants {
		if g := &grants[i]; g.Request == nil {
			g.Request, _ = s.signed.get(runKey{g.Tenant, g.Run})
		}
	}
}
