package postgres

import (
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
