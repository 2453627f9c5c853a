package testservice

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Pgbouncer is a pooler in front of a PostgreSQL server, in transaction mode: two transactions of one client may run on two
// connections of the server.
type Pgbouncer struct {
	dir     string
	port    *Port
	process *process
}

// StartPgbouncer starts a pooler with at most size connections to each database of a server. Errors: fault.NotFound when pgbouncer is
// not installed.
func StartPgbouncer(s *Postgres, size int) (*Pgbouncer, error) {
	path, err := find("pgbouncer", "pgbouncer", "/usr/sbin")
	if err != nil {
		return nil, err
	}
	who, err := account()
	if err != nil {
		return nil, err
	}
	b := &Pgbouncer{}
	if b.dir, err = folder(who); err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "pgbouncer.ini")
	if b.port, err = HoldPort(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	settings := fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d user=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\n"+
		"auth_type = any\npool_mode = transaction\ndefault_pool_size = %d\nmax_client_conn = 500\nlog_connections = 0\nlog_disconnections = 0\n",
		s.port.Number, postgresUser, b.port.Number, size)
	if err = os.WriteFile(file, []byte(settings), 0o644); err == nil {
		b.process, err = start(command(who, b.dir, path, file), answers(b.port.Address()))
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Through returns how to connect to a database of the server through the pooler.
func (b *Pgbouncer) Through(url string) string {
	scheme, rest, _ := strings.Cut(url, "@")
	_, path, _ := strings.Cut(rest, "/")
	return scheme + "@" + b.port.Address() + "/" + path
}

// Close stops the pooler and removes its files.
func (b *Pgbouncer) Close() error {
	if b.process != nil {
		b.process.kill(syscall.SIGKILL)
		b.process = nil
	}
	return errors.Join(b.port.Release(), os.RemoveAll(b.dir))
}
