package app

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
)

// Aside are addresses beside the API, for those who look after the process.
type Aside struct {
	Metrics  string // serves /metrics and /healthz; "" for none
	Profiles string // serves /debug/pprof/, on the loopback only: profiles show what is in memory; "" for none
	Token    string // what whoever reads metrics must bring, here and at the API; "" for nothing
}

// serve answers at the addresses until ctx ends.
func (a Aside) serve(ctx context.Context, t *Telemetry, log *slog.Logger) error {
	if a.Metrics != "" {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", a.metrics(t))
		mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
		if err := listenAside(ctx, a.Metrics, mux, log); err != nil {
			return err
		}
	}
	if a.Profiles == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(a.Profiles)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fault.New(fault.Invalid, "profiles are served on the loopback only, not at %s", a.Profiles).WithHint("for example: --pprof-listen 127.0.0.1:6060")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", http.NotFound) // arguments may hold what is nobody's business
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return listenAside(ctx, a.Profiles, mux, log)
}

// metrics serves the metrics to whoever may read them, nil when there are none.
func (a Aside) metrics(t *Telemetry) http.Handler {
	if t == nil || t.Metrics == nil {
		return nil
	}
	inner := t.Metrics.Handler()
	if a.Token == "" {
		return inner
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(given), []byte(a.Token)) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="orrery metrics"`)
			http.Error(w, "metrics need their token", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

func listenAside(ctx context.Context, address string, h http.Handler, log *slog.Logger) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "listen")
	}
	log.Info("listening", "address", listener.Addr().String())
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("listening", "address", address, "error", err)
		}
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return nil
}
