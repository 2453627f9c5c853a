package remote_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/remote"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// certified is a client with a certificate of the rig's authority.
func (r *rig) certified(t *testing.T) (*remote.Client, *remote.Identity) {
	t.Helper()
	url, trusted := r.secure(t)
	id, err := remote.OpenIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := remote.New(remote.Config{
		Server: url, TLS: &tls.Config{RootCAs: trusted, GetClientCertificate: id.Certificate, MinVersion: tls.VersionTLS12}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	token, err := r.authority.Invite(t.Context(), acme, "pool-a", 0)
	if err == nil {
		err = id.Join(t.Context(), c, token)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, id
}

// resultOf is a reported result of a history, and the key of the certificate that is with it.
func resultOf(t *testing.T, e *work.Event) (evidence.Result, dsse.Key) {
	t.Helper()
	d := &work.ReportedData{}
	if err := json.Unmarshal(e.Data, d); err != nil || d.Signed == nil {
		t.Fatalf("%s is not signed: %s, %v", e.Step, e.Data, err)
	}
	cert, err := x509.ParseCertificate(d.Signed.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if name := cert.URIs[0].String(); !strings.HasPrefix(name, "spiffe://orrery/tenant/acme/worker/pool-a/") || !strings.HasPrefix(d.Worker, name+"/") {
		t.Errorf("%s is signed by %s", d.Worker, name)
	}
	key, err := dsse.NewKey(cert.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Result{Tenant: e.Tenant, Run: e.Run, Step: e.Step, Report: d}, key
}

// N3: what a worker with a certificate reports is in the history with its signature; what was altered on the way is refused, and so is the
// signature of somebody else.
func TestN3_SignedResults(t *testing.T) {
	r := newRig(t)
	c, id := r.certified(t)
	other, _ := r.certified(t)
	const session = "ses_signed"
	source := c.Source(t.Context(), remote.About{Worker: "rack7", Slots: 8, Offer: api.WorkerOffer{Runners: worker.Runners(), Tier: 2}})
	if err := source.OpenSession(t.Context(), store.Session{ID: session, Tenant: acme}); err != nil {
		t.Fatal(err)
	}
	run, _ := r.submit(nil, "", &work.Plan{Steps: []work.PlanStep{noop("a"), noop("b"), noop("c")}})
	exchange := func(most int, reports ...store.ReportCommand) store.ExchangeReply {
		t.Helper()
		reply, err := source.Exchange(t.Context(), store.ExchangeRequest{Session: session, Tenant: acme, Runners: worker.Runners(), MinTier: 2, Max: most, Reports: reports})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	var reports []store.ReportCommand
	for exchange(8); len(reports) < 3; {
		<-source.Wake()
		for _, g := range exchange(8).Grants {
			reports = append(reports, store.ReportCommand{Tenant: acme, Run: g.Run, Step: g.Step, Report: work.ReportedData{
				Token: g.Token, Worker: "rack7", State: work.Succeeded, Reason: work.Reason{Code: work.EndedWell}, StartedAt: r.now(), EndedAt: r.now(),
				Outputs: json.RawMessage(`{"n": 1, "m": "\u00fc"}`), Protections: json.RawMessage(`{"tier": 2}`), Usage: &work.Usage{WallMs: 3},
			}})
		}
	}
	sign := func(c *remote.Client, reports ...store.ReportCommand) []store.ReportCommand {
		t.Helper()
		var results []evidence.Result
		for i := range reports {
			reports[i].Report.Signed = nil
			results = append(results, evidence.Result{Tenant: acme, Run: reports[i].Run, Step: reports[i].Step, Report: &reports[i].Report})
		}
		if err := c.SignResults(t.Context(), results); err != nil {
			t.Fatal(err)
		}
		return reports
	}
	altered := sign(c, slices.Clone(reports)...)
	altered[1].Report.Outputs = json.RawMessage(`{"n":2}`)
	altered[2].Report.Signed.Batch.Index = 0
	if errs := exchange(0, altered[1:]...).Errs; fault.CodeOf(errs[0]) != fault.Unverified || fault.CodeOf(errs[1]) != fault.Unverified {
		t.Errorf("altered reports: %v", errs)
	}
	if errs := exchange(0, sign(other, slices.Clone(reports[:1])...)...).Errs; fault.CodeOf(errs[0]) != fault.Unverified {
		t.Errorf("signed by another worker: %v", errs)
	}
	// A certificate that was renewed between the signature and the report is still the worker's.
	good := sign(c, reports...)
	if err := id.Renew(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for i, err := range exchange(0, good...).Errs {
		if err != nil {
			t.Errorf("report %d: %v", i, err)
		}
	}
	r.ends(run)
	signed := 0
	for _, e := range r.events(run) {
		if e.Type != work.StepReported {
			continue
		}
		result, key := resultOf(t, &e)
		if err := evidence.CheckResult(result, key, dsse.Holds); err != nil {
			t.Errorf("%s: %v", e.Step, err)
		}
		if result.Report.ExitCode = 1; fault.CodeOf(evidence.CheckResult(result, key, dsse.Holds)) != fault.Unverified {
			t.Errorf("%s holds when it is altered", e.Step)
		}
		if signed++; result.Report.Signed.Batch == nil || result.Report.Signed.Batch.Size != 3 {
			t.Errorf("%s is not one of a batch of three", e.Step)
		}
	}
	if signed != 3 {
		t.Errorf("%d results are signed", signed)
	}
}
