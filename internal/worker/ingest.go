package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// ingest takes a file of the workspace into the run after comparing it with the checksum that the plan gives: it is staged at
// bundles/{checksum}/{filename} with a metadata.json beside it, and both are outputs.
func (a *attempt) ingest(ctx context.Context) {
	if err := a.stage(ctx); err != nil {
		a.refuse(work.EndedByInput, "checksum", err)
		a.lines.say("error", "%v", err)
		return
	}
	a.report.State, a.report.Reason = work.Succeeded, work.Reason{Code: work.EndedWell}
}

func (a *attempt) stage(ctx context.Context) error {
	source, _ := a.rendered.With["path"].(string)
	want, ok := a.rendered.With["checksumSha256"].(string)
	if !ok {
		want, _ = a.rendered.With["checksum"].(string)
	}
	want = strings.TrimPrefix(strings.ToLower(want), "sha256:")
	if source == "" || len(want) != 64 {
		return fault.New(fault.Invalid, "bundle.ingest needs path and checksumSha256 (64 hexadecimal digits)")
	}
	if !filepath.IsLocal(source) {
		return fault.New(fault.Invalid, "bundle.ingest: %q is no path inside the workspace", source)
	}
	root, err := os.OpenRoot(a.dir)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "workspace")
	}
	defer root.Close()
	info, err := root.Lstat(source)
	if err != nil || !info.Mode().IsRegular() {
		return fault.New(fault.NotFound, "bundle.ingest: there is no file %q in the workspace", source).
			WithHint("put it beside the manifest, or take it from an earlier step with artifacts")
	}
	f, err := root.Open(source)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "bundle.ingest")
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fault.Wrap(fault.Internal, err, "bundle.ingest")
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fault.New(fault.Unverified, "bundle.ingest: %s has SHA-256 %s, expected %s", source, got, want)
	}
	return a.keepStaged(ctx, root, f, want, path.Base(source), info.Size())
}

func (a *attempt) keepStaged(ctx context.Context, root *os.Root, f *os.File, checksum, name string, size int64) error {
	metadata, err := json.Marshal(map[string]any{"filename": name, "checksumSha256": checksum, "size": size})
	if err != nil {
		return fault.Wrap(fault.Internal, err, "bundle.ingest")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fault.Wrap(fault.Internal, err, "bundle.ingest")
	}
	folder := path.Join("bundles", checksum)
	for _, part := range []struct {
		output, name string
		from         io.Reader
	}{{"bundle", name, f}, {"metadata", "metadata.json", strings.NewReader(string(metadata) + "\n")}} {
		digest, n, err := a.w.blobs.Put(ctx, a.grant.Tenant, part.from)
		if err != nil {
			return fault.Wrap(fault.Internal, err, "bundle.ingest")
		}
		a.report.Artifacts = append(a.report.Artifacts, work.Artifact{
			Name: part.output, Path: path.Join(folder, part.name), Digest: digest, Size: n,
		})
	}
	a.lines.say("info", "staged %s (%d bytes) as %s/%s", name, size, folder, name)
	return nil
}
