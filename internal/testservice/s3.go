package testservice

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// gateway is the S3 server: Versity's gateway over a folder, a server that people store with, in pure Go, to be had from the module
// proxy. The version is fixed, so that a test means the same everywhere.
const (
	gateway        = "github.com/versity/versitygw/cmd/versitygw"
	gatewayVersion = "v1.8.0"
)

// S3 is an S3-compatible server.
type S3 struct {
	Endpoint             string
	AccessKey, SecretKey string

	dir     string
	port    *Port
	process *process
}

// StartS3 starts a server without buckets. The first time on a machine it is built with the go command.
func StartS3() (*S3, error) {
	path, err := built(gateway, gatewayVersion)
	if err != nil {
		return nil, err
	}
	s := &S3{AccessKey: "orrery", SecretKey: "orrery-secret"}
	if s.dir, err = folder(nil); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.Data(), s.beside()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if s.port, err = HoldPort(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.Endpoint = s.port.Address()
	// What it has to say about an object is kept in files beside it: not every file system has extended attributes.
	cmd := command(nil, s.dir, path, "--port", s.Endpoint, "posix", "--sidecar", s.beside(), s.Data())
	cmd.Env = append(cmd.Env, "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	if s.process, err = start(cmd, answers(s.Endpoint)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Data returns the folder where an object lies as bucket/key.
func (s *S3) Data() string { return filepath.Join(s.dir, "data") }

func (s *S3) beside() string { return filepath.Join(s.dir, "beside") }

// Close stops the server and removes its files.
func (s *S3) Close() error {
	if s.process != nil {
		s.process.kill(syscall.SIGKILL)
		s.process = nil
	}
	return errors.Join(s.port.Release(), os.RemoveAll(s.dir))
}

// SharedS3 is one server for a test binary, started with the first use. TestMain closes it.
type SharedS3 struct {
	once   sync.Once
	server *S3
	err    error
}

// Server returns the server, or fails the test when it cannot be started.
func (s *SharedS3) Server(t testing.TB) *S3 {
	t.Helper()
	s.once.Do(func() { s.server, s.err = StartS3() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Main runs the tests of a package and ends the server after them.
func (s *SharedS3) Main(m *testing.M) int {
	code := m.Run()
	if s.server != nil {
		if err := s.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}
