package blackbox

import (
	"bytes"
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/testservice"
)

//go:embed prelude.sh
var prelude string

// TestScripts runs scripts/*.txtar: what stands before the first file is a bash script behind prelude.sh, which says what words it
// has; the files are those it begins with. A script is named by the requirement it shows, where there is one.
func TestScripts(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("scripts/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatal("there are no scripts", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			script, files := archive(raw)
			dir := folder(t)
			for _, f := range files {
				write(t, dir, f.name, f.data)
			}
			words := prelude
			if bytes.Contains(script, []byte("$RUNSC")) {
				words += "export RUNSC=" + testservice.Runsc(t) + "\n"
			}
			if bytes.Contains(script, []byte("$POSTGRES_URL")) {
				words += "export POSTGRES_URL='" + database(t) + "'\n"
			}
			out, err := shell(t, dir, words+string(script))
			switch {
			case err != nil:
				t.Fatalf("%v\n%s", err, out)
			case strings.Contains(out, "\nSKIP "):
				t.Skip(out[strings.Index(out, "\nSKIP ")+6:])
			}
		})
	}
}

// database returns the address of an empty database in a PostgreSQL of the test's own.
func database(t *testing.T) string {
	t.Helper()
	server, err := testservice.StartPostgres(testservice.PostgresOptions{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	url, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return url
}

type file struct {
	name string
	data []byte
}

// archive splits a txtar: a comment, then files, each behind a line "-- name --".
func archive(raw []byte) (comment []byte, files []file) {
	for line := range bytes.Lines(raw) {
		text := strings.TrimRight(string(line), "\n")
		if name, ok := strings.CutPrefix(text, "-- "); ok && strings.HasSuffix(name, " --") {
			files = append(files, file{name: strings.TrimSuffix(name, " --")})
			continue
		}
		if len(files) == 0 {
			comment = append(comment, line...)
			continue
		}
		last := &files[len(files)-1]
		last.data = append(last.data, line...)
	}
	return comment, files
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	to := filepath.Join(dir, filepath.FromSlash(name))
	mode := os.FileMode(0o644)
	if bytes.HasPrefix(data, []byte("#!")) {
		mode = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		t.Fatal(err)
	}
}
