// Package rest is the operations of people and their tools: packs and plans, runs, gates, evidence, keys, accounts and the audit
// stream. It translates between the wire types of api and the services, and decides nothing.
package rest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/admission"
	"orrery.example/orrery/internal/attest"
	"orrery.example/orrery/internal/collect"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/identity"
	"orrery.example/orrery/internal/incident"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/notify"
	"orrery.example/orrery/internal/retention"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/stream"
	"orrery.example/orrery/internal/work"
)

// Blobs is where the bytes of packs, outputs and evidence are.
type Blobs interface {
	Put(ctx context.Context, tenant work.Tenant, r io.Reader) (work.Digest, int64, error)
	Has(ctx context.Context, tenant work.Tenant, digest work.Digest) (bool, error)
	Open(ctx context.Context, tenant work.Tenant, digest work.Digest) (io.ReadCloser, int64, error)
}

// Space is what belongs to one tenant: its keys and the services that sign with them.
type Space struct {
	Keys    keyring.Ring
	Control *control.Service
	Attest  *attest.Service

	Retention *retention.Service
	Collect   func(ctx context.Context, tenant work.Tenant, preview bool) (collect.Result, error)
}

// Deps are what the operations work on.
type Deps struct {
	Store     store.Store
	Blobs     Blobs         // behind the quotas of tenants
	Keeper    attest.Keeper // of evidence, without them
	Usage     func(ctx context.Context, tenant work.Tenant) (bytes int64, err error)
	Streams   *stream.Hub
	Notify    *notify.Service
	Incidents *incident.Service
	Identity  *identity.Service
	Admission *admission.Service
	Login     []api.LoginProvider                                           // where people can log in
	Space     func(ctx context.Context, tenant work.Tenant) (*Space, error) // fault.NotFound for a tenant that does not exist
	Check     func(ctx context.Context, tenant work.Tenant) []api.Check     // tries what the tenant's runs need of the server
	Now       func() work.Time
	Debug     func(ctx context.Context, w io.Writer) error // writes a debug bundle
}

type service struct{ Deps }

// handler is what a route calls.
type handler = func(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error

// Routes returns the operations.
func Routes(d Deps) []httpapi.Route {
	s := &service{d}
	routes := s.runRoutes()
	routes = append(routes, s.historyRoutes()...)
	routes = append(routes, s.controlRoutes()...)
	routes = append(routes, s.letterRoutes()...)
	routes = append(routes, s.packRoutes()...)
	routes = append(routes, s.admissionRoutes()...)
	routes = append(routes, s.proofRoutes()...)
	routes = append(routes, s.accountRoutes()...)
	routes = append(routes, s.auditRoutes()...)
	routes = append(routes, s.notificationRoutes()...)
	routes = append(routes, s.debugRoutes()...)
	routes = append(routes, s.flowRoutes()...)
	routes = append(routes, s.retentionRoutes()...)
	routes = append(routes, s.incidentRoutes()...)
	return append(routes, faces(routes)...)
}

// faces are the names under which clients of the task-pack API and of earlier systems know operations. Those of the task-pack API stay;
// the others are superseded.
func faces(routes []httpapi.Route) []httpapi.Route {
	byName := map[string]httpapi.Route{}
	for _, r := range routes {
		byName[r.Name] = r
	}
	var out []httpapi.Route
	add := func(name, path, as string, superseded bool) {
		r := byName[name]
		if superseded {
			r.Successor = r.Path
		}
		r.Path, r.Name, r.Tag = path, as, "task packs"
		out = append(out, r)
	}
	add("submitRun", "/api/runs", "packRunSubmit", false)
	add("getRun", "/api/runs/{runId}", "packRunGet", false)
	add("getLogs", "/api/runs/{runId}/logs", "packRunLogs", false)
	add("listArtifacts", "/api/runs/{runId}/artifacts", "packRunArtifacts", false)
	add("decideGate", "/api/runs/{runId}/approve", "packRunApprove", false)
	add("cancelRun", "/api/runs/{runId}/cancel", "packRunCancel", false)
	add("simulatePack", "/v1/task-runner/simulations", "simulateTaskPack", true)
	add("submitRun", "/v1/task-runner/runs", "taskRunnerSubmit", true)
	add("getRun", "/v1/task-runner/runs/{runId}", "taskRunnerRun", true)
	add("getLogs", "/v1/task-runner/runs/{runId}/logs", "taskRunnerLogs", true)
	return out
}

// recast copies a value into its wire type, or back: both have the same JSON, and the wire type perhaps less of it.
func recast[T any](from any) (T, error) {
	var to T
	raw, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(raw, &to)
	}
	return to, fault.Wrap(fault.Internal, err, "translate %T", from)
}

// replyAs sends a value as its wire type.
func replyAs[T any](w http.ResponseWriter, status int, v any) error {
	out, err := recast[T](v)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, status, out)
}

// recastAll translates a list, which is never nil.
func recastAll[T, F any](from []F) ([]T, error) {
	out := make([]T, len(from))
	for i := range from {
		var err error
		if out[i], err = recast[T](&from[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func words[S ~string](in []S) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

// run finds the run that the path names. Error: fault.NotFound.
func (s *service) run(r *http.Request, c *httpapi.Call) (work.Run, error) {
	return s.Store.Run(r.Context(), c.Tenant, r.PathValue("runId"))
}

// runIn finds the run that the path names, with what its tenant has. Error: fault.NotFound.
func (s *service) runIn(r *http.Request, c *httpapi.Call) (work.Run, *Space, error) {
	run, err := s.run(r, c)
	if err != nil {
		return work.Run{}, nil, err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	return run, sp, err
}

// signer returns the key that the server keeps for an account, made at the first use. Whoever has a key of his own signs with that: then
// nobody, the server included, acts in his name without him. Error: fault.Denied.
func (s *service) signer(sp *Space, p access.Principal, u keyring.Usage) (keyring.Signer, error) {
	now := s.Now()
	trust, err := sp.Keys.Trust()
	if err != nil {
		return nil, err
	}
	held, err := sp.Keys.Held()
	if err != nil {
		return nil, err
	}
	for _, k := range trust.Named(p.Subject) {
		here := slices.ContainsFunc(held, func(h keyring.Key) bool { return h.ID == k.ID })
		if !here && k.May(u) && keyring.Judge(k, keyring.Moment{At: now}, now) == keyring.Valid {
			return nil, fault.New(fault.Denied, "%s has a key of their own to %s with, so the server does not sign for them", p.Subject, u).
				WithHint("sign with that key and send the signed document")
		}
	}
	key, err := sp.Keys.Load(p.Subject, u, now)
	if fault.CodeOf(err) != fault.NotFound {
		return key, err
	}
	return sp.Keys.Generate(p.Subject, keyring.Ed25519, []keyring.Usage{keyring.Approve, keyring.Submit}, now)
}

func get(path, name, tag, summary string, scope access.Scope, reply any, h handler, query ...httpapi.Param) httpapi.Route {
	return httpapi.Route{Method: http.MethodGet, Path: path, Name: name, Tag: tag, Summary: summary, Scope: scope, Reply: reply, Query: query, Handle: h}
}

func post(path, name, tag, summary string, scope access.Scope, status int, body, reply any, h handler) httpapi.Route {
	return httpapi.Route{
		Method: http.MethodPost, Path: path, Name: name, Tag: tag, Summary: summary, Scope: scope, Status: status, Body: body, Reply: reply, Handle: h,
	}
}
