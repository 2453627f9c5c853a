package app

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"runtime"
	"runtime/pprof"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/journal"
)

// Bundle writes what helps somebody else to find out what is wrong: one archive (tar, gzip) of version, settings, checks, counts, metrics,
// goroutines and the last lines of the log. Nothing in it is a secret: settings come without secret values, and every file goes the way of a
// line of the log. The documents are those that only the caller knows, by name. Store may be nil.
func Bundle(ctx context.Context, w io.Writer, version string, f *Folder, t *Telemetry, documents map[string]any) error {
	clean := journal.Scrub
	files := map[string][]byte{}
	add := func(name string, v any) {
		raw, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			raw = []byte(err.Error())
		}
		files[name] = append(raw, '\n')
	}
	add("version.json", map[string]any{
		"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "processors": runtime.NumCPU(), "made": Now(),
	})
	for name, v := range documents {
		add(name+".json", v)
	}
	if f != nil {
		if counted, err := f.Store.Census(ctx); err == nil {
			add("counts.json", counted)
		} else {
			add("counts.json", map[string]string{"error": err.Error()})
		}
	}
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err == nil { // by stack, without arguments
		files["goroutines.txt"] = stacks.Bytes()
	}
	if t != nil && t.Metrics != nil {
		text, err := t.Metrics.Text()
		if err != nil {
			text = []byte(err.Error())
		}
		files["metrics.txt"] = text
	}
	if t != nil && t.journal != nil {
		files["log.ndjson"], clean = t.journal.Tail(), t.journal.Clean
	}
	zipped := gzip.NewWriter(w)
	out := tar.NewWriter(zipped)
	for _, name := range []string{
		"version.json", "config.json", "doctor.json", "counts.json", "metrics.txt", "goroutines.txt", "log.ndjson",
	} {
		raw, ok := files[name]
		if !ok {
			continue
		}
		raw = clean(raw)
		if err := out.WriteHeader(&tar.Header{Name: "orrery-debug/" + name, Mode: 0o600, Size: int64(len(raw)), ModTime: time.Now().Truncate(time.Second), Typeflag: tar.TypeReg}); err != nil {
			return fault.Wrap(fault.Internal, err, "the bundle")
		}
		if _, err := out.Write(raw); err != nil {
			return fault.Wrap(fault.Internal, err, "the bundle")
		}
	}
	if err := out.Close(); err != nil {
		return fault.Wrap(fault.Internal, err, "the bundle")
	}
	return fault.Wrap(fault.Internal, zipped.Close(), "the bundle")
}
