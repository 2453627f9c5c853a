// Package policy asks policy engines for the decisions that gates wait for, over OPA's REST API, and records what they answer.
//
// A pack names an engine and a decision; where the engine is reached, with which credentials and for whom is the operator's matter, so
// that no pack makes this process call an address of its choice. An engine that is down lets nobody pass.
package policy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Engine is one policy engine, as its operator wrote it down.
type Engine struct {
	Name    string        `yaml:"name"`    // how packs call it
	URL     string        `yaml:"url"`     // of its REST API, without /v1
	Token   string        `yaml:"token"`   // where the bearer token is: env:NAME or file:/path; "" for none
	CA      string        `yaml:"ca"`      // file with the authorities of its certificate; the system's without
	Cert    string        `yaml:"cert"`    // file with our certificate, for mutual TLS
	Key     string        `yaml:"key"`     // file with its key
	Timeout time.Duration `yaml:"timeout"` // of one question
	Tenants []string      `yaml:"tenants"` // who may ask; everybody without
	Paths   []string      `yaml:"paths"`   // decisions that may be asked for, and those below them; all without

	http   *http.Client
	secret func(ref string) ([]byte, error)
}

const (
	defaultTimeout = 5 * time.Second
	maxTimeout     = time.Minute
	maxReply       = 256 << 10
	maxMessage     = 500
	maxPath        = 256
)

var (
	engineName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$`)
	decisionPath = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)
)

// prepare checks an engine and makes what reaches it. Error: fault.Invalid.
func (e *Engine) prepare(secret func(ref string) ([]byte, error)) error {
	if !engineName.MatchString(e.Name) {
		return fault.New(fault.Invalid, "a policy engine is named with letters, digits, underscore and dash, not %q", e.Name)
	}
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fault.New(fault.Invalid, "%q is not the address of the policy engine %s", e.URL, e.Name).WithHint("for example: https://opa.example.org:8181")
	}
	if e.URL = strings.TrimRight(e.URL, "/"); e.Timeout == 0 {
		e.Timeout = defaultTimeout
	}
	if e.Timeout < 0 || e.Timeout > maxTimeout {
		return fault.New(fault.Invalid, "a question to the policy engine %s takes up to %s", e.Name, maxTimeout)
	}
	if (e.Cert == "") != (e.Key == "") {
		return fault.New(fault.Invalid, "mutual TLS with the policy engine %s needs cert and key", e.Name)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.CA != "" {
		raw, err := os.ReadFile(e.CA)
		if config.RootCAs = x509.NewCertPool(); err != nil || !config.RootCAs.AppendCertsFromPEM(raw) {
			return fault.New(fault.Invalid, "%s holds no certificate", e.CA)
		}
	}
	if e.Cert != "" {
		pair, err := tls.LoadX509KeyPair(e.Cert, e.Key)
		if err != nil {
			return fault.New(fault.Invalid, "the certificate for the policy engine %s: %v", e.Name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	e.secret = secret
	e.http = &http.Client{Transport: transport, Timeout: e.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token is for this address, and the address is the operator's choice
	}}
	return nil
}

// may reports whether a tenant may ask for a decision.
func (e *Engine) may(tenant work.Tenant, path string) bool {
	below := func(p string) bool {
		p = strings.Trim(p, "/")
		return path == p || strings.HasPrefix(path, p+"/")
	}
	return (len(e.Tenants) == 0 || slices.Contains(e.Tenants, string(tenant))) && (len(e.Paths) == 0 || slices.ContainsFunc(e.Paths, below))
}

// reply is the answer of OPA's data API.
type reply struct {
	Result     json.RawMessage `json:"result"`
	DecisionID string          `json:"decision_id"`
	Provenance struct {
		Version  string                               `json:"version"`
		Revision string                               `json:"revision"`
		Bundles  map[string]struct{ Revision string } `json:"bundles"`
	} `json:"provenance"`
}

// ask asks for a decision. The error says why there is no answer: nothing was decided then.
func (e *Engine) ask(ctx context.Context, path string, input json.RawMessage) (*work.EngineAnswer, error) {
	if len(path) > maxPath || !decisionPath.MatchString(path) { // a plan may come from anybody
		return nil, fault.New(fault.Invalid, "%q is no path of a decision", path)
	}
	body, err := json.Marshal(map[string]json.RawMessage{"input": input})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL+"/v1/data/"+path+"?provenance=true", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if e.Token != "" {
		token, err := e.secret(e.Token)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, reach(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, reach(err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %s", resp.Status)
	case len(raw) > maxReply:
		return nil, fmt.Errorf("its answer has more than %d bytes", maxReply)
	}
	return e.read(path, input, raw)
}

// reach says why nobody answered, without the address: what a pack's people see does not tell them the operator's network.
func reach(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		if outer.Timeout() {
			return errors.New("it did not answer in time")
		}
		err = outer.Err
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	return fmt.Errorf("it cannot be reached: %w", err)
}

// read takes an answer apart. What it means is for the rules of runs.
func (e *Engine) read(path string, input json.RawMessage, raw []byte) (*work.EngineAnswer, error) {
	var r reply
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, errors.New("its answer cannot be read")
	}
	a := &work.EngineAnswer{
		Name: e.Name, Path: path, Input: canonical.Digest(input), DecisionID: short(r.DecisionID), Version: short(r.Provenance.Version),
	}
	if r.Result != nil {
		plain, err := canonical.Transform(r.Result)
		if err != nil { // fractions, for example; it decides nothing then
			a.Digest = canonical.Digest(r.Result)
		} else {
			a.Result = plain
		}
	}
	for name, b := range r.Provenance.Bundles {
		a.Bundles = append(a.Bundles, work.PolicyBundle{Name: short(name), Revision: short(b.Revision)})
	}
	if len(a.Bundles) == 0 && r.Provenance.Revision != "" {
		a.Bundles = []work.PolicyBundle{{Revision: short(r.Provenance.Revision)}}
	}
	slices.SortFunc(a.Bundles, func(x, y work.PolicyBundle) int { return cmp.Compare(x.Name, y.Name) })
	return a, nil
}

// short bounds a text of an engine that goes into the history.
func short(s string) string {
	s = strings.ToValidUTF8(s, "?")
	for len(s) > maxMessage {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
