package testservice

import (
	"errors"
	"os"
	"strconv"
	"syscall"
)

// Broker is a server that carries messages: NATS, or Valkey (or Redis, which it comes from).
type Broker struct {
	URL     string
	dir     string
	port    *Port
	run     func() (*process, error)
	process *process
}

// StartNATS starts a NATS server with JetStream. Error: fault.NotFound when it is not installed.
func StartNATS() (*Broker, error) {
	return broker("nats", "nats-server", "nats-server", func(port, dir string) []string {
		return []string{"-a", "127.0.0.1", "-p", port, "-js", "-sd", dir}
	})
}

// StartValkey starts a Redis server, whose protocol Valkey speaks. It keeps what was written when it is killed. Error: fault.NotFound when it is not installed.
func StartValkey() (*Broker, error) {
	return broker("redis", "redis-server", "redis-server", func(port, dir string) []string {
		return []string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", dir}
	})
}

func broker(scheme, program, debianPackage string, args func(port, dir string) []string) (*Broker, error) {
	path, err := find(program, debianPackage, "/usr/sbin")
	if err != nil {
		return nil, err
	}
	who, err := account()
	if err != nil {
		return nil, err
	}
	b := &Broker{}
	if b.dir, err = folder(who); err != nil {
		return nil, err
	}
	if b.port, err = HoldPort(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.URL = scheme + "://" + b.port.Address()
	b.run = func() (*process, error) {
		return start(command(who, b.dir, path, args(strconv.Itoa(b.port.Number), b.dir)...), answers(b.port.Address()))
	}
	if err := b.Start(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Kill ends the server at once.
func (b *Broker) Kill() {
	if b.process != nil {
		b.process.kill(syscall.SIGKILL)
		b.process = nil
	}
}

// Start starts a server that was killed, where it was.
func (b *Broker) Start() error {
	var err error
	b.process, err = b.run()
	return err
}

// Close stops the server and removes its files.
func (b *Broker) Close() error {
	b.Kill()
	return errors.Join(b.port.Release(), os.RemoveAll(b.dir))
}
