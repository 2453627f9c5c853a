package torture

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// canary returns a secret that no text has by chance: letters only, so that it may be part of a file name and of a host name, or with
// everything that formats have to escape.
func canary(special bool) string {
	const letters = "abcdefghijkmnopqrstuvwxyz"
	b := make([]byte, 24)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	if special {
		return string(b[:6]) + `+&"\' <$` + string(b[6:])
	}
	return string(b)
}

// traces are the texts that give a secret away.
func traces(t *testing.T, secret string) []string {
	t.Helper()
	quoted, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(secret)
	return []string{
		secret, strings.ToUpper(secret), strings.Trim(string(quoted), `"`), url.QueryEscape(secret), url.PathEscape(secret),
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		base64.StdEncoding.EncodeToString(raw), base64.URLEncoding.EncodeToString(raw),
		// Inside of a longer text, without the letters that the neighbours decide.
		base64.StdEncoding.EncodeToString(append([]byte("x"), raw...))[4:24], base64.StdEncoding.EncodeToString(append([]byte("xx"), raw...))[4:24],
	}
}

// A declared secret is nowhere: not in a byte below the data folder, not in evidence, not in what any command prints.
func TestSecretCanary(t *testing.T) {
	t.Parallel()
	for name, special := range map[string]bool{"letters": false, "special": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			secret := canary(special)
			f.env = []string{"THE_KEY=" + secret}
			said := map[string][]byte{}
			keep := func(r result) {
				said[strings.Join(r.args, " ")] = append(append([]byte{}, r.stdout...), r.stderr...)
			}
			keep(f.must(3, append(f.pack("secret"), "-i", "key=env:THE_KEY")...))
			run := f.only()
			keep(f.must(3, append(f.pack("secret"), "-i", "key=env:THE_KEY", "-v", "--new")...))
			for _, args := range [][]string{{"runs", "show"}, {"runs", "logs"}, {"runs", "watch"}, {"runs", "graph"}, {"runs", "export"}, {"why"}, {"verify"}, {"evidence", "export", "-f", "-"}} {
				for _, more := range [][]string{nil, {"-o", "json"}, {"-o", "yaml"}} {
					r := f.run(append(append(append([]string{}, args...), run.Run), more...)...)
					if keep(r); more == nil && len(r.stdout) == 0 {
						t.Errorf("void: %s", r)
					}
				}
			}
			f.states(run.Run)
			f.nowhere(said, traces(t, secret))
		})
	}
}

// states checks that the steps did what they are there for: those that would leave the secret in what is kept have failed.
func (f *folder) states(run string) {
	f.t.Helper()
	ended := map[string]string{}
	lines := 0
	files := members(f.t, f.evidence(run))
	for _, e := range f.timeline(run) {
		if e.Type == "step.ended" {
			ended[e.Step] = e.Data.State
		}
	}
	for _, step := range []string{"values", "coded", "files", "names", "missing", "command"} {
		if ended[step] != "failed" {
			f.t.Errorf("the step %s has %s", step, ended[step])
		}
	}
	for name, raw := range files {
		if strings.HasPrefix(name, "transcripts/") {
			lines += bytes.Count(raw, []byte("[redacted:key]"))
		}
	}
	if ended["prints"] != "succeeded" || lines < 60 {
		f.t.Errorf("void: printing has %s, %d lines were masked", ended["prints"], lines)
	}
}

// nowhere checks every file of the folder, its name, and everything that was printed.
func (f *folder) nowhere(said map[string][]byte, traces []string) {
	f.t.Helper()
	looked := 0
	look := func(what string, raw []byte) {
		looked++
		for _, text := range traces {
			if at := bytes.Index(raw, []byte(text)); at >= 0 {
				f.t.Errorf("%s has the secret as %q: … %q", what, text, raw[max(0, at-60):min(len(raw), at+len(text)+20)])
			}
		}
	}
	for command, raw := range said {
		look("the output of "+command, raw)
	}
	err := filepath.WalkDir(f.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "ballast" {
			return err
		}
		look("the name of "+name, []byte(name))
		raw, err := os.ReadFile(name)
		look(name, raw)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if looked < 30 {
		f.t.Errorf("void: only %d things were looked at", looked)
	}
}
