package kernel

import (
	"encoding/json"
	"sync"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// cache keeps the rows of runs under way between the transactions of an exclusive driver. Only the writing goroutine uses it.
type cache struct {
	runs    map[runKey]*hot
	flows   map[work.Tenant]store.Flow
	drained map[string]bool // queues, by tenant and runners, in which nothing is written that is ready
}

const (
	cachedRuns  = 20_000
	cachedSteps = 4_096 // of one run; beyond it rows that have ended are read again when they are needed
)

const drainedQueues = 1_000

func newCache() *cache {
	return &cache{runs: map[runKey]*hot{}, flows: map[work.Tenant]store.Flow{}, drained: map[string]bool{}}
}

func (c *cache) get(key runKey) *hot { return c.runs[key] }

func (c *cache) put(key runKey, h *hot) {
	if h.run.Phase == work.PhaseEnded {
		delete(c.runs, key)
		return
	}
	if len(h.steps) > cachedSteps {
		for id, s := range h.steps {
			if s.row == nil || !live(s.row.State) {
				delete(h.steps, id)
			}
		}
	}
	if len(c.runs) >= cachedRuns {
		for other := range c.runs { // any one: runs come and go faster than an order would pay
			delete(c.runs, other)
			break
		}
	}
	c.runs[key] = h
}

// forget drops everything: after a failed commit memory may be ahead of the disk.
func (c *cache) forget() {
	clear(c.runs)
	clear(c.flows)
	clear(c.drained)
}

// graphs keeps prepared plans, which never change.
type graphs struct {
	mu sync.Mutex
	m  map[graphKey]*engine.Graph
}

type graphKey struct {
	tenant work.Tenant
	hash   work.Digest
}

const cachedGraphs = 256

func (c *graphs) get(tenant work.Tenant, hash work.Digest) *engine.Graph {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[graphKey{tenant, hash}]
}

func (c *graphs) put(tenant work.Tenant, g *engine.Graph) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= cachedGraphs {
		c.m = map[graphKey]*engine.Graph{}
	}
	c.m[graphKey{tenant, g.Hash}] = g
}

func (c *graphs) load(tx Reader, tenant work.Tenant, hash work.Digest) (*engine.Graph, error) {
	if g := c.get(tenant, hash); g != nil {
		return g, nil
	}
	raw, err := tx.Plan(tenant, hash)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, fault.New(fault.Internal, "plan %s is missing from the store", hash)
	}
	g, err := newGraph(raw, hash)
	if err != nil {
		return nil, err
	}
	c.put(tenant, g)
	return g, nil
}

// newGraph prepares a plan after checking that it is the one its hash names.
func newGraph(raw []byte, hash work.Digest) (*engine.Graph, error) {
	if got := canonical.Digest(raw); got != hash {
		return nil, fault.New(fault.PlanMismatch, "the plan hashes to %s, not to %s", got, hash)
	}
	var plan work.Plan
	if err := json.Unmarshal(raw, &plan); err != nil {
		return nil, fault.New(fault.Invalid, "plan %s cannot be read: %v", hash.Short(), err)
	}
	return engine.NewGraph(&plan, hash)
}
