package httpapi

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
)

// Document is the OpenAPI 3.1 description of routes: nothing is in it that the table does not say.
func Document(routes []Route, version string) ([]byte, error) {
	s := newSchemas()
	paths := map[string]map[string]any{}
	tags := map[string]bool{}
	for i := range routes {
		r := &routes[i]
		path := strings.ReplaceAll(r.Path, "...}", "}")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(r.Method)] = operation(r, s)
		tags[r.Tag] = true
	}
	s.of(api.ErrorReply{})
	doc := map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "Orrery", "version": version,
			"description": "Runs work that must be provable. Every request names its tenant; every change takes an Idempotency-Key and leaves an entry in the audit stream.",
		},
		"servers":  []any{map[string]any{"url": "/"}},
		"security": []any{map[string]any{"token": []string{}}},
		"paths":    paths,
		"tags":     tagList(tags),
		"components": map[string]any{
			"schemas":         s.defs,
			"securitySchemes": map[string]any{"token": map[string]any{"type": "http", "scheme": "bearer", "bearerFormat": "orr_…"}},
			"parameters":      sharedParams(),
			"responses":       map[string]any{"Error": errorResponse()},
			"examples":        examples(),
		},
	}
	raw, err := json.Marshal(doc)
	return raw, fault.Wrap(fault.Internal, err, "the OpenAPI document")
}

func tagList(tags map[string]bool) []any {
	names := make([]string, 0, len(tags))
	for t := range tags {
		names = append(names, t)
	}
	slices.Sort(names)
	out := make([]any, len(names))
	for i, t := range names {
		out[i] = map[string]any{"name": t}
	}
	return out
}

func operation(r *Route, s *schemas) map[string]any {
	op := map[string]any{"operationId": r.Name, "summary": r.Summary, "tags": []string{r.Tag}}
	if r.Successor != "" {
		op["deprecated"] = true
		op["description"] = "Superseded by " + r.Successor + "."
	}
	switch {
	case r.Public:
		op["security"] = []any{}
	case r.Scope != "":
		op["security"] = []any{map[string]any{"token": []string{string(r.Scope)}}}
		op["x-scope"] = string(r.Scope)
	}
	if params := parameters(r); len(params) > 0 {
		op["parameters"] = params
	}
	if body := requestBody(r, s); body != nil {
		op["requestBody"] = body
	}
	status := strconv.Itoa(cmp.Or(r.Status, http.StatusOK))
	responses := map[string]any{status: success(r, s), "default": map[string]any{"$ref": "#/components/responses/Error"}}
	if r.Method == http.MethodGet && r.Reply != nil {
		responses["304"] = map[string]any{"description": "What If-None-Match names is still so"}
	}
	op["responses"] = responses
	return op
}

func parameters(r *Route) []any {
	var out []any
	for _, name := range pathParams(r.Path) {
		out = append(out, map[string]any{"name": name, "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, p := range r.Query {
		out = append(out, param(p, "query"))
	}
	for _, p := range r.Headers {
		out = append(out, param(p, "header"))
	}
	ref := func(name string) { out = append(out, map[string]any{"$ref": "#/components/parameters/" + name}) }
	if !r.Public {
		if r.NoTenant {
			ref("TenantOptional")
		} else {
			ref("Tenant")
		}
		ref("Trace")
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !r.Plain {
			ref("IdempotencyKey")
			ref("Reason")
			ref("Ticket")
		}
		if r.Method == http.MethodGet && r.Reply != nil {
			ref("IfNoneMatch")
		}
	}
	return out
}

func param(p Param, in string) map[string]any {
	schema := map[string]any{"type": p.Type}
	if p.Type == "array" {
		schema["items"] = map[string]any{"type": "string"}
	}
	out := map[string]any{"name": p.Name, "in": in, "description": p.Summary, "schema": schema}
	if p.Required {
		out["required"] = true
	}
	if p.Example != "" {
		out["example"] = example(p)
	}
	return out
}

func example(p Param) any {
	switch p.Type {
	case "integer":
		if n, err := strconv.Atoi(p.Example); err == nil {
			return n
		}
	case "boolean":
		return p.Example == "true"
	case "array":
		return []string{p.Example}
	}
	return p.Example
}

func requestBody(r *Route, s *schemas) map[string]any {
	switch {
	case r.Body != nil:
		return map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": s.of(r.Body)}}}
	case r.BodyType != "":
		return map[string]any{"required": true, "content": map[string]any{r.BodyType: map[string]any{"schema": map[string]any{}}}}
	default:
		return nil
	}
}

func success(r *Route, s *schemas) map[string]any {
	out := map[string]any{"description": "Done"}
	content := map[string]any{}
	if r.Reply != nil {
		media := map[string]any{"schema": s.of(r.Reply)}
		for _, p := range r.Query {
			if p.Name == "page_token" {
				media["examples"] = map[string]any{"page": map[string]any{"$ref": "#/components/examples/Page"}}
			}
		}
		content["application/json"] = media
	}
	for media := range strings.SplitSeq(r.Stream, ",") {
		if media != "" {
			content[media] = map[string]any{"schema": map[string]any{}}
		}
	}
	if len(content) > 0 {
		out["content"] = content
	}
	if !r.Public && !r.Plain {
		integer := map[string]any{"schema": map[string]any{"type": "integer"}}
		out["headers"] = map[string]any{"X-RateLimit-Limit": integer, "X-RateLimit-Remaining": integer, "X-RateLimit-Reset": integer}
	}
	return out
}

func errorResponse() map[string]any {
	return map[string]any{
		"description": "It was not done; the code says why",
		"content": map[string]any{"application/json": map[string]any{
			"schema":   map[string]any{"$ref": "#/components/schemas/ErrorReply"},
			"examples": map[string]any{"refused": map[string]any{"$ref": "#/components/examples/Error"}},
		}},
	}
}

func sharedParams() map[string]any {
	header := func(name, summary, example string, required bool) map[string]any {
		return map[string]any{
			"name": name, "in": "header", "description": summary, "required": required, "example": example, "schema": map[string]any{"type": "string"},
		}
	}
	const aliases = " Also called " + "X-Stella-Tenant, X-StellaOps-Tenant and X-Tenant-Id."
	return map[string]any{
		"Tenant":         header(TenantHeader, "The tenant that the request acts in."+aliases, "local", true),
		"TenantOptional": header(TenantHeader, "The tenant that the request is about, if it is about one."+aliases, "local", false),
		"Trace":          header("traceparent", "W3C trace context; its trace id comes back as trace_id and X-Request-Id", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
		"IdempotencyKey": header("Idempotency-Key", "The same key with the same body gets the same answer for 24 hours; with another body 409", "0b6ad5a2-3c0b-4f3f-9d0c-6f3c2b8a1d11", false),
		"Reason":         header("X-Orrery-Reason", "Why; it goes into the audit stream. Demanded with the scopes orch:quota and orch:backfill", "rotate the release", false),
		"Ticket":         header("X-Orrery-Ticket", "The ticket behind it; demanded with the scopes orch:quota and orch:backfill", "OPS-17", false),
		"IfNoneMatch":    header("If-None-Match", "The ETag of an earlier answer: 304 when nothing has changed", `"5f2b0c6f0a0e4e57"`, false),
	}
}

func examples() map[string]any {
	return map[string]any{
		"Error": map[string]any{"summary": "The error envelope", "value": api.ErrorReply{Error: api.Error{
			Code: string(fault.Conflict), Message: "this Idempotency-Key was used with another body", Hint: "use a new key for a new request",
			TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
		}}},
		"Page": map[string]any{"summary": "A page that is not the last: send next_page_token as page_token for the next one", "value": map[string]any{
			"items": []any{}, "next_page_token": "djE6cnVuczoy",
		}},
		"Idempotency": map[string]any{"summary": "The second request of the two makes no second run", "value": map[string]any{
			"headers": map[string]string{"Idempotency-Key": "0b6ad5a2-3c0b-4f3f-9d0c-6f3c2b8a1d11"}, "answer": map[string]string{"Idempotency-Replayed": "true"},
		}},
	}
}
