package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
)

// document is the part of OpenAPI that a client needs.
type document struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas    map[string]*schema    `json:"schemas"`
		Parameters map[string]*parameter `json:"parameters"`
		Examples   map[string]any        `json:"examples"`
	} `json:"components"`
}

type operation struct {
	ID         string                     `json:"operationId"`
	Deprecated bool                       `json:"deprecated"`
	Security   []map[string][]string      `json:"security"`
	Parameters []*parameter               `json:"parameters"`
	Responses  map[string]json.RawMessage `json:"responses"`
	Body       *struct {
		Content map[string]struct {
			Schema *schema `json:"schema"`
		} `json:"content"`
	} `json:"requestBody"`
}

type parameter struct {
	Ref      string  `json:"$ref"`
	Name     string  `json:"name"`
	In       string  `json:"in"`
	Required bool    `json:"required"`
	Schema   *schema `json:"schema"`
}

type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Items      *schema            `json:"items"`
	More       *schema            `json:"additionalProperties"`
}

func (r *rig) document() document {
	r.t.Helper()
	var doc document
	a := r.ask("GET", "/.well-known/openapi", "", "", nil)
	if err := json.Unmarshal(a.body, &doc); err != nil || a.status != 200 {
		r.t.Fatalf("%d %v", a.status, err)
	}
	return doc
}

// The document has every operation of the server and no other, each with what a client must know.
func TestJ1_DocumentIsTheTable(t *testing.T) {
	r := start(t, app.ServerOptions{})
	doc := r.document()
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("the document is of OpenAPI %s", doc.OpenAPI)
	}
	for _, example := range []string{"Error", "Page", "Idempotency"} {
		if doc.Components.Examples[example] == nil {
			t.Errorf("there is no example %s", example)
		}
	}
	count, ids := 0, map[string]bool{}
	for _, route := range r.Routes() {
		op, ok := doc.Paths[route.Path][strings.ToLower(route.Method)]
		what := route.Method + " " + route.Path
		if !ok || op.ID != route.Name || route.Summary == "" || route.Tag == "" {
			t.Errorf("%s is described as %+v", what, op)
			continue
		}
		if ids[op.ID] {
			t.Errorf("two operations are called %s", op.ID)
		}
		ids[op.ID] = true
		count++
		if op.Deprecated != (route.Successor != "") {
			t.Errorf("%s: deprecated is %v", what, op.Deprecated)
		}
		has := func(name string) bool {
			return slices.ContainsFunc(op.Parameters, func(p *parameter) bool { return strings.HasSuffix(p.Ref, "/"+name) })
		}
		changes := route.Method != "GET" && route.Method != "HEAD" && !route.Plain
		if has("IdempotencyKey") != changes || has("Tenant") != (!route.Public && !route.NoTenant) {
			t.Errorf("%s: its parameters are not those of its kind", what)
		}
		for _, name := range inBraces.FindAllStringSubmatch(route.Path, -1) {
			if !slices.ContainsFunc(op.Parameters, func(p *parameter) bool { return p.In == "path" && p.Name == name[1] && p.Required }) {
				t.Errorf("%s: {%s} is not described", what, name[1])
			}
		}
		if len(op.Responses) < 2 || op.Responses["default"] == nil {
			t.Errorf("%s: its answers are not described", what)
		}
	}
	described := 0
	for _, ops := range doc.Paths {
		described += len(ops)
	}
	if described != count || count < 70 {
		t.Errorf("%d operations are described, the server has %d", described, count)
	}
	for _, path := range []string{"/api/runs", "/api/runs/{runId}", "/api/runs/{runId}/logs", "/api/runs/{runId}/artifacts", "/api/runs/{runId}/approve", "/api/runs/{runId}/cancel"} {
		if doc.Paths[path] == nil {
			t.Errorf("the task-pack API has no %s", path)
		}
	}
}

// An answer has the fields that the document says, and no others.
func TestAnswersAreAsDescribed(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "viewer", "operator", "publisher", "admin")
	mine := furnish(r, "acme", tokens)
	doc := r.document()
	checked := 0
	for _, route := range r.Routes() {
		if route.Method != "GET" || route.Reply == nil || route.Scope == "worker" {
			continue
		}
		path := fill(t, route.Path, mine)
		if strings.HasSuffix(path, "/consistency") {
			path += "?from=1"
		}
		a := r.ask("GET", path, tokens["admin"], "acme", nil)
		if a.status != 200 {
			t.Errorf("GET %s: %d %s", path, a.status, a.body)
			continue
		}
		var v any
		if err := json.Unmarshal(a.body, &v); err != nil {
			t.Errorf("GET %s: %v", path, err)
			continue
		}
		var success struct {
			Content map[string]struct {
				Schema *schema `json:"schema"`
			} `json:"content"`
		}
		if err := json.Unmarshal(doc.Paths[route.Path]["get"].Responses["200"], &success); err != nil {
			t.Fatal(err)
		}
		for _, problem := range doc.differs(success.Content["application/json"].Schema, v, "answer") {
			t.Errorf("GET %s: %s", route.Path, problem)
		}
		checked++
	}
	if checked < 25 {
		t.Fatalf("only %d answers were checked", checked)
	}
}

func (d document) resolve(s *schema) *schema {
	for s != nil && s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	return s
}

// differs says in what a value is not as a schema describes it.
func (d document) differs(s *schema, v any, at string) []string {
	if s = d.resolve(s); s == nil {
		return []string{at + " has no schema"}
	}
	var out []string
	switch x := v.(type) {
	case map[string]any:
		if s.Type != "" && s.Type != "object" {
			return []string{at + " is an object"}
		}
		for _, name := range s.Required {
			if _, ok := x[name]; !ok && s.Properties != nil {
				out = append(out, at+" lacks "+name)
			}
		}
		for name, value := range x {
			switch {
			case s.Properties[name] != nil:
				out = append(out, d.differs(s.Properties[name], value, at+"."+name)...)
			case s.More == nil && s.Properties != nil:
				out = append(out, at+" has "+name+", which is not described")
			}
		}
	case []any:
		if s.Type == "array" {
			for _, item := range x {
				out = append(out, d.differs(s.Items, item, at+"[]")...)
			}
		} else if s.Type != "" {
			out = append(out, at+" is a list")
		}
	case string:
		if s.Type != "" && s.Type != "string" {
			out = append(out, at+" is a string")
		}
	}
	return out
}

// A client that knows nothing but the document, and is not careful, never breaks the server.
func TestRandomClientFindsNoServerError(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	tokens := r.tenant("acme", "viewer", "operator", "publisher", "approver", "worker", "admin")
	mine := furnish(r, "acme", tokens)
	doc := r.document()
	var known []string
	for _, v := range mine {
		known = append(known, v)
	}
	slices.Sort(known)
	type target struct {
		path, method string
		op           operation
	}
	var all []target
	for path, ops := range doc.Paths {
		for method, op := range ops {
			all = append(all, target{path, strings.ToUpper(method), op})
		}
	}
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 4
	rapid.Check(t, func(rt *rapid.T) {
		g := guesser{rt, doc, known, likely(mine)}
		to := rapid.SampledFrom(all).Draw(rt, "operation")
		token := rapid.SampledFrom([]string{r.root, tokens["admin"]}).Draw(rt, "token")
		g.send(r, to.path, to.method, to.op, token)
	})
}

// guesser draws requests from the document.
type guesser struct {
	*rapid.T
	doc    document
	known  []string
	likely map[string][]string // by the name of a parameter or field
}

// likely are values that somebody who has read the manual would try.
func likely(p possessions) map[string][]string {
	out := map[string][]string{
		"manifest": {hello, gated, "steps: [{run: echo hi}]", "name: x\ninputs: {n: {type: integer}}\nsteps: [{run: 'true'}]"},
		"pack":     {p["pack"], "hello@1.0.0"}, "decision": {"approved", "rejected"}, "gate": {"ask", "greet"}, "plan": {p["planHash"]},
		"kind": {"user", "service"}, "roles": {"viewer", "operator"}, "scopes": {"packs.read", "packs.run"}, "usage": {"submit", "approve"},
		"from": {"1", "2", "greet"}, "page_size": {"1", "500"}, "page_token": {"djE6cnVuczox", "djE6ZXZlbnRzOjI"}, "state": {"succeeded"},
		"reason": {"superseded", "because"}, "open": {"true"}, "since": {"2026-01-02T03:04:05.000000Z"}, "Last-Event-ID": {"0", "1"},
		"pack_run_id": {p["runId"]}, "pack_plan_hash": {p["planHash"]}, "pack_gate_id": {"greet"}, "account": {"acme-operator"}, "step": {"greet"},
	}
	for name, id := range p {
		out[name] = append(out[name], id)
	}
	out["runId"] = append(out["runId"], p["runName"])
	return out
}

// about draws a text for something that has a name.
func (g guesser) about(name string) string {
	if values := g.likely[name]; len(values) > 0 && rapid.IntRange(0, 3).Draw(g.T, "sensibly") > 0 {
		return rapid.SampledFrom(values).Draw(g.T, name)
	}
	return g.text(name)
}

func (g guesser) text(what string) string {
	return rapid.OneOf(
		rapid.SampledFrom(g.known),
		rapid.SampledFrom([]string{"", "0", "-1", "1", "true", "null", "hello@1.0.0", "steps: [{run: echo hi}]", "steps:\n  - run: [", "approved", "\x00", "%2e%2e/", "../../etc", "ÿ𝄞", "packs.read", "sha256:zz", "run_", "2026-01-02T03:04:05.000000Z", "greet", strings.Repeat("a", 5000)}),
		rapid.String(),
	).Draw(g.T, what)
}

// value draws something for a schema: mostly of its type, sometimes anything.
func (g guesser) value(name string, s *schema, depth int) any {
	s = g.doc.resolve(s)
	if s == nil || depth > 4 || rapid.IntRange(0, 24).Draw(g.T, "anything") == 0 {
		return rapid.SampledFrom([]any{nil, true, 3, -1, 1.5, "x", []any{}, map[string]any{}, []any{map[string]any{"a": nil}}}).Draw(g.T, "odd value")
	}
	switch s.Type {
	case "object":
		out := map[string]any{}
		for name, p := range s.Properties {
			if slices.Contains(s.Required, name) || rapid.Bool().Draw(g.T, "with "+name) {
				out[name] = g.value(name, p, depth+1)
			}
		}
		if s.More != nil {
			out[g.text("name")] = g.value("", s.More, depth+1)
		}
		return out
	case "array":
		out := []any{}
		for range rapid.IntRange(0, 2).Draw(g.T, "entries") {
			out = append(out, g.value(name, s.Items, depth+1))
		}
		return out
	case "string":
		return g.about(name)
	case "integer":
		return rapid.OneOf(rapid.Int64(), rapid.Int64Range(0, 100)).Draw(g.T, "integer")
	case "boolean":
		return rapid.Bool().Draw(g.T, "boolean")
	default:
		return rapid.SampledFrom([]any{nil, "x", 1, map[string]any{"payload": "e30", "payloadType": "x", "signatures": []any{}}}).Draw(g.T, "value")
	}
}

func (g guesser) send(r *rig, path, method string, op operation, token string) {
	q, head := url.Values{}, http.Header{}
	for _, p := range op.Parameters {
		if p.Ref != "" {
			p = g.doc.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
		}
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(g.about(p.Name)))
		case !p.Required && rapid.Bool().Draw(g.T, "without "+p.Name):
		case p.In == "query":
			q.Add(p.Name, g.about(p.Name))
		case p.Name == "X-Orrery-Tenant":
			head.Set(p.Name, rapid.SampledFrom([]string{"acme", "acme", "acme", "local", "nowhere"}).Draw(g.T, "tenant"))
		default:
			head.Set(p.Name, strings.Map(func(c rune) rune {
				if c < ' ' || c > '~' {
					return -1
				}
				return c
			}, g.about(p.Name)))
		}
	}
	var body io.Reader
	if op.Body != nil {
		for media, content := range op.Body.Content {
			raw, err := json.Marshal(g.value("", content.Schema, 0))
			if err != nil {
				g.Fatal(err)
			}
			if media != "application/json" {
				raw = []byte(g.text("bytes"))
			}
			body = strings.NewReader(string(raw))
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path+"?"+q.Encode(), body)
	if err != nil {
		return // not even a client can make it
	}
	req.Header = head
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 {
		return // what was asked for, or a stream of it
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode >= 500 {
		g.Fatalf("%s %s: %d %s (%v)", method, path, resp.StatusCode, raw, err)
	}
	if method == "HEAD" {
		return
	}
	var e struct {
		Error struct {
			Code, Message string
			Trace         string `json:"trace_id"`
		}
	}
	if err := json.Unmarshal(raw, &e); err != nil || e.Error.Message == "" || e.Error.Trace == "" || !slices.Contains(fault.Codes(), fault.Code(e.Error.Code)) {
		g.Fatalf("%s %s: %d without the envelope: %s", method, path, resp.StatusCode, raw)
	}
}
