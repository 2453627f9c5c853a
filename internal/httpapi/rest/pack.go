package rest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

const (
	maxManifest = 8 << 20
	maxUpload   = pack.MaxBytes + 32<<20 // the files, and what tar adds to them
	kindRelease = "release"              // "name@version" of uploaded packs: the first one stays
	unversioned = "0.0.0"                // of a manifest that says none: such a pack is known by its digest only
)

func (s *service) packRoutes() []httpapi.Route {
	const read = access.PacksRead
	planned := func(path, name, summary string, reply any, h handler) httpapi.Route {
		r := post(path, name, "packs", summary, read, 0, api.PlanRequest{}, reply, h)
		r.Limit = maxManifest
		return r
	}
	return []httpapi.Route{
		{
			Method: http.MethodPost, Path: "/api/v1/packs", Name: "uploadPack", Tag: "packs", Scope: access.PacksWrite, Limit: maxUpload,
			Summary: "Upload a pack: a tar of its folder", BodyType: "application/x-tar", Reply: api.Pack{}, Status: http.StatusCreated, Handle: s.uploadPack,
			Query: []httpapi.Param{{Name: "manifest", Type: "string", Summary: "The manifest as its author names it, hello/pack.yaml: its last part is the file in the tar, its folder the name of a pack without one; pack.yaml without", Example: "hello/pack.yaml"}},
		},
		get("/api/v1/packs", "listPacks", "packs", "List uploaded packs by digest", read, api.PackList{}, s.listPacks, httpapi.PageParams()...),
		get("/api/v1/packs/{digest}", "getPack", "packs", "Show an uploaded pack", read, api.Pack{}, s.getPack),
		planned("/api/v1/lint", "lintPack", "Check a pack and say what is wrong, where, and what to do", api.LintReply{}, s.lint),
		planned("/api/v1/plans", "planPack", "Show what would run, and the hash that approvals are bound to", api.PlanReply{}, s.planPack),
		planned("/api/v1/simulations", "simulatePack", "Show what each step would do, without running anything", api.Simulation{}, s.simulate),
		get("/api/v1/plans/{planHash}", "getPlan", "packs", "Read a plan: its canonical JSON, which hashes to its name", read, json.RawMessage{}, s.getPlan),
		post("/api/v1/plan-diffs", "diffPlans", "packs", "Say in words what is different between two plans", read, 0, api.DiffRequest{}, api.DiffReply{}, s.diff),
	}
}

// planned is a pack that was planned, in a folder of its own while the request lasts.
type planned struct {
	built *plan.Built
	files fs.FS
	dir   string
}

func (p *planned) close() {
	if p.dir != "" {
		_ = os.RemoveAll(p.dir) // a temporary folder
	}
}

// plan makes a plan of what a request names. The caller closes it. Errors: fault.NotFound for an unknown pack, manifest.Problems.
func (s *service) plan(ctx context.Context, c *httpapi.Call, q api.PlanRequest) (*planned, error) {
	dir, loaded, err := s.open(ctx, c, q.PackSource)
	if err != nil {
		return nil, err
	}
	out := &planned{files: loaded.FS, dir: dir}
	inputs := map[string]plan.InputValue{}
	for name, raw := range q.Inputs {
		inputs[name] = plan.InputValue{JSON: raw}
	}
	if out.built, err = control.Plan(loaded, inputs); err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

// open puts a pack into a temporary folder, which the caller removes.
func (s *service) open(ctx context.Context, c *httpapi.Call, src api.PackSource) (dir string, p *pack.Pack, err error) {
	if (src.Pack == "") == (src.Manifest == "") {
		return "", nil, fault.New(fault.Invalid, "give the digest of an uploaded pack or the text of a manifest, one of them")
	}
	if src.Manifest != "" {
		p, err = pack.Text([]byte(src.Manifest))
		return "", p, err
	}
	if dir, err = os.MkdirTemp("", "orrery-pack-"); err != nil {
		return "", nil, fault.Wrap(fault.Exhausted, err, "a folder for the pack")
	}
	name, err := s.fetch(ctx, c, src.Pack, dir)
	if err == nil {
		p, err = load(dir, name)
	}
	if err != nil {
		_ = os.RemoveAll(dir) // a temporary folder
		return "", nil, err
	}
	return dir, p, nil
}

// load reads a pack from a temporary folder; its name is not one for messages.
func load(dir, name string) (*pack.Pack, error) {
	p, err := pack.LoadAs(filepath.Join(dir, path.Base(name)), name)
	var problems manifest.Problems
	if err == nil || errors.As(err, &problems) {
		return p, err
	}
	var known *fault.Error
	if errors.As(err, &known) && known.Code != fault.Internal {
		return nil, fault.New(fault.Invalid, "%s", strings.ReplaceAll(known.Message, dir+string(filepath.Separator), ""))
	}
	return nil, err
}

// fetch writes the files of an uploaded pack into a folder and returns the name of its manifest.
func (s *service) fetch(ctx context.Context, c *httpapi.Call, ref, dir string) (string, error) {
	p, err := s.pack(ctx, c.Tenant, ref)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "a folder for the pack")
	}
	defer root.Close()
	for _, f := range p.Files {
		body, _, err := s.Blobs.Open(ctx, c.Tenant, work.Digest(f.Digest))
		if err != nil {
			return "", fault.New(fault.Internal, "file %s of pack %s is missing: %v", f.Path, p.Digest, err)
		}
		err = writeFile(root, f.Path, f.Executable, body)
		if err = errors.Join(err, body.Close()); err != nil {
			return "", err
		}
	}
	return p.Manifest, nil
}

func writeFile(root *os.Root, name string, executable bool, body io.Reader) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return fault.New(fault.Invalid, "%s cannot be a folder of the pack", dir)
		}
	}
	mode := fs.FileMode(0o600)
	if executable {
		mode = 0o700
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fault.New(fault.Invalid, "%s stands twice in the pack, or where a folder is", name)
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}

// pack returns an uploaded pack by its digest or by name@version. Error: fault.NotFound.
func (s *service) pack(ctx context.Context, tenant work.Tenant, ref string) (api.Pack, error) {
	var p api.Pack
	if strings.Contains(ref, "@") {
		r, err := s.Store.Record(ctx, tenant, kindRelease, ref)
		if err != nil {
			return p, err
		}
		if err := json.Unmarshal(r.Doc, &ref); err != nil {
			return p, fault.Wrap(fault.Internal, err, "a release")
		}
	} else if !strings.HasPrefix(ref, "sha256:") {
		ref = "sha256:" + ref
	}
	r, err := s.Store.Record(ctx, tenant, store.PackKind, ref)
	if err != nil {
		return p, err
	}
	return p, fault.Wrap(fault.Internal, json.Unmarshal(r.Doc, &p), "a pack")
}

func (s *service) uploadPack(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	dir, err := os.MkdirTemp("", "orrery-pack-")
	if err != nil {
		return fault.Wrap(fault.Exhausted, err, "a folder for the pack")
	}
	defer os.RemoveAll(dir)
	if err := unpack(r.Body, dir); err != nil {
		return err
	}
	name := r.URL.Query().Get("manifest")
	if name == "" {
		name = "pack.yaml"
	}
	if !filepath.IsLocal(name) || !utf8.ValidString(name) {
		return fault.New(fault.Invalid, "the manifest is a file in the pack")
	}
	loaded, err := load(dir, name)
	if err != nil {
		return err
	}
	src := loaded.Source()
	if err := plan.Check(src); err != nil {
		return err
	}
	out := api.Pack{
		Digest: string(src.Digest), Name: src.Manifest.Name, Version: src.Manifest.Version, Manifest: name,
		Uploaded: s.Now().String(), By: c.Principal.Subject,
	}
	files := loaded.Files
	if loaded.Base != "pack.yaml" { // such a manifest is no file of its pack
		files = append(files, work.File{Path: loaded.Base})
	}
	for _, f := range files {
		digest, size, err := s.putFile(r.Context(), c.Tenant, loaded.FS, f.Path)
		if err != nil {
			return err
		}
		out.Files = append(out.Files, api.PackFile{Path: f.Path, Digest: string(digest), Size: size, Executable: f.Executable})
	}
	if out, err = s.publish(r.Context(), c.Tenant, out); err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/packs/"+out.Digest)
	return httpapi.Reply(w, http.StatusCreated, out)
}

func (s *service) putFile(ctx context.Context, tenant work.Tenant, from fs.FS, name string) (work.Digest, int64, error) {
	f, err := from.Open(name)
	if err != nil {
		return "", 0, fault.Wrap(fault.Internal, err, "pack file %s", name)
	}
	defer f.Close()
	return s.Blobs.Put(ctx, tenant, f)
}

// publish records a pack. The same pack again is no change; a version that has another content is refused, since versions never change.
func (s *service) publish(ctx context.Context, tenant work.Tenant, p api.Pack) (api.Pack, error) {
	if earlier, err := s.pack(ctx, tenant, p.Digest); err == nil {
		return earlier, nil
	} else if fault.CodeOf(err) != fault.NotFound {
		return p, err
	}
	var changes []store.RecordChange
	add := func(kind, id string, v any) error {
		raw, err := json.Marshal(v)
		changes = append(changes, store.RecordChange{Record: store.Record{Tenant: tenant, Kind: kind, ID: id, Doc: raw}})
		return err
	}
	err := add(store.PackKind, p.Digest, p)
	if released := p.Version != unversioned; released && err == nil {
		err = add(kindRelease, p.Name+"@"+p.Version, p.Digest)
	}
	if err != nil {
		return p, fault.Wrap(fault.Internal, err, "record the pack")
	}
	err = s.Store.Change(ctx, changes...)
	if fault.CodeOf(err) == fault.Conflict && p.Version != unversioned {
		return p, fault.New(fault.Conflict, "%s@%s was published with other content", p.Name, p.Version).WithHint("give the pack another version")
	}
	return p, err
}

// unpack writes the files of a tar into a folder. Links and devices are refused, and so is whatever lies outside.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a folder for the pack")
	}
	defer root.Close()
	in := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return err
		}
		if err != nil {
			return fault.New(fault.Invalid, "the body is not a tar: %v", err)
		}
		name := path.Clean(h.Name)
		switch {
		case n > 2*pack.MaxFiles:
			return fault.New(fault.Invalid, "a pack has at most %d files", pack.MaxFiles)
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg || !filepath.IsLocal(name) || strings.ContainsAny(name, "\x00\\"):
			return fault.New(fault.Invalid, "%q cannot be in a pack: it is no plain file inside", h.Name)
		}
		if err := writeFile(root, name, h.Mode&0o100 != 0, in); err != nil {
			return err
		}
	}
}

func (s *service) listPacks(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "packs")
	if err != nil {
		return err
	}
	rows, err := s.Store.Records(r.Context(), c.Tenant, store.PackKind, "", page.After, page.Limit+1)
	if err != nil {
		return err
	}
	out := api.PackList{Items: []api.Pack{}}
	if len(rows) > page.Limit {
		rows = rows[:page.Limit]
		out.NextPageToken = page.Next(rows[page.Limit-1].ID)
	}
	for _, row := range rows {
		var p api.Pack
		if err := json.Unmarshal(row.Doc, &p); err != nil {
			return fault.Wrap(fault.Internal, err, "a pack")
		}
		out.Items = append(out.Items, p)
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) getPack(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	p, err := s.pack(r.Context(), c.Tenant, r.PathValue("digest"))
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, p)
}
