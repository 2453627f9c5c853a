package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/sandbox"
	"orrery.example/orrery/internal/work"
)

// Output beyond the limit of the step is dropped and counted; what is kept is what the report binds.
func TestOutputFlood(t *testing.T) {
	t.Parallel()
	r := newRig(t).sandboxed()
	r.start(true)
	s := shell("flood", `i=0; while [ $i -lt 20000 ]; do echo "line $i of a flood"; i=$((i+1)); done; echo "the error" >&2`)
	s.Run.Sandbox.OutputBytes = 64 << 10
	id, report := r.only(s)
	if report.State != work.Succeeded || report.Transcript.Dropped < 200<<10 {
		t.Errorf("the report is %+v", report)
	}
	lines := r.bound(id, "flood", 1, report.Transcript)
	kept := 0
	for _, l := range lines {
		kept += len(l.Message) + 1
	}
	last := lines[len(lines)-1]
	if kept > 65<<10 || last.EventType != "step.truncated" || !strings.Contains(last.Message, fmt.Sprint(report.Transcript.Dropped)) {
		t.Errorf("%d bytes are kept, the last line is %+v", kept, last)
	}
}

// A line of any length and bytes of any kind become lines that are text and not too long, and nothing of them is lost.
func TestOutputOddities(t *testing.T) {
	t.Parallel()
	r := newRig(t).sandboxed()
	r.start(true)
	id, report := r.only(step("odd", work.RunSpec{Runner: "python", Script: `
import sys
out = sys.stdout.buffer
out.write("é".encode() * 50_000 + b"\n")
out.write(b"\xff\xfe bad \x80\n")
out.write(b"a\r\nb\x00c\x1b[31m\n\n")
out.write(b"no end")
`}))
	if report.State != work.Succeeded {
		t.Fatalf("the report is %+v", report)
	}
	var text []string
	for _, l := range r.bound(id, "odd", 1, report.Transcript) {
		if !utf8.ValidString(l.Message) || len(l.Message) > 16<<10 {
			t.Errorf("a line of %d bytes, text: %v", len(l.Message), utf8.ValidString(l.Message))
		}
		text = append(text, l.Message)
	}
	n := len(text) - 5
	if n < 1 || strings.Join(text[:n], "") != strings.Repeat("é", 50_000) {
		t.Errorf("the long line is %d lines and not what was written", n)
	}
	want := []string{"\uFFFD bad \uFFFD", "a", "b\x00c\x1b[31m", "", "no end"}
	if rest := text[max(n, 0):]; !slices.Equal(rest, want) {
		t.Errorf("the rest is %q", rest)
	}
}

// What a step may leave, and what happens when it does not.
func TestOutputs(t *testing.T) {
	t.Parallel()
	r := newRig(t).sandboxed()
	r.start(true)
	all := work.StepOutput{Name: "all", Path: "out/**"}
	for name, c := range map[string]struct {
		script  string
		outputs []work.StepOutput
		files   int
		values  string
		refused string // part of the reason
	}{
		"odd-names": {
			script: `mkdir -p "out/a b"; for n in " " "-rf" "é" 'x"y' '%2e' 'a b/c' "new
line" '$(id)' '...'; do echo x > "out/$n"; done`,
			outputs: []work.StepOutput{all}, files: 9,
		},
		"executable":  {script: `mkdir out; echo x > out/run; chmod 755 out/run`, outputs: []work.StepOutput{all}, files: 1},
		"missing":     {script: `mkdir out`, outputs: []work.StepOutput{all}, refused: `left nothing at "out/**"`},
		"optional":    {script: `true`, outputs: []work.StepOutput{{Name: "all", Path: "out/**", Optional: true}}},
		"link":        {script: `mkdir out; ln -s /etc/passwd out/p`, outputs: []work.StepOutput{all}, refused: "not a regular file"},
		"pipe":        {script: `mkdir out; mkfifo out/p`, outputs: []work.StepOutput{all}, refused: "not a regular file"},
		"linked-file": {script: `rm -rf .orrery/output; ln -s /etc/passwd .orrery/output`, refused: "plain file"},
		"value":       {script: `echo "n=7" > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n", Type: "integer"}}, values: `{"n":7}`},
		"extra":       {script: `echo '{"n":"a","m":2}' > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n"}}, values: `{"n":"a"}`},
		"no-value":    {script: `true`, outputs: []work.StepOutput{{Name: "n"}}, refused: `did not write its output "n"`},
		"wrong-type":  {script: `echo n=x > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n", Type: "integer"}}, refused: "not of type"},
		"no-name":     {script: `echo x > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n"}}, refused: "NAME=value"},
		"not-json":    {script: `echo '{"n":' > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n"}}, refused: "not one object"},
		"huge":        {script: `head -c 300000 /dev/zero > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n"}}, refused: "at most"},
		"fraction":    {script: `echo '{"n":1.5}' > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n", Type: "json"}}, values: `{"n":"1.5"}`},
		"bad-text":    {script: `printf 'n=\377\n' > "$ORRERY_OUTPUT"`, outputs: []work.StepOutput{{Name: "n"}}, refused: "outputs"},
	} {
		id := r.submit(nil, shell(work.StepID(name), c.script, c.outputs...))
		r.end(id)
		report := r.reports(id, work.StepID(name))[0]
		if c.refused != "" {
			if report.State != work.Failed || !strings.Contains(report.Reason.Message, c.refused) || report.Outputs != nil || report.Artifacts != nil {
				t.Errorf("%s: the report is %+v", name, report)
			}
			continue
		}
		if report.State != work.Succeeded || len(report.Artifacts) != c.files || string(report.Outputs) != c.values {
			t.Errorf("%s: %s, %d files, values %s: %v", name, report.State, len(report.Artifacts), report.Outputs, report.Reason)
		}
	}
	r.empty()
}

// A secret does not leave the step: not in output, however it is written, not in values, not in files, not in their names.
func TestSecrets(t *testing.T) {
	t.Parallel()
	r := newRig(t).sandboxed()
	r.start(true)
	all := work.StepOutput{Name: "all", Path: "out/**"}
	for name, c := range map[string]struct {
		script string
		output work.StepOutput
	}{
		"value":       {`echo "n=$KEY" > "$ORRERY_OUTPUT"`, work.StepOutput{Name: "n"}},
		"value-hex":   {`echo "n=$(printf %s "$KEY" | od -An -tx1 | tr -d ' \n')" > "$ORRERY_OUTPUT"`, work.StepOutput{Name: "n"}},
		"file":        {`mkdir out; (head -c 100000 /dev/zero; echo "$KEY"; head -c 100000 /dev/zero) > out/f`, all},
		"file-base64": {`mkdir out; printf 'password: %s' "$KEY" | base64 > out/f`, all},
		"file-name":   {`mkdir -p "out/$KEY"; echo x > "out/$KEY/f"`, all},
		"link-name":   {`mkdir -p "out/${KEY%/*}"; ln -s "/$KEY" "out/$KEY"`, all},
	} {
		s := shell(work.StepID(name), c.script, c.output)
		s.Run.Secrets = map[string]string{"KEY": "key"}
		id := r.submit(nil, s)
		r.end(id)
		report := r.reports(id, work.StepID(name))[0]
		if report.State != work.Failed || report.Reason.Code != work.EndedByOutput || report.Outputs != nil || report.Artifacts != nil {
			t.Errorf("%s: the report is %+v", name, report)
		}
		for _, e := range r.events(id) {
			if strings.Contains(string(e.Data), canary) || strings.Contains(string(e.Data), canary[:9]) {
				t.Errorf("%s: the secret is in the history: %s", name, e.Data)
			}
		}
	}
	if r.blobs.has(canary) {
		t.Error("the secret is in a stored file")
	}
	harmless := shell("harmless", `mkdir out; printf %s "$KEY" | sha256sum > out/f; echo "the key is $KEY"`, all)
	harmless.Run.Secrets = map[string]string{"KEY": "key"}
	id, report := r.only(harmless)
	if report.State != work.Succeeded || len(report.Artifacts) != 1 {
		t.Errorf("the report is %+v", report)
	}
	if l := r.bound(id, "harmless", 1, report.Transcript); len(l) != 1 || l[0].Message != "the key is [redacted:key]" {
		t.Errorf("the output is %+v", l)
	}
}

// The names of hosts that a step asks for are kept, and a step may ask for a secret, in capitals or not.
func TestSecretsInHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.config.Sandbox = driver(func(context.Context, sandbox.Spec) (sandbox.Result, error) {
		return sandbox.Result{Cause: sandbox.Exited, Egress: []sandbox.EgressRecord{
			{Host: canary + ".example.com", Port: 443, Decision: "refused", Reason: "not " + canary},
			{Host: strings.ToLower(canary) + ".example.com", Port: 443, Decision: "refused"},
			{Host: "example.com", Port: 443, Decision: "refused"},
		}}, nil
	})
	r.start(true)
	s := shell("asks", "wait")
	s.Run.Secrets = map[string]string{"KEY": "key"}
	_, report := r.only(s)
	found := strings.ToLower(string(report.Egress))
	if strings.Contains(found, strings.ToLower(canary)) || strings.Count(found, "[redacted:key]") != 3 || strings.Count(found, "example.com") != 3 {
		t.Errorf("the records are %s", report.Egress)
	}
}

// A step that may be cached is done once as long as nothing that decides its result changes.
func TestCache(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var done atomic.Int32
	r.config.Sandbox = driver(func(_ context.Context, spec sandbox.Spec) (sandbox.Result, error) {
		done.Add(1)
		io.WriteString(spec.Stdout, "done\n")
		return well()
	})
	r.start(true)
	cached := func(script, key string) work.ReportedData {
		s := shell("one", script)
		s.Run.Cache = &work.CacheSpec{Key: key}
		_, report := r.only(s)
		if report.State != work.Succeeded {
			t.Errorf("the report is %+v", report)
		}
		return report
	}
	if first := cached("a", ""); first.CachedFrom != nil || first.CacheKey == "" {
		t.Errorf("the first report is %+v", first)
	}
	if second := cached("a", ""); second.CachedFrom == nil || second.CachedFrom.Attempt != 1 || second.Transcript.Lines != 0 {
		t.Errorf("the second report is %+v", second)
	}
	for _, other := range []work.ReportedData{cached("b", ""), cached("a", "other")} {
		if other.CachedFrom != nil {
			t.Errorf("another step has the result of %+v", other.CachedFrom)
		}
	}
	if done.Load() != 3 {
		t.Errorf("%d steps were done", done.Load())
	}
}

// A file is taken in under the checksum that the plan gives, and under no other.
func TestIngest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(true)
	content := "what was announced\n"
	digest, size, err := r.blobs.Put(t.Context(), work.LocalTenant, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	files := []work.File{{Path: "input/source.txt", Digest: digest, Size: size}}
	checksum := strings.TrimPrefix(string(digest), "sha256:")
	for name, c := range map[string]struct{ path, checksum, refused string }{
		"right":    {"input/source.txt", checksum, ""},
		"capitals": {"input/source.txt", "sha256:" + strings.ToUpper(checksum), ""},
		"wrong":    {"input/source.txt", strings.Repeat("0", 64), "expected 0000"},
		"none":     {"input/source.txt", "", "64 hexadecimal digits"},
		"missing":  {"input/other.txt", checksum, "there is no file"},
		"outside":  {"../source.txt", checksum, "no path inside"},
		"folder":   {"input", checksum, "there is no file"},
	} {
		s := step(work.StepID(name), work.RunSpec{Runner: "bundle.ingest", With: map[string]json.RawMessage{}})
		s.Run.With["path"], s.Run.With["checksumSha256"] = quoted(t, c.path), quoted(t, c.checksum)
		id := r.submit(files, s)
		r.end(id)
		report := r.reports(id, s.ID)[0]
		if c.refused != "" {
			if report.State != work.Failed || !strings.Contains(report.Reason.Message, c.refused) || report.Artifacts != nil {
				t.Errorf("%s: the report is %+v", name, report)
			}
			continue
		}
		if report.State != work.Succeeded || len(report.Artifacts) != 2 || report.Artifacts[0].Digest != digest ||
			report.Artifacts[0].Path != "bundles/"+checksum+"/source.txt" {
			t.Errorf("%s: the report is %+v", name, report)
		}
	}
	if got := canonical.Digest([]byte(content)); got != digest {
		t.Fatalf("the digest is %s", got)
	}
	r.empty()
}
