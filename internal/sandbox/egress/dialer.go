// Package egress lets a step reach exactly the endpoints its policy lists, and records every attempt.
//
// Names are resolved here, outside the sandbox, once per attempt, and the address that was checked is the address that is dialled: a
// name that resolves differently a moment later gains nothing. What flows inside a connection is not inspected.
package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
)

// The decisions of an EgressRecord.
const (
	Allowed = "allowed"
	Refused = "refused"
)

// dialWait bounds the connection to one address.
const dialWait = 30 * time.Second

// Resolver turns a name into addresses. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Dialer opens connections to the endpoints of an allow-list. It is safe for concurrent use.
type Dialer struct {
	allow    map[sandbox.Endpoint]bool
	record   func(sandbox.EgressRecord)
	resolver Resolver
}

// NewDialer returns a dialer for a policy's endpoints. record is called once per attempt: at once when it is refused or fails, and
// when the connection is closed otherwise. It must be safe for concurrent use.
func NewDialer(allow []sandbox.Endpoint, record func(sandbox.EgressRecord)) *Dialer {
	d := &Dialer{allow: map[sandbox.Endpoint]bool{}, record: record, resolver: net.DefaultResolver}
	for _, e := range allow {
		d.allow[sandbox.Endpoint{Host: canonical(e.Host), Port: e.Port}] = true
	}
	return d
}

// WithResolver returns a dialer that looks names up elsewhere.
func (d *Dialer) WithResolver(r Resolver) *Dialer {
	c := *d
	c.resolver = r
	return &c
}

// canonical gives every spelling of a host one form: lower case, no final dot, an address as the address it means.
func canonical(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return host
}

// DialContext connects to host:port when the list has exactly that endpoint and its address is one of the public Internet, or
// was listed as an address. Its errors are fault.Denied for what the policy refuses and fault.Unavailable for what the network did.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r := sandbox.EgressRecord{Time: time.Now(), Host: address, Decision: Refused}
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, d.refuse(r, "only TCP is allowed")
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, d.refuse(r, "the address is not host:port")
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, d.refuse(r, "the port is not a number")
	}
	r.Host, r.Port = canonical(host), int(port)
	if !d.allow[sandbox.Endpoint{Host: r.Host, Port: r.Port}] {
		return nil, d.refuse(r, "not in the policy's list")
	}
	addresses, reason := d.addresses(ctx, r.Host)
	if reason != "" {
		return nil, d.refuse(r, reason)
	}
	r.Decision = Allowed
	dialer := net.Dialer{Timeout: dialWait}
	var failures []error
	for _, a := range addresses {
		r.Address = netip.AddrPortFrom(a, uint16(port)).String()
		conn, err := dialer.DialContext(ctx, network, r.Address)
		if err == nil {
			return &countedConn{Conn: conn, record: r, done: d.record}, nil
		}
		failures = append(failures, err)
	}
	err = errors.Join(failures...)
	r.Reason = "not reachable: " + err.Error()
	d.record(r)
	return nil, fault.Wrap(fault.Unavailable, err, "connecting to %s", address)
}

func (d *Dialer) refuse(r sandbox.EgressRecord, reason string) error {
	r.Reason = reason
	d.record(r)
	return fault.New(fault.Denied, "connection to %s port %d refused: %s", r.Host, r.Port, reason)
}

// addresses returns what may be dialled for a listed host, or a reason to refuse. One special address among several refuses them
// all: a name that mixes public and internal addresses is an attempt to reach the internal ones.
func (d *Dialer) addresses(ctx context.Context, host string) (list []netip.Addr, reason string) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, "" // listed as this very address
	}
	found, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(found) == 0 {
		return nil, "the name does not resolve"
	}
	for _, a := range found {
		a = a.Unmap().WithZone("")
		if kind := special(a); kind != "" {
			return nil, "the name resolves to " + a.String() + ", " + kind
		}
		list = append(list, a)
	}
	return list, ""
}

// special says what kind of special-use address this is, or nothing for one of the public Internet.
func special(a netip.Addr) string {
	switch {
	case a.IsUnspecified(), a.IsLoopback():
		return "this machine"
	case a.IsLinkLocalUnicast(), a.IsLinkLocalMulticast(), a.IsInterfaceLocalMulticast():
		return "a link-local address"
	case a.IsPrivate():
		return "a private address"
	case a.IsMulticast():
		return "a multicast address"
	}
	for _, s := range specialUse() {
		if netip.MustParsePrefix(s.prefix).Contains(a) {
			return s.kind
		}
	}
	return ""
}

type use struct{ prefix, kind string }

// specialUse is what the IANA registries mark as not globally reachable, or as carrying another address inside, beyond what netip knows.
func specialUse() []use {
	return []use{
		{"0.0.0.0/8", "this network"},
		{"100.64.0.0/10", "a carrier's shared address"},
		{"192.0.0.0/24", "a protocol assignment"},
		{"192.0.2.0/24", "documentation"},
		{"192.88.99.0/24", "a 6to4 relay"},
		{"198.18.0.0/15", "a benchmark address"},
		{"198.51.100.0/24", "documentation"},
		{"203.0.113.0/24", "documentation"},
		{"240.0.0.0/4", "a reserved address"},
		{"::/96", "an IPv4 address in IPv6"},
		{"64:ff9b::/96", "an IPv4 address behind a translator"},
		{"64:ff9b:1::/48", "an IPv4 address behind a translator"},
		{"100::/64", "a discard address"},
		{"2001::/23", "a protocol assignment"},
		{"2001:db8::/32", "documentation"},
		{"2002::/16", "an IPv4 address in 6to4"},
		{"3fff::/20", "documentation"},
		{"5f00::/16", "a segment routing address"},
		{"fec0::/10", "a site-local address"},
	}
}

// countedConn counts what flows and records the attempt when it is closed.
type countedConn struct {
	net.Conn
	up, down atomic.Int64
	record   sandbox.EgressRecord
	done     func(sandbox.EgressRecord)
	once     sync.Once
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.down.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.up.Add(int64(n))
	return n, err
}

// CloseWrite passes the end of one direction on, where the connection can.
func (c *countedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.record.BytesUp, c.record.BytesDown = c.up.Load(), c.down.Load()
		c.done(c.record)
	})
	return err
}
