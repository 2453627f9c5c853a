package app

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"

	"orrery.example/orrery/internal/broker"
	brokernats "orrery.example/orrery/internal/broker/nats"
	brokervalkey "orrery.example/orrery/internal/broker/valkey"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/incident"
	"orrery.example/orrery/internal/notify"
	"orrery.example/orrery/internal/stream"
	"orrery.example/orrery/internal/work"
)

// NotifyOptions say how an installation reaches those whom it notifies.
type NotifyOptions struct {
	MailURL  string // "" for no mail
	MailFrom string
	Allow    []string // networks beside the public ones that webhooks may reach
	Sealed   bool     // nobody is told
}

// sealed takes out of the options of a server whatever would ask others, and says so. What tries to is refused where it is asked for.
func (o *ServerOptions) sealed() {
	if !o.Sealed {
		return
	}
	log := hushed(o.Log)
	for _, p := range o.Providers {
		log.Warn("sealed: logins of an identity provider do not count", "provider", p.Name)
	}
	for _, e := range o.Engines {
		log.Warn("sealed: gates of a policy engine are not answered", "engine", e.Name)
	}
	o.Providers, o.Engines, o.Notify.Sealed = nil, nil, true
}

// Notifier returns the notifications of an installation. Their secrets are encrypted with its encryption key.
func (f *Folder) Notifier(o NotifyOptions) (*notify.Service, error) {
	var allowed []netip.Prefix
	for _, text := range o.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fault.New(fault.Invalid, "notify-allow: %q is no network", text).WithHint("for example: 10.1.0.0/16 or 127.0.0.1/32")
		}
		allowed = append(allowed, p.Masked())
	}
	s := &notify.Service{Store: f.Store, Encrypter: f.encrypter, Post: notify.Outside(allowed), Sealed: o.Sealed, Now: Now, Log: f.Log}
	if f.Telemetry != nil && f.Telemetry.Metrics != nil {
		s.Metrics = f.Telemetry.Metrics
	}
	var err error
	if s.Encrypter == nil {
		if s.Encrypter, err = makeEncryptionKey(filepath.Join(f.Dir, encryptionKeyFile)); err != nil {
			return nil, err
		}
	}
	if o.MailURL != "" {
		s.Mail, err = notify.NewMailer(o.MailURL, o.MailFrom)
	}
	return s, err
}

// Incidents returns what needed people in the tenants of an installation.
func (f *Folder) Incidents() *incident.Service {
	return &incident.Service{Store: f.Store, Now: Now, Log: f.Log}
}

// attend lets incidents know what this server sees.
func (s *Server) attend() {
	s.incidents.Store, s.incidents.Log = s.Store, s.Log
	if s.Telemetry != nil && s.Telemetry.journal != nil {
		s.incidents.Verbose = s.Telemetry.journal.Verbose
	}
	if len(s.published) == 0 {
		return
	}
	s.incidents.Behind = func(_ context.Context, tenant work.Tenant) (map[string]work.Time, error) {
		waiting := map[string]work.Time{}
		for _, p := range s.published {
			waiting[p.Target.Name()] = p.Behind(tenant)
		}
		return waiting, nil
	}
	if s.Telemetry != nil && s.Telemetry.Metrics != nil {
		for _, p := range s.published {
			s.Telemetry.Metrics.Publishing(p.Target.Name(), func() float64 { return float64(p.Behind("")) / 1e6 })
		}
	}
}

// tenants returns the names of all tenants.
func (s *Server) tenants(ctx context.Context) ([]work.Tenant, error) {
	var out []work.Tenant
	const page = 500
	for after := ""; ; {
		some, err := s.Identity.Tenants(ctx, after, page)
		if err != nil {
			return out, err
		}
		for _, t := range some {
			out, after = append(out, t.Name), string(t.Name)
		}
		if len(some) < page {
			return out, nil
		}
	}
}

// publishers are those of the brokers that events go to. They do not connect yet: a server starts without its brokers.
func (s *Server) publishers() (out []*stream.Publisher, err error) {
	seen := map[string]bool{}
	for _, address := range s.opts.Publish {
		var t broker.Target
		switch scheme, _, _ := strings.Cut(address, "://"); scheme {
		case "nats", "tls":
			t, err = brokernats.Open(address)
		case "valkey", "valkeys", "redis", "rediss":
			t, err = brokervalkey.Open(address)
		default:
			err = fault.New(fault.Invalid, "events are published to nats://… or valkey://…, not %s://", scheme)
		}
		if err != nil {
			return nil, err
		}
		if seen[t.Name()] {
			return nil, fault.New(fault.Invalid, "publish names %s twice", t.Name())
		}
		seen[t.Name()] = true
		out = append(out, &stream.Publisher{Hub: s.streams, Records: s.Store, Target: t, Shared: s.Shared(), Now: Now, Log: s.Log})
	}
	return out, nil
}
