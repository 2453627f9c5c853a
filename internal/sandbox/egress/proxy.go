package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
)

const (
	headWait = 10 * time.Second // for a request's head
	mostHead = 16 << 10         // bytes of it
	mostOpen = 256              // connections of one step at once
)

// Proxy serves CONNECT, and nothing else, to one step. Plain HTTP through the proxy is refused with 405 and recorded: a step
// that wants it unencrypted asks for CONNECT to port 80 and needs that endpoint in its list.
type Proxy struct {
	dialer *Dialer
	ctx    context.Context
	stop   context.CancelFunc
	slots  chan struct{}

	mu       sync.Mutex
	closed   bool
	listener net.Listener
	open     map[net.Conn]bool
	work     sync.WaitGroup
}

// NewProxy returns a proxy that connects through the dialer.
func NewProxy(d *Dialer) *Proxy {
	ctx, stop := context.WithCancel(context.Background())
	return &Proxy{dialer: d, ctx: ctx, stop: stop, slots: make(chan struct{}, mostOpen), open: map[net.Conn]bool{}}
}

// Serve starts to accept from l, which Close will close.
func (p *Proxy) Serve(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener != nil {
		l.Close()
		return
	}
	p.listener = l
	p.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.slots <- struct{}{}
			if !p.track(conn) {
				conn.Close()
				return
			}
			p.work.Go(func() {
				defer func() { <-p.slots }()
				defer p.drop(conn)
				p.serve(conn)
			})
		}
	})
}

// Close ends every connection and returns when each attempt was recorded. It may be called again.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		p.listener.Close()
	}
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.stop()
	p.work.Wait()
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
}

func (p *Proxy) serve(client net.Conn) {
	_ = client.SetReadDeadline(time.Now().Add(headWait))
	buffered := bufio.NewReader(client)
	head := &io.LimitedReader{R: buffered, N: mostHead}
	request, err := http.ReadRequest(bufio.NewReaderSize(onebyte{head}, 16))
	if err != nil {
		p.refuse(client, http.StatusBadRequest, sandbox.EgressRecord{Reason: "not an HTTP request"})
		return
	}
	if request.Method != http.MethodConnect {
		p.refuse(client, http.StatusMethodNotAllowed, sandbox.EgressRecord{Host: canonical(request.URL.Hostname()), Reason: "the proxy serves CONNECT only, not " + request.Method})
		return
	}
	server, err := p.dialer.DialContext(p.ctx, "tcp", request.Host)
	if err != nil {
		status := http.StatusBadGateway
		if errors.Is(err, &fault.Error{Code: fault.Denied}) {
			status = http.StatusForbidden
		}
		answer(client, status, err.Error())
		return
	}
	if !p.track(server) {
		server.Close()
		return
	}
	defer p.drop(server)
	_ = client.SetReadDeadline(time.Time{})
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	relay(client, buffered, server)
}

// onebyte keeps the request parser from reading beyond the head: what a client sends right after it belongs to the server.
type onebyte struct{ r io.Reader }

func (o onebyte) Read(b []byte) (int, error) { return o.r.Read(b[:min(len(b), 1)]) }

func (p *Proxy) refuse(client net.Conn, status int, r sandbox.EgressRecord) {
	r.Time, r.Decision = time.Now(), Refused
	p.dialer.record(r)
	answer(client, status, r.Reason)
}

func answer(client net.Conn, status int, text string) {
	_, _ = fmt.Fprintf(client, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		status, http.StatusText(status), len(text)+1, text)
}

// relay copies both ways until both have ended. An end in one direction is passed on; the other may go on.
func relay(client net.Conn, fromClient io.Reader, server net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(server, fromClient)
		closeWrite(server)
	})
	both.Go(func() {
		_, _ = io.Copy(client, server)
		closeWrite(client)
	})
	both.Wait()
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
