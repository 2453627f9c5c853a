package evidence_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/evidence/evidencetest"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

const now = evidencetest.Start

func TestStepFile(t *testing.T) {
	for id, want := range map[work.StepID]string{
		"build": "build", "shard[3]::x": "shard%5B3%5D%3A%3Ax", "a/b": "a%2Fb", "..": "%2E.", ".x": "%2Ex", "a.b-c_D": "a.b-c_D", "é~%": "%C3%A9%7E%25",
		work.StepID(strings.Repeat("a", 64)): strings.Repeat("a", 64),
		work.StepID(strings.Repeat("a", 65)): strings.Repeat("a", 31) + "~635361c48bb9eab14198e76ea8ab7f1a",
	} {
		if got := evidence.StepFile(id); got != want {
			t.Errorf("%s: %s, expected %s", id, got, want)
		}
	}
}

func TestStepFileIsOneToOne(t *testing.T) {
	seen := map[string]work.StepID{}
	for _, a := range []string{"a", "a[0]::b", "a[1]::b", "a/b", "a%2Fb", "~run", strings.Repeat("é", 30), strings.Repeat("é", 31), ".", "..", "a::b"} {
		for _, b := range []string{"", "x", "[0]", strings.Repeat("z", 80)} {
			id := work.StepID(a + b)
			name := evidence.StepFile(id)
			if other, ok := seen[name]; ok || len(name) > 64 || strings.ContainsAny(name, "/\\:[]") || name[0] == '.' || name == "~run" {
				t.Errorf("%q is called %q, like %q", id, name, other)
			}
			seen[name] = id
		}
	}
}

func TestApproval(t *testing.T) {
	w := evidencetest.NewWorld(t)
	good := evidence.Answer{
		Tenant: "acme", Run: "run_1", Gate: "gate", PlanHash: canonical.Digest([]byte("plan")), Decision: "approved", Reason: "fine",
		Ticket: "OPS-1", DecidedAt: now, Nonce: "0123456789abcdef",
	}
	e, err := evidence.SignApproval(context.Background(), good, w.Bob)
	if err != nil {
		t.Fatal(err)
	}
	d, a, err := evidence.Approval(e, w.Trust, now)
	if err != nil || d.Approver != "bob" || d.Key != w.Bob.KeyID() || d.Gate != "gate" || d.Ticket != "OPS-1" || a.Run != "run_1" || a.Tenant != "acme" {
		t.Fatal(d, a, err)
	}
	back, err := dsse.Decode(d.Statement)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := evidence.Approval(back, w.Trust, now); err != nil {
		t.Error("what is kept verifies again:", err)
	}
	for name, change := range map[string]func(*evidence.Answer){
		"no tenant": func(a *evidence.Answer) { a.Tenant = "" }, "no run": func(a *evidence.Answer) { a.Run = "" }, "no gate": func(a *evidence.Answer) { a.Gate = "" },
		"no plan": func(a *evidence.Answer) { a.PlanHash = "" }, "maybe": func(a *evidence.Answer) { a.Decision = "maybe" },
		"no time": func(a *evidence.Answer) { a.DecidedAt = 0 }, "short nonce": func(a *evidence.Answer) { a.Nonce = "1" },
	} {
		bad := good
		change(&bad)
		if _, err := evidence.SignApproval(context.Background(), bad, w.Bob); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	revoked, err := w.Trust.Revoke(w.Bob.KeyID(), keyring.Revocation{At: now - 1, Reason: keyring.Superseded})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		payload string
		by      *keyring.Private
		trust   keyring.Trust
		code    fault.Code
	}{
		"by a service":     {"", w.Attestor, w.Trust, fault.Untrusted},
		"by a stranger":    {"", evidencetest.NewWorld(t).Bob, w.Trust, fault.Untrusted},
		"key revoked":      {"", w.Bob, revoked, fault.Untrusted},
		"for another name": {"", w.Carol, w.Trust, fault.Unverified},
		"unknown field":    {`"also":1,"approver"`, w.Bob, w.Trust, fault.Unverified},
		"other subject":    {"subject", w.Bob, w.Trust, fault.Unverified},
		"not JSON":         {"{", w.Bob, w.Trust, fault.Unverified},
	} {
		payload := documentOf(t, e)
		switch c.payload {
		case "":
		case "{":
			payload = []byte("{")
		case "subject":
			payload = bytes.Replace(payload, []byte(`"plan.json"`), []byte(`"other.json"`), 1)
		default:
			payload = bytes.Replace(payload, []byte(`"approver"`), []byte(c.payload), 1)
		}
		bad, err := c.by.Sign(context.Background(), evidence.PayloadStatement, payload)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := evidence.Approval(bad, c.trust, now); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func documentOf(t *testing.T, e dsse.Envelope) []byte {
	t.Helper()
	var raw struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(e.Encode(), &raw); err != nil {
		t.Fatal(err)
	}
	return raw.Payload
}

func TestSubmission(t *testing.T) {
	w := evidencetest.NewWorld(t)
	inputs, err := evidence.InputsDigest(nil)
	if err != nil || inputs != canonical.Digest([]byte("[]")) {
		t.Fatal(inputs, err)
	}
	good := evidence.Submission{
		Tenant: "acme", Pack: work.PackRef{Name: "p", Version: "1", Digest: inputs}, InputsDigest: inputs, PlanHash: inputs,
		Nonce: "0123456789abcdef", IssuedAt: now, ExpiresAt: now + 1,
	}
	e, err := evidence.SignSubmission(context.Background(), good, w.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if s, id, err := evidence.VerifySubmission(e, w.Trust, now, dsse.Holds); err != nil || s.Submitter != "alice" || id != w.Alice.KeyID() || s.PlanHash != inputs {
		t.Fatal(s, id, err)
	}
	for name, change := range map[string]func(*evidence.Submission){
		"no tenant": func(s *evidence.Submission) { s.Tenant = "" }, "no pack": func(s *evidence.Submission) { s.Pack.Name = "" },
		"no digest": func(s *evidence.Submission) { s.Pack.Digest = "" }, "no plan": func(s *evidence.Submission) { s.PlanHash = "sha256:1" },
		"no inputs": func(s *evidence.Submission) { s.InputsDigest = "" }, "no time": func(s *evidence.Submission) { s.IssuedAt = 0 },
		"short nonce": func(s *evidence.Submission) { s.Nonce = "x" }, "never valid": func(s *evidence.Submission) { s.ExpiresAt = s.IssuedAt },
	} {
		bad := good
		change(&bad)
		if _, err := evidence.SignSubmission(context.Background(), bad, w.Alice); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An approver is not a submitter, and a document of one type is not one of another.
	if byBob, err := evidence.SignSubmission(context.Background(), good, w.Bob); err != nil {
		t.Fatal(err)
	} else if _, _, err := evidence.VerifySubmission(byBob, w.Trust, now, dsse.Holds); fault.CodeOf(err) != fault.Untrusted {
		t.Error(err)
	}
	if _, _, err := evidence.Approval(e, w.Trust, now); fault.CodeOf(err) != fault.Unverified {
		t.Error("a submission is no approval:", err)
	}
}

func build(t *testing.T, w *evidencetest.World, r *evidence.Record) []byte {
	t.Helper()
	b, err := evidence.Build(context.Background(), r, w.Attestor)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := b.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The same record gives the same file, byte for byte: ECDSA signatures are those of RFC 6979.
func TestDeterministic(t *testing.T) {
	w := evidencetest.NewWorld(t)
	record := w.Record(t, evidencetest.Case{})
	one := build(t, w, record)
	// The store may hand the same events out with another spelling of their data.
	for i, e := range record.Events {
		if len(e.Data) > 0 {
			var loose bytes.Buffer
			if err := json.Indent(&loose, e.Data, "", "  "); err != nil {
				t.Fatal(err)
			}
			record.Events[i].Data = loose.Bytes()
		}
	}
	if two := build(t, w, record); !bytes.Equal(one, two) {
		t.Error("two exports of one run differ")
	}
	archive := tar.NewReader(bytes.NewReader(one))
	last := ""
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= last || h.Typeflag != tar.TypeReg || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Mode != 0o644 ||
			!h.ModTime.Equal(record.Run.Ended.Std().Truncate(time.Second)) {
			t.Errorf("%+v", h)
		}
		last = h.Name
	}
}

// Nothing is signed that does not hold together.
func TestRefusesBrokenRecords(t *testing.T) {
	w := evidencetest.NewWorld(t)
	for name, c := range map[string]struct {
		breakIt func(*evidence.Record)
		code    fault.Code
	}{
		"still running":     {func(r *evidence.Record) { r.Run.State = work.Running }, fault.Conflict},
		"another plan":      {func(r *evidence.Record) { r.Plan = append(bytes.Clone(r.Plan), ' ') }, fault.Unverified},
		"an event changed":  {func(r *evidence.Record) { r.Events[5].Time++ }, fault.Unverified},
		"an event gone":     {func(r *evidence.Record) { r.Events = r.Events[:len(r.Events)-1] }, fault.Unverified},
		"no events":         {func(r *evidence.Record) { r.Events = nil; r.Run.Seq, r.Run.Head = 0, "" }, fault.Unverified},
		"row says other":    {func(r *evidence.Record) { r.Run.State = work.Failed }, fault.Unverified},
		"row of other run":  {func(r *evidence.Record) { r.Run.ID = "run_2" }, fault.Unverified},
		"row of other time": {func(r *evidence.Record) { r.Run.Ended++ }, fault.Unverified},
		"head":              {func(r *evidence.Record) { r.Run.Head = r.Events[0].Hash }, fault.Unverified},
		"other log":         {func(r *evidence.Record) { r.Seal.Position.Origin = "x" }, fault.Unverified},
		"beyond the log":    {func(r *evidence.Record) { r.Seal.Position.Index = 5 }, fault.Unverified},
		"lines of another": {func(r *evidence.Record) {
			r.Log = func(yield func(work.LogLine, error) bool) { yield(work.LogLine{Run: "other", Seq: 1}, nil) }
		}, fault.Unverified},
		"line twice": {func(r *evidence.Record) {
			log := r.Log
			r.Log = func(yield func(work.LogLine, error) bool) {
				for l := range log {
					if yield(l, nil) {
						yield(l, nil)
					}
					return
				}
			}
		}, fault.Unverified},
		"output changed": {func(r *evidence.Record) {
			r.Outputs.Fetch = func(work.Digest) ([]byte, error) { return []byte("evil releas\n"), nil }
		}, fault.Unverified},
		"output lost": {func(r *evidence.Record) {
			r.Outputs.Fetch = func(work.Digest) ([]byte, error) { return nil, fault.New(fault.NotFound, "pruned") }
		}, fault.NotFound},
		"request damaged": {func(r *evidence.Record) { r.Request = []byte("{}") }, fault.Invalid},
	} {
		r := w.Record(t, evidencetest.Case{})
		c.breakIt(r)
		if _, err := evidence.Build(context.Background(), r, w.Attestor); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := w.Record(t, evidencetest.Case{})
	pulled := errors.New("the key was pulled out")
	if _, err := evidence.Build(context.Background(), r, noKey{w.Attestor, pulled}); !errors.Is(err, pulled) {
		t.Error(err)
	}
}

type noKey struct {
	keyring.Signer
	err error
}

func (n noKey) Sign(context.Context, string, []byte) (dsse.Envelope, error) {
	return dsse.Envelope{}, n.err
}

func TestOutputsWithinTheLimit(t *testing.T) {
	w := evidencetest.NewWorld(t)
	r := w.Record(t, evidencetest.Case{})
	r.Outputs.Limit = int64(len(evidencetest.Output)) - 1
	b, err := evidence.Build(context.Background(), r, w.Attestor)
	if err != nil {
		t.Fatal(err)
	}
	name := "outputs/" + canonical.Digest([]byte(evidencetest.Output)).Hex()
	if b.File(name) != nil || !bytes.Contains(b.File(evidence.OutputsFile), []byte(canonical.Digest([]byte(evidencetest.Output)))) {
		t.Error("an output beyond the limit is named by its digest only")
	}
	r.Outputs.Limit++
	if b, err = evidence.Build(context.Background(), r, w.Attestor); err != nil || string(b.File(name)) != evidencetest.Output {
		t.Error("an output within the limit is in the bundle", err)
	}
}

// The attestation of T9 has the fields that T9 names.
func TestPackRunFields(t *testing.T) {
	w := evidencetest.NewWorld(t)
	b, err := evidence.Build(context.Background(), w.Record(t, evidencetest.Case{}), w.Attestor)
	if err != nil {
		t.Fatal(err)
	}
	e, err := dsse.Decode(b.File(evidence.PackRunFile))
	if err != nil {
		t.Fatal(err)
	}
	payload, _, err := dsse.Verify(e, "application/vnd.stellaops.pack-run+json", w.Trust.For(keyring.Attest))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(payload, &doc); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"runId", "tenant", "packName", "packVersion", "planHash", "inputs", "outputs", "steps", "completedAt"} {
		if doc[field] == nil {
			t.Errorf("%s is missing in %s", field, payload)
		}
	}
	if bytes.Contains(payload, []byte("env:TOKEN")) {
		t.Error("the reference of a secret is no digest of an input")
	}
}

// Whatever calls itself a bundle says which run it is of, or is refused.
func FuzzIdentify(f *testing.F) {
	var good bytes.Buffer
	w := tar.NewWriter(&good)
	text := `{"formatVersion":"orrery.evidence/v1","tenant":"t","runId":"r"}`
	if err := w.WriteHeader(&tar.Header{Name: "manifest.json", Size: int64(len(text)), Mode: 0o644}); err != nil {
		f.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:600])
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := evidence.Identify(bytes.NewReader(raw)); err != nil && fault.CodeOf(err) != fault.Invalid {
			t.Fatal(err)
		}
	})
}
