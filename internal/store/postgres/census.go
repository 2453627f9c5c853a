package postgres

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// census counts in the narrow tables, which hold only what is to be counted.
const census = `SELECT tenant, sum(queued)::bigint, coalesce(min(oldest), 0)::bigint, sum(leases)::bigint, sum(lost)::bigint,
		sum(workers)::bigint, sum(letters)::bigint, sum(unsealed)::bigint FROM (
	SELECT tenant, count(*) AS queued, min(queued) AS oldest, 0 AS leases, 0 AS lost, 0 AS workers, 0 AS letters, 0 AS unsealed
		FROM ready GROUP BY tenant
	UNION ALL SELECT l.tenant, 0, NULL, count(*), count(*) FILTER (WHERE coalesce(s.expires, 0) <= $1), 0, 0, 0
		FROM leases l LEFT JOIN sessions s ON s.id = l.session GROUP BY l.tenant
	UNION ALL SELECT tenant, 0, NULL, 0, 0, count(*), 0, 0 FROM sessions WHERE expires > $1 GROUP BY tenant
	UNION ALL SELECT tenant, 0, NULL, 0, 0, 0, count(*), 0 FROM dead_letters WHERE resolved IS NULL GROUP BY tenant
	UNION ALL SELECT tenant, 0, NULL, 0, 0, 0, 0, count(*) FROM unsealed GROUP BY tenant
) parts GROUP BY tenant ORDER BY tenant`

// Census implements kernel.CensusReader.
func (r *reader) Census(now work.Time) ([]store.Census, error) {
	var out []store.Census
	err := r.ask(census, func(rows pgx.Rows) error {
		var c store.Census
		err := rows.Scan(&c.Tenant, &c.Queued, &c.Oldest, &c.Leases, &c.Lost, &c.Workers, &c.DeadLetters, &c.Unsealed)
		out = append(out, c)
		return err
	}, now)
	return out, err
}

// statistics sees that the planner knows a store that is young. While it does not, every index that begins with the tenant looks the same to it,
// and it may go through all runs of a tenant to find one. The server itself looks once a minute, and thousands of runs are made in that.
type statistics struct {
	runs atomic.Int64 // made by this process
	due  atomic.Int64 // at so many
}

const (
	firstStatistics = 200
	grownStatistics = 8 // times as many before the next
	oldStore        = 100_000
	statisticsTime  = 30 * time.Second
)

// look decides from what the server knows when the first statistics are due.
func (s *statistics) look(ctx context.Context, conn *pgx.Conn) error {
	var known float64 // -1 for nothing
	if err := conn.QueryRow(ctx, `SELECT reltuples FROM pg_class WHERE oid = 'runs'::regclass`).Scan(&known); err != nil {
		return classify(err)
	}
	s.due.Store(firstStatistics)
	if known >= firstStatistics {
		s.due.Store(math.MaxInt64)
	}
	return nil
}

// made counts runs that were committed, and has statistics made when it is time. They are of the tables with several indexes.
func (d *Driver) made(runs int) {
	s := &d.statistics
	due := s.due.Load()
	if s.runs.Add(int64(runs)) < due {
		return
	}
	next := due * grownStatistics
	if next > oldStore {
		next = math.MaxInt64
	}
	if !s.due.CompareAndSwap(due, next) {
		return // another transaction of this process has them made
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), statisticsTime)
		defer cancel()
		conn, err := d.acquire(ctx)
		if err != nil {
			return // the store is closed, or whoever needs it says more
		}
		defer conn.Release()
		if _, err := conn.Exec(ctx, `ANALYZE (SKIP_LOCKED) runs, events, leaves`); err != nil {
			d.o.Log.Debug("statistics for the planner could not be made", "error", err)
		}
	}()
}
