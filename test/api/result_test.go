package api

import (
	"bytes"
	"path/filepath"
	"testing"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/verify"
	"orrery.example/orrery/internal/work"
)

// N3: the worker in a server signs the results of each tenant with a key of that tenant; to the trust root of another it is nobody.
func TestN3_ResultsOfTenants(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true})
	trust := map[string]keyring.Trust{}
	bundles := map[string][]byte{}
	for _, tenant := range []string{"acme", "globex"} {
		tokens := r.tenant(tenant, "operator", "viewer")
		run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], tenant, map[string]any{"manifest": hello}), 201)["runId"].(string)
		r.finish(tokens["viewer"], tenant, run)
		res := r.ask("GET", "/api/v1/runs/"+run+"/evidence", tokens["viewer"], tenant, nil)
		if res.status != 200 {
			t.Fatal(res.status)
		}
		root, err := keyring.Open(filepath.Join(r.Server.Dir, "tenants", tenant)).Trust()
		if err != nil {
			t.Fatal(err)
		}
		bundles[tenant], trust[tenant] = res.body, root
	}
	for of, bundle := range bundles {
		for whose, root := range trust {
			report := verify.Bundle(bytes.NewReader(bundle), root, verify.Options{Tenant: work.Tenant(of), SignedResults: true})
			want := verify.Pass
			if of != whose {
				want = verify.Untrusted
			}
			for _, c := range report.Checks {
				if c.Name == "results" && c.Result != want {
					t.Errorf("results of %s under the trust root of %s: %s, %s", of, whose, c.Result, c.Detail)
				}
			}
			if (report.Verdict == verify.Valid) != (of == whose) {
				t.Errorf("evidence of %s under the trust root of %s is %s", of, whose, report.Verdict)
			}
		}
	}
}
