package workerapi

import (
	"net/http"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
)

func (s *service) identityRoutes() []httpapi.Route {
	post := func(path, name, summary string, scope access.Scope, body, reply any, h func(http.ResponseWriter, *http.Request, *httpapi.Call) error) httpapi.Route {
		return httpapi.Route{
			Method: http.MethodPost, Path: "/api/v1/" + path, Name: name, Tag: "workers", Summary: summary, Scope: scope,
			Body: body, Reply: reply, Handle: h,
		}
	}
	join := post("worker/join", "workerJoin", "Join with a token that counts once, and get a certificate", "", api.WorkerJoin{}, api.WorkerIdentity{}, s.join)
	join.Public, join.Plain = true, true
	renew := post("worker/renew", "workerRenew", "Get the next certificate, with the one that lasts", access.Worker, api.WorkerJoin{}, api.WorkerIdentity{}, s.renew)
	renew.NoTenant, renew.Plain = true, true
	denial := post("workers/denials", "denyWorker", "Shut a worker out for good", access.OrchOperate, api.WorkerDenial{}, nil, s.deny)
	denial.Status = http.StatusNoContent
	return []httpapi.Route{
		join, renew,
		post("workers/joins", "inviteWorker", "Make a token with which one worker may join", access.OrchOperate, api.WorkerInvite{}, api.WorkerInvitation{}, s.invite),
		denial,
	}
}

func (s *service) join(w http.ResponseWriter, r *http.Request, _ *httpapi.Call) error {
	var in api.WorkerJoin
	if err := read(r, &in); err != nil {
		return err
	}
	cert, err := s.Authority.Join(r.Context(), in.Token, []byte(in.Request))
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, api.WorkerIdentity{Certificate: string(cert), Authority: string(s.Authority.RootPEM())})
}

func (s *service) renew(w http.ResponseWriter, r *http.Request, _ *httpapi.Call) error {
	var in api.WorkerJoin
	if err := read(r, &in); err != nil {
		return err
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return fault.New(fault.Invalid, "only a certificate is renewed, and this connection has none")
	}
	cert, err := s.Authority.Renew(r.Context(), r.TLS.PeerCertificates[0], []byte(in.Request))
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, api.WorkerIdentity{Certificate: string(cert), Authority: string(s.Authority.RootPEM())})
}

func (s *service) invite(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var in api.WorkerInvite
	if err := read(r, &in); err != nil {
		return err
	}
	if in.Seconds < 0 || in.Seconds > int64(30*24*time.Hour/time.Second) {
		return fault.New(fault.Invalid, "a token for joining lasts at most thirty days")
	}
	token, err := s.Authority.Invite(r.Context(), c.Tenant, in.Pool, time.Duration(in.Seconds)*time.Second)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, api.WorkerInvitation{Token: token})
}

func (s *service) deny(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var in api.WorkerDenial
	if err := read(r, &in); err != nil {
		return err
	}
	if err := s.Authority.Deny(r.Context(), c.Tenant, in.Worker, authority.Denial{Reason: in.Reason, By: c.Principal.Subject}); err != nil {
		return err
	}
	s.Log.Info("a worker is shut out", "tenant", c.Tenant, "worker", in.Worker, "by", c.Principal.Subject, "reason", in.Reason)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
