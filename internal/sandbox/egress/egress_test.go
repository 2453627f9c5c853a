package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
)

// book keeps records.
type book struct {
	mu  sync.Mutex
	all []sandbox.EgressRecord
}

func (b *book) write(r sandbox.EgressRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, r)
}

func (b *book) one(t *testing.T) sandbox.EgressRecord {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.all) != 1 {
		t.Fatalf("%d records: %+v", len(b.all), b.all)
	}
	return b.all[0]
}

// names answers each lookup with the next of its addresses, like a name server that rebinds.
type names struct {
	answers [][]netip.Addr
	asked   int
}

func (n *names) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	if n.asked >= len(n.answers) {
		return nil, errors.New("asked once too often")
	}
	n.asked++
	return n.answers[n.asked-1], nil
}

func addresses(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestSpecialAddressesAreRefused(t *testing.T) {
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
		"100.64.0.1", "100.127.255.255", "192.0.0.8", "198.18.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::",
		"fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001::1", "2001:db8::1", "100::1"} {
		var b book
		d := NewDialer([]sandbox.Endpoint{{Host: "name.example", Port: 443}}, b.write).WithResolver(&names{answers: [][]netip.Addr{addresses("93.184.216.34", a)}})
		if _, err := d.DialContext(t.Context(), "tcp", "name.example:443"); fault.CodeOf(err) != fault.Denied {
			t.Errorf("%s: %v", a, err)
		}
		if r := b.one(t); r.Decision != Refused || r.Address != "" || !strings.Contains(r.Reason, "resolves to") {
			t.Errorf("%s: %+v", a, r)
		}
	}
	for _, a := range []string{"93.184.216.34", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700:4700::1111"} {
		if kind := special(netip.MustParseAddr(a)); kind != "" {
			t.Errorf("%s is %s", a, kind)
		}
	}
}

// A name is looked up once: the second answer of a rebinding server is never asked for.
func TestNoSecondLookup(t *testing.T) {
	var b book
	n := &names{answers: [][]netip.Addr{addresses("192.168.0.1"), addresses("127.0.0.1")}}
	d := NewDialer([]sandbox.Endpoint{{Host: "rebind.example", Port: 1}}, b.write).WithResolver(n)
	_, _ = d.DialContext(t.Context(), "tcp", "rebind.example:1")
	if n.asked != 1 {
		t.Errorf("asked %d times", n.asked)
	}
}

func TestOnlyExactEndpoints(t *testing.T) {
	allow := []sandbox.Endpoint{{Host: "Name.Example.", Port: 443}}
	for _, target := range []string{"name.example:80", "name.example:0443x", "other.example:443", "sub.name.example:443", "name.example.evil:443", "name.example", ":443",
		"93.184.216.34:443", "[::1]:443", "2130706433:443", "name.example:-1", "name.example:65979"} {
		var b book
		d := NewDialer(allow, b.write).WithResolver(&names{})
		if _, err := d.DialContext(t.Context(), "tcp", target); fault.CodeOf(err) != fault.Denied {
			t.Errorf("%s: %v", target, err)
		}
		b.one(t)
	}
	for _, target := range []string{"name.example:443", "NAME.example.:443"} {
		var b book
		n := &names{answers: [][]netip.Addr{addresses("10.0.0.1")}} // found, but special: it was in the list
		d := NewDialer(allow, b.write).WithResolver(n)
		_, _ = d.DialContext(t.Context(), "tcp", target)
		if n.asked != 1 {
			t.Errorf("%s was not taken for the listed name", target)
		}
	}
	var b book
	if _, err := NewDialer(allow, b.write).DialContext(t.Context(), "udp", "name.example:443"); fault.CodeOf(err) != fault.Denied {
		t.Errorf("udp: %v", err)
	}
}

func server(t *testing.T, handle func(net.Conn)) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go handle(c)
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func startProxy(t *testing.T, b *book, allow ...sandbox.Endpoint) (*Proxy, string) {
	t.Helper()
	p := NewProxy(NewDialer(allow, b.write))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Serve(l)
	t.Cleanup(p.Close)
	return p, l.Addr().String()
}

// A client may send before it has read the answer; a half-closed connection still carries the other half; every byte is counted.
func TestTunnel(t *testing.T) {
	a := server(t, func(c net.Conn) {
		defer c.Close()
		all, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %d", len(all))
	})
	var b book
	p, proxy := startProxy(t, &b, sandbox.Endpoint{Host: "127.0.0.1", Port: a.Port})
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := strings.Repeat("x", 100_000)
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: ignored\r\n\r\n%s", a, body)
	_ = c.(*net.TCPConn).CloseWrite()
	r := bufio.NewReader(c)
	answer, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || answer.StatusCode != 200 {
		t.Fatal(answer, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "got 100000" {
		t.Errorf("got %q", rest)
	}
	p.Close()
	if e := b.one(t); e.Decision != Allowed || e.BytesUp != 100_000 || e.BytesDown != int64(len("got 100000")) || e.Address != a.String() {
		t.Errorf("%+v", e)
	}
}

func TestRefusalsAreAnsweredAndRecorded(t *testing.T) {
	for request, want := range map[string]int{
		"CONNECT other.example:443 HTTP/1.1\r\nHost: x\r\n\r\n":                               403,
		"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n":                              403,
		"GET http://other.example/ HTTP/1.1\r\nHost: x\r\n\r\n":                               405,
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":                             405,
		"\x16\x03\x01 nonsense\r\n\r\n":                                                       400,
		"CONNECT a:1 HTTP/1.1\r\nX: " + strings.Repeat("x", mostHead) + "\r\nHost: x\r\n\r\n": 400,
	} {
		var b book
		p, proxy := startProxy(t, &b)
		c, err := net.Dial("tcp", proxy)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, request)
		status, _ := bufio.NewReader(c).ReadString('\n')
		if !strings.HasPrefix(status, fmt.Sprintf("HTTP/1.1 %d ", want)) {
			t.Errorf("%.40q: got %q, want %d", request, status, want)
		}
		c.Close()
		p.Close()
		if e := b.one(t); e.Decision != Refused || e.Reason == "" {
			t.Errorf("%.40q: %+v", request, e)
		}
	}
}

// An open tunnel ends with its proxy, and is recorded.
func TestCloseEndsTunnels(t *testing.T) {
	a := server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	var b book
	p, proxy := startProxy(t, &b, sandbox.Endpoint{Host: "127.0.0.1", Port: a.Port})
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\n\r\n", a)
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.Close()
	p.Close()
	if e := b.one(t); e.Decision != Allowed {
		t.Errorf("%+v", e)
	}
}
