package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"orrery.example/orrery/internal/engine"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

const (
	ownFolder  = ".orrery"        // what Orrery puts into a workspace beside the files of the pack
	outputFile = ".orrery/output" // where a step writes its values
)

// prepare makes the workspace: the files of the pack, the artifacts of earlier steps, the rendered step, the secrets.
func (a *attempt) prepare(ctx context.Context) error {
	a.clean() // what an attempt at this left behind that had no room
	a.rendered, a.dir = rendered{}, ""
	if err := a.unlock(); err != nil {
		return err
	}
	if err := a.render(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(a.w.Dir, "step-")
	if err != nil {
		return fault.Wrap(fault.Internal, err, "no workspace")
	}
	a.dir = dir
	return a.fill(ctx)
}

func (a *attempt) fill(ctx context.Context) error {
	root, err := os.OpenRoot(a.dir)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "no workspace")
	}
	defer root.Close()
	for _, f := range a.graph.Plan.Files {
		if err := a.place(ctx, root, f.Path, f.Digest, f.Executable); err != nil {
			return err
		}
	}
	for _, b := range a.grant.Bindings.Artifacts {
		if err := a.place(ctx, root, target(b), b.Artifact.Digest, b.Artifact.Executable); err != nil {
			return err
		}
	}
	if err := root.MkdirAll(ownFolder, 0o755); err != nil {
		return fault.Wrap(fault.Internal, err, "workspace")
	}
	return nil
}

// target is where an artifact goes: a path, or below a folder under its own name. Entries of a map are told apart by
// their position, with as many digits as keep them in order.
func target(b engine.BoundArtifact) string {
	if !strings.HasSuffix(b.To, "/") {
		if b.Index < 0 {
			return b.To
		}
		return path.Join(b.To, fmt.Sprintf("%06d-%s", b.Index, path.Base(b.Artifact.Path)))
	}
	name := b.Artifact.Path
	if b.Index >= 0 {
		name = fmt.Sprintf("%06d-%s", b.Index, path.Base(name))
	}
	return path.Join(b.To, name)
}

// place writes one file and refuses bytes that are not what the digest names.
func (a *attempt) place(ctx context.Context, root *os.Root, to string, digest work.Digest, executable bool) error {
	if !filepath.IsLocal(to) {
		return fault.New(fault.Invalid, "%q is no path inside the workspace", to)
	}
	from, _, err := a.w.blobs.Open(ctx, a.grant.Tenant, digest)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "file %s", to)
	}
	defer from.Close()
	if parent := path.Dir(to); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return fault.Wrap(fault.Internal, err, "file %s", to)
		}
	}
	mode := os.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	f, err := root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "file %s", to)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), from)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fault.Wrap(fault.Internal, err, "file %s", to)
	}
	if got := work.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))); got != digest {
		return fault.New(fault.Unverified, "file %s has digest %s, the plan says %s", to, got, digest)
	}
	a.rendered.Files = append(a.rendered.Files, placed{to, digest})
	return nil
}
