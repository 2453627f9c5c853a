package main

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

// database makes an empty database on the server of the bench, after what others have left is on the disk.
func (c *cell) database(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, c.Postgres.URL)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	name := "bench_" + strings.ToLower(rand.Text()[:12])
	for _, statement := range []string{"CREATE DATABASE " + name, "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", err
		}
	}
	u, err := url.Parse(c.Postgres.URL)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}
