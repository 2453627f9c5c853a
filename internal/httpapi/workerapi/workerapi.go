// Package workerapi serves the worker protocol: claim, ack, heartbeat, logs and report over HTTP, and the plans, requests and
// files that a lease refers to. docs/reference/worker-protocol.md describes it for those who write workers.
//
// It holds no state that matters: leases are the store's, fenced by their tokens, and a session belongs to the tenant and the
// subject that the caller proved, whatever the body says. What it keeps in memory is who waits for work, who was seen, and files
// that are half uploaded; a server that loses it loses time, not work.
package workerapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/blob"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// Store is what workers need of the store.
type Store interface {
	store.Leases
	Documents
	Flow(ctx context.Context, tenant work.Tenant) (store.Flow, error)
	ChangeFlow(ctx context.Context, c store.FlowChange) (store.Flow, error)
	Watch(ctx context.Context) <-chan struct{}
}

// Documents is what a lease refers to.
type Documents interface {
	Plan(ctx context.Context, tenant work.Tenant, hash work.Digest) ([]byte, error)
	Document(ctx context.Context, tenant work.Tenant, run work.RunID, kind string) ([]byte, error)
	Cached(ctx context.Context, tenant work.Tenant, key work.Digest) (*store.CachedResult, error)
	Run(ctx context.Context, tenant work.Tenant, idOrName string) (work.Run, error)
}

// Deps are what the routes work on.
type Deps struct {
	Store     Store
	Blobs     blob.Store
	Spool     string                                                                                           // a folder for files that are half uploaded
	Trust     func(ctx context.Context, tenant work.Tenant) ([]byte, error)                                    // the keyring of a tenant; nil for none to give
	Roots     func(ctx context.Context, tenant work.Tenant, after int64, limit int) ([]json.RawMessage, error) // signed trust roots after a number; nil for none
	Signed    func(ctx context.Context, tenant work.Tenant, pack work.Digest) ([]json.RawMessage, error)       // what authors have signed of a pack; nil for none
	Authority *authority.Authority                                                                             // of short-lived identities; nil for none
	Now       func() work.Time
	Log       *slog.Logger
}

// Times and bounds that a registration tells the worker. They are the same for every server, so that a worker may go to another.
const (
	sessionLength  = 30 * time.Second
	heartbeatEvery = 10 * time.Second
	maxWait        = 25 * time.Second
	maxBatch       = 1000
	maxBody        = 16 << 20
	maxBlob        = 64 << 30
)

type service struct {
	Deps
	hall    *hall
	seen    *directory
	uploads *uploads
}

// Routes returns the operations of the worker protocol.
func Routes(d Deps) []httpapi.Route {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &service{Deps: d, hall: newHall(d.Store.Watch), seen: newDirectory(d.Now), uploads: newUploads(d.Spool, d.Blobs)}
	routes := append(s.leaseRoutes(), s.documentRoutes()...)
	for i := range routes {
		r := &routes[i]
		r.Tag, r.Scope, r.NoTenant, r.Plain = "workers", access.Worker, true, true
	}
	routes = append(routes, s.peopleRoutes()...)
	if d.Authority != nil {
		routes = append(routes, s.identityRoutes()...)
	}
	return routes
}

func (s *service) leaseRoutes() []httpapi.Route {
	post := func(path, name, summary string, body, reply any, h func(http.ResponseWriter, *http.Request, *httpapi.Call) error) httpapi.Route {
		return httpapi.Route{
			Method: http.MethodPost, Path: "/api/v1/worker/" + path, Name: name, Summary: summary, Limit: maxBody,
			Body: body, Reply: reply, Handle: h,
		}
	}
	return []httpapi.Route{
		post("sessions", "workerRegister", "Open or renew a session", api.WorkerRegistration{}, api.WorkerWelcome{}, s.register),
		post("claim", "workerClaim", "Ask for work, and wait for it", api.WorkerExchange{}, api.WorkerExchanged{}, s.claim),
		post("report", "workerReport", "Report attempts that have ended", api.WorkerExchange{}, api.WorkerExchanged{}, s.report),
		post("exchange", "workerExchange", "Report and ask for work in one transaction", api.WorkerExchange{}, api.WorkerExchanged{}, s.exchange),
		post("ack", "workerAck", "Note that attempts began", api.WorkerAcks{}, api.WorkerResults{}, s.ack),
		post("heartbeat", "workerHeartbeat", "Renew a session and hear what to stop", api.WorkerBeat{}, api.WorkerOrders{}, s.heartbeat),
		post("logs", "workerLogs", "Append output and progress", api.WorkerLogs{}, api.WorkerResults{}, s.logs),
	}
}

func (s *service) documentRoutes() []httpapi.Route {
	get := func(path, name, summary, stream string, h func(http.ResponseWriter, *http.Request, *httpapi.Call) error) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: "/api/v1/worker/" + path, Name: name, Summary: summary, Stream: stream, Handle: h}
	}
	const octets = "application/octet-stream"
	cached := get("cache/{key}", "workerCached", "Find an earlier result by its cache key", "", s.cached)
	cached.Reply = api.WorkerCached{}
	signatures := get("packs/{digest}/signatures", "workerPackSignatures", "Read what authors have signed of a pack", "", s.signatures)
	signatures.Reply = api.WorkerSignatures{}
	roots := get("trust-roots", "workerTrustRoots", "Read the signed trust roots that follow the one the worker has", "", s.roots)
	roots.Reply = api.WorkerTrustRoots{}
	roots.Query = []httpapi.Param{{Name: "after", Type: "integer", Summary: "the number of the one it has", Example: "1"}}
	return []httpapi.Route{
		get("plans/{hash}", "workerPlan", "Read a plan: its canonical JSON, which hashes to its name", "application/json", s.plan),
		get("runs/{run}/request", "workerRequest", "Read the signed request of a run", "application/json", s.request),
		cached,
		get("trust", "workerTrust", "Read the keyring of the tenant, for workers that have no trust root of their own", "application/json", s.trust),
		roots, signatures,
		get("blobs/{digest}", "workerDownload", "Read a file by its digest", octets, s.download),
		{
			Method: http.MethodHead, Path: "/api/v1/worker/blobs/{digest}", Name: "workerUploadOffset", Handle: s.offset, Stream: octets,
			Summary: "Ask how much of a file is there: Upload-Offset and Upload-Complete",
		},
		{
			Method: http.MethodPut, Path: "/api/v1/worker/blobs/{digest}", Name: "workerUpload", Handle: s.upload, BodyType: octets,
			Limit: maxBlob, Reply: api.WorkerUpload{}, Summary: "Store a file under its digest, whole or from an offset on",
			Headers: []httpapi.Param{{Name: "Content-Range", Type: "string", Summary: "the part that the body is", Example: "bytes 0-1048575/4194304"}},
		},
	}
}

func (s *service) peopleRoutes() []httpapi.Route {
	return []httpapi.Route{
		{
			Method: http.MethodGet, Path: "/api/v1/workers", Name: "listWorkers", Tag: "workers", Scope: access.OrchRead,
			Summary: "List the workers that this server heard of lately", Reply: api.WorkerList{}, Handle: s.list,
		},
		{
			Method: http.MethodPost, Path: "/api/v1/workers/{worker}/drain", Name: "drainWorker", Tag: "workers", Scope: access.OrchOperate,
			Summary: "Tell a worker to end what it runs, take no more and leave", Reply: api.WorkerList{}, Handle: s.drain,
		},
	}
}
