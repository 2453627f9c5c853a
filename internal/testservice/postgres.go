package testservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions change how a server is started.
type PostgresOptions struct {
	// Durable flushes every commit to the disk (fsync=on), which costs a test much of its speed. Without it a commit still survives the
	// end of the server, in whatever way, but not of the machine.
	Durable bool

	// Settings are added to postgresql.conf.
	Settings map[string]string
}

// Postgres is a PostgreSQL server.
type Postgres struct {
	bin, dir  string
	port      *Port
	who       *syscall.Credential
	mu        sync.Mutex
	process   *process
	databases atomic.Int64
}

const postgresUser = "orrery"

// StartPostgres starts a server with an empty cluster. Errors: fault.NotFound when PostgreSQL is not installed.
func StartPostgres(o PostgresOptions) (*Postgres, error) {
	initdb, err := find("initdb", "postgresql", "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	s := &Postgres{bin: filepath.Dir(initdb)}
	if s.who, err = account(); err != nil {
		return nil, err
	}
	if s.dir, err = folder(s.who); err != nil {
		return nil, err
	}
	if s.port, err = HoldPort(); err == nil {
		err = s.initialise(o)
	}
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Postgres) data() string { return filepath.Join(s.dir, "data") }

func (s *Postgres) initialise(o PostgresOptions) error {
	err := output(command(s.who, s.dir, filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", postgresUser, "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"))
	if err != nil {
		return err
	}
	settings := map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": s.dir, "max_connections": "200", "shared_buffers": "128MB",
		"fsync": "off", "full_page_writes": "off", "max_wal_size": "2GB", "log_min_messages": "warning", "restart_after_crash": "off",
	}
	if o.Durable {
		settings["fsync"], settings["full_page_writes"] = "on", "on"
	}
	for k, v := range o.Settings {
		settings[k] = v
	}
	var text strings.Builder
	for k, v := range settings {
		fmt.Fprintf(&text, "%s = '%s'\n", k, strings.ReplaceAll(v, "'", "''"))
	}
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text.String())
	return errors.Join(err, f.Close())
}

// Start runs the server again after Stop or Kill, on the same port.
func (s *Postgres) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What a server that was killed has left behind, its shared memory above all, may need a moment to go.
	for deadline := time.Now().Add(startTimeout); ; {
		p, err := start(command(s.who, s.dir, filepath.Join(s.bin, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port.Number)), s.ping)
		if err == nil {
			s.process = p
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

func (s *Postgres) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// Stop ends the server and waits: after its transactions ("smart", SIGTERM), breaking them off ("fast", SIGINT), or without writing
// anything more ("immediate", SIGQUIT).
func (s *Postgres) Stop(signal syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.kill(signal)
		s.process = nil
	}
}

// Kill ends the server and all its processes with SIGKILL. What a new start needs of a lock file it finds abandoned and takes.
func (s *Postgres) Kill() { s.Stop(syscall.SIGKILL) }

// Close stops the server and removes its files.
func (s *Postgres) Close() error {
	s.Stop(syscall.SIGQUIT)
	return errors.Join(s.port.Release(), os.RemoveAll(s.dir))
}

// URL returns how to connect to a database.
func (s *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", postgresUser, s.port.Number, database)
}

// PID returns the process id of the server, whose children are its backends.
func (s *Postgres) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.cmd.Process.Pid
}

// Database creates an empty database and returns its URL.
func (s *Postgres) Database(ctx context.Context) (string, error) { return s.create(ctx, "template1") }

// Copy creates a copy of a database that nobody is connected to and returns its URL.
func (s *Postgres) Copy(ctx context.Context, url string) (string, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	return s.create(ctx, config.Database)
}

func (s *Postgres) create(ctx context.Context, template string) (string, error) {
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+name+` TEMPLATE `+template); err != nil {
		return "", err
	}
	return s.URL(name), nil
}

// SharedPostgres is one server for a test binary, started with the first use. TestMain closes it.
type SharedPostgres struct {
	Options PostgresOptions

	once   sync.Once
	server *Postgres
	err    error
}

// Server returns the server, or fails the test when it cannot be started.
func (s *SharedPostgres) Server(t testing.TB) *Postgres {
	t.Helper()
	s.once.Do(func() { s.server, s.err = StartPostgres(s.Options) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Database returns the URL of an empty database.
func (s *SharedPostgres) Database(t testing.TB) string {
	t.Helper()
	url, err := s.Server(t).Database(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// Main runs the tests of a package and ends the server after them.
func (s *SharedPostgres) Main(m *testing.M) int {
	code := m.Run()
	if s.server != nil {
		if err := s.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}
