package testservice

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Port is a port of the loopback that is held for one server. Nobody else gets it by asking for any port, neither to listen nor for a
// connection, so the server may come, be killed and come back there however long that takes.
type Port struct {
	Number int

	socket *os.File
}

// HoldPort finds a free port and holds it until Release.
func HoldPort() (*Port, error) {
	// A socket that is bound and does not listen is passed over when the kernel chooses a port, and is no obstacle for a server that asks
	// for just this one, as long as both allow that an address is used again, which servers do.
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &Port{socket: os.NewFile(uintptr(socket), "port")}
	if err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	var at unix.Sockaddr
	if err == nil {
		at, err = unix.Getsockname(socket)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("no port of the loopback can be held: %w", err), p.Release())
	}
	p.Number = at.(*unix.SockaddrInet4).Port
	return p, nil
}

// PortFor holds a port while a test lasts.
func PortFor(t testing.TB) *Port {
	t.Helper()
	p, err := HoldPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Address is the port with its host, "127.0.0.1:4711".
func (p *Port) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number)) }

// Release gives the port up. A service that has none yet may say so, too.
func (p *Port) Release() error {
	if p == nil {
		return nil
	}
	return p.socket.Close()
}
