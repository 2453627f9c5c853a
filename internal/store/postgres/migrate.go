package postgres

import (
	"context"
	"embed"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"

	"orrery.example/orrery/internal/fault"
)

//go:embed schema/*.sql
var schema embed.FS

// namesMode reports whether a URL chooses how statements are sent.
func namesMode(url string) bool { return strings.Contains(url, "default_query_exec_mode") }

// migrations returns the texts of schema/ in order; a store's version is how many of them it has had.
func migrations() ([]string, error) {
	entries, err := fs.ReadDir(schema, "schema")
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(entries))
	for i, e := range entries {
		text, err := schema.ReadFile("schema/" + e.Name())
		if err != nil {
			return nil, err
		}
		texts[i] = string(text)
	}
	return texts, nil
}

// migrationLock keeps servers that start at the same moment apart ("Orry"). It is held by a transaction, not by a session.
const migrationLock = 0x4f727279

// migrate brings the schema to the version of this program, in one transaction: a server that cannot finish leaves what was there. It
// waits for the lock of another that does the same, and touches nothing when there is nothing to do.
func migrate(ctx context.Context, conn *pgx.Conn) error {
	texts, err := migrations()
	if err != nil {
		return err
	}
	var found bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('orrery_schema') IS NOT NULL`).Scan(&found); err != nil {
		return classify(err)
	}
	if found {
		has, err := version(ctx, conn, len(texts))
		if err != nil || has == len(texts) {
			return err
		}
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing, and a broken connection is closed
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
		return classify(err)
	}
	if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS orrery_schema (version int PRIMARY KEY, applied timestamptz NOT NULL)`); err != nil {
		return classify(err)
	}
	has, err := version(ctx, conn, len(texts))
	if err != nil {
		return err
	}
	for n := has; n < len(texts); n++ {
		if _, err := tx.Exec(ctx, texts[n], pgx.QueryExecModeSimpleProtocol); err != nil {
			return fault.Wrap(fault.Internal, classify(err), "the store could not be brought to schema version %d", n+1)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO orrery_schema VALUES ($1, clock_timestamp())`, n+1); err != nil {
			return classify(err)
		}
	}
	return classify(tx.Commit(ctx))
}

// version returns how many of the migrations the store has had.
func version(ctx context.Context, conn *pgx.Conn, knows int) (int, error) {
	var has int
	if err := conn.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM orrery_schema`).Scan(&has); err != nil {
		return 0, classify(err)
	}
	if has > knows {
		return 0, fault.New(fault.Conflict, "the store has schema version %d, this Orrery knows %d at most", has, knows).
			WithHint("use the Orrery that wrote it, or a newer one")
	}
	return has, nil
}
