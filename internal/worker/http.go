package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/sandbox/egress"
	"orrery.example/orrery/internal/work"
)

// maxBody bounds what an http step reads of a response.
const maxBody = 64 << 20

// request sends one HTTP request to an endpoint that the step lists under egress. With: url, method, headers, body, file (where to
// write the response), expect (list of statuses; default 200-299). The step may declare the value status and the file as outputs.
func (a *attempt) request(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, time.Duration(a.spec.TimeoutMs)*time.Millisecond)
	defer stop()
	d := newRecordedDials(a.policy().Egress)
	client := &http.Client{
		Transport:     &http.Transport{DialContext: d.dial, DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	err := a.send(ctx, client)
	late := ctx.Err() == context.DeadlineExceeded
	stop()
	a.report.Egress, _ = json.Marshal(a.egressRecords(d.end())) // plain structs of ours
	a.report.Protections = json.RawMessage(`{"label":"built-in","layers":{"network":"allow-list"},"tier":0}`)
	switch {
	case err == nil:
		a.report.State, a.report.Reason = work.Succeeded, work.Reason{Code: work.EndedWell}
	case late:
		a.fail(work.TimedOut, work.EndedByTimeout, "timeout", "the request took longer than its time limit")
	default:
		class := "http"
		if fault.CodeOf(err) == fault.Exhausted {
			class = "http-429"
		} else if fault.CodeOf(err) == fault.Unavailable {
			class = "http-5xx"
		}
		a.fail(work.Failed, work.EndedByExit, class, a.mask(err.Error()))
		a.lines.say("error", "%v", err)
	}
}

// recordedDials are the connections of one request. A client closes them some time after it has answered; the report needs the records
// of all of them before that.
type recordedDials struct {
	dialer *egress.Dialer

	mu      sync.Mutex
	ended   bool
	dialing sync.WaitGroup
	conns   []net.Conn
	records []sandbox.EgressRecord
}

func newRecordedDials(allow []sandbox.Endpoint) *recordedDials {
	d := &recordedDials{}
	d.dialer = egress.NewDialer(allow, func(r sandbox.EgressRecord) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.records = append(d.records, r)
	})
	return d
}

func (d *recordedDials) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return nil, net.ErrClosed
	}
	d.dialing.Add(1)
	d.mu.Unlock()
	defer d.dialing.Done()
	conn, err := d.dialer.DialContext(ctx, network, address)
	if err == nil {
		d.mu.Lock()
		d.conns = append(d.conns, conn)
		d.mu.Unlock()
	}
	return conn, err
}

// end closes every connection, allows no more, and returns the records of all that were tried.
func (d *recordedDials) end() []sandbox.EgressRecord {
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.dialing.Wait()
	for _, conn := range d.conns {
		_ = conn.Close() // the client may have closed it; the record is made once
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.records
}

func (a *attempt) send(ctx context.Context, client *http.Client) error {
	req, err := a.build(ctx)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "request failed")
	}
	defer res.Body.Close()
	a.report.ExitCode = 0
	a.lines.say("info", "%s %s: %s", req.Method, req.URL.Redacted(), res.Status)
	if !expected(a.rendered.With["expect"], res.StatusCode) {
		a.report.ExitCode = 1
		switch {
		case res.StatusCode == http.StatusTooManyRequests:
			return fault.New(fault.Exhausted, "the server answered %s", res.Status)
		case res.StatusCode >= 500:
			return fault.New(fault.Unavailable, "the server answered %s", res.Status)
		default:
			return fault.New(fault.Invalid, "the server answered %s", res.Status)
		}
	}
	return a.keepResponse(res)
}

func (a *attempt) build(ctx context.Context) (*http.Request, error) {
	with := a.rendered.With
	target, _ := with["url"].(string)
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fault.New(fault.Invalid, "http needs a url that begins with http:// or https://")
	}
	method, _ := with["method"].(string)
	var body io.Reader
	switch b := with["body"].(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		raw, err := canonical.Marshal(b)
		if err != nil {
			return nil, err
		}
		body = strings.NewReader(string(raw))
	}
	req, err := http.NewRequestWithContext(ctx, strings.ToUpper(method), target, body)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "http")
	}
	headers, _ := with["headers"].(map[string]any)
	for k, v := range headers {
		req.Header.Set(k, fmt.Sprint(v))
	}
	// Secrets travel as headers: the environment name of the secret is the header's, HTTP_ and underscores taken off.
	for env, value := range a.rendered.secrets {
		if name, ok := strings.CutPrefix(env, "HTTP_"); ok {
			req.Header.Set(strings.ReplaceAll(name, "_", "-"), string(value))
		}
	}
	for name, value := range a.traceHeaders() {
		req.Header.Set(name, value)
	}
	return req, nil
}

func expected(want any, status int) bool {
	list, ok := want.([]any)
	if !ok {
		return status >= 200 && status < 300
	}
	return slices.ContainsFunc(list, func(v any) bool { return fmt.Sprint(v) == fmt.Sprint(status) })
}

// keepResponse puts the status among the values of the step, and the body where the step wants it.
func (a *attempt) keepResponse(res *http.Response) error {
	root, err := os.OpenRoot(a.dir)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "workspace")
	}
	defer root.Close()
	if err := root.WriteFile(outputFile, fmt.Appendf(nil, "status=%d\n", res.StatusCode), 0o644); err != nil {
		return fault.Wrap(fault.Internal, err, "workspace")
	}
	limited := io.LimitReader(res.Body, maxBody+1)
	name, _ := a.rendered.With["file"].(string)
	if name == "" {
		_, err := io.Copy(io.Discard, limited)
		return err
	}
	if !filepath.IsLocal(name) {
		return fault.New(fault.Invalid, "%q is no path inside the workspace", name)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fault.Wrap(fault.Invalid, err, "response")
	}
	f, err := root.Create(name)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "response")
	}
	n, err := io.Copy(f, limited)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil && n > maxBody {
		err = fault.New(fault.Exhausted, "the response is larger than %d bytes", maxBody)
	}
	return err
}
