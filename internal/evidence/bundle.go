package evidence

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// Manifest lists every file of a bundle but itself, its signature and SHA256SUMS.
type Manifest struct {
	FormatVersion string      `json:"formatVersion"`
	Tenant        work.Tenant `json:"tenant"`
	RunID         work.RunID  `json:"runId"`
	PlanHash      work.Digest `json:"planHash"`
	Status        work.State  `json:"status"`
	Files         []FileEntry `json:"files"` // sorted by path
}

// FileEntry is one file of a bundle.
type FileEntry struct {
	Path      string `json:"path"`
	Size      int64  `json:"size"`
	SHA256    string `json:"sha256"` // 64 hexadecimal digits
	MediaType string `json:"mediaType"`
	Redacted  bool   `json:"redacted,omitempty"` // secrets were taken out of it
}

// Bundle is the evidence of one run, in memory.
type Bundle struct {
	Manifest Manifest

	files map[string][]byte
	ended time.Time
}

// Build makes the bundle of a record and has the attestor sign it. Errors: fault.Unverified when the record contradicts
// itself, fault.Conflict when the run has not ended, those of the log, of Outputs.Fetch and of the signer.
func Build(ctx context.Context, r *Record, attestor keyring.Signer) (*Bundle, error) {
	h, err := read(r)
	if err != nil {
		return nil, err
	}
	b := &Bundle{files: h.files, ended: time.Unix(int64(r.Run.Ended)/1_000_000, 0)}
	for _, add := range []func() error{
		func() error { return b.documents(h) },
		func() error { return b.transcripts(r) },
		func() error { return b.outputs(h) },
		func() error { return b.attest(ctx, h, attestor) },
		func() error { return b.sign(ctx, h, attestor) },
	} {
		if err := add(); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "evidence of run %s", r.Run.ID)
		}
	}
	return b, nil
}

// Identify returns what a written bundle says of itself, unchecked. Errors: fault.Invalid when it is none.
func Identify(bundle io.Reader) (Manifest, error) {
	files := tar.NewReader(bundle)
	for {
		head, err := files.Next()
		if err != nil {
			return Manifest{}, fault.New(fault.Invalid, "no bundle: there is no %s: %w", ManifestFile, err)
		}
		if head.Name != ManifestFile {
			continue
		}
		var m Manifest
		if err := json.NewDecoder(io.LimitReader(files, maxDocument)).Decode(&m); err != nil {
			return Manifest{}, fault.New(fault.Invalid, "no bundle: %s: %w", ManifestFile, err)
		}
		return m, nil
	}
}

// File returns the bytes of a file of the bundle, nil when there is none.
func (b *Bundle) File(path string) []byte { return b.files[path] }

// documents adds what is taken over from the record.
func (b *Bundle) documents(h *history) error {
	r := h.record
	b.files[PlanFile], b.files[TimelineFile], b.files[EgressFile] = r.Plan, h.timeline, h.egress
	b.files[LeafFile], b.files[CheckpointFile] = h.leaf, r.Seal.Checkpoint
	if r.Request != nil {
		e, err := dsse.Decode(r.Request)
		if err != nil {
			return err
		}
		b.files[RequestFile] = e.Encode()
	}
	inputs := h.plan.Inputs
	if inputs == nil {
		inputs = []work.Input{}
	}
	var err error
	if b.files[InputsFile], err = canonical.MarshalUpTo(inputs, maxDocument); err != nil {
		return err
	}
	if b.files[ProofFile], err = canonical.Marshal(r.Seal.Position); err != nil {
		return err
	}
	b.files[TrustFile], err = r.Trust.Encode()
	return err
}

// transcripts adds the log, one file for each step.
func (b *Bundle) transcripts(r *Record) error {
	if r.Log == nil {
		return nil
	}
	lines := map[string]*bytes.Buffer{}
	last := int64(0)
	for line, err := range r.Log {
		if err != nil {
			return err
		}
		if line.Run != r.Run.ID || line.Seq <= last {
			return fault.New(fault.Unverified, "log line %d of run %s does not follow line %d of run %s", line.Seq, line.Run, last, r.Run.ID)
		}
		last = line.Seq
		raw, err := canonical.Marshal(line)
		if err != nil {
			return err
		}
		name := runTranscript
		if line.Step != "" {
			name = StepFile(line.Step)
		}
		if lines[name] == nil {
			lines[name] = &bytes.Buffer{}
		}
		lines[name].Write(raw)
		lines[name].WriteByte('\n')
	}
	for name, text := range lines {
		b.files["transcripts/"+name+".ndjson"] = text.Bytes()
	}
	return nil
}

// outputsDocument is outputs.json.
type outputsDocument struct {
	Run   rawOrNull     `json:"run"` // the values of the run's outputs
	Files []outputEntry `json:"files"`
}

type outputEntry struct {
	Step       work.StepID `json:"step"`
	Name       string      `json:"name"`
	Path       string      `json:"path"`
	Digest     work.Digest `json:"digest"`
	Size       int64       `json:"size"`
	Executable bool        `json:"executable,omitempty"`
	File       string      `json:"file,omitempty"` // in the bundle, when its bytes are
}

type rawOrNull []byte

// MarshalJSON writes the value, or null for none.
func (r rawOrNull) MarshalJSON() ([]byte, error) {
	if len(r) == 0 {
		return []byte("null"), nil
	}
	return r, nil
}

// outputs lists what the steps left, and adds as many of the bytes as the limit allows.
func (b *Bundle) outputs(h *history) error {
	doc := outputsDocument{Run: rawOrNull(h.ended.Outputs), Files: []outputEntry{}}
	sizes := map[work.Digest]int64{}
	for _, s := range h.steps {
		for _, a := range s.Artifacts {
			doc.Files = append(doc.Files, outputEntry{s.ID, a.Name, a.Path, a.Digest, a.Size, a.Executable, ""})
			sizes[a.Digest] = a.Size
		}
	}
	left := h.record.Outputs.Limit
	for _, d := range slices.Sorted(maps.Keys(sizes)) {
		if h.record.Outputs.Fetch == nil || sizes[d] > left {
			continue
		}
		raw, err := h.record.Outputs.Fetch(d)
		if err != nil {
			return err
		}
		if int64(len(raw)) != sizes[d] || canonical.Digest(raw) != d {
			return fault.New(fault.Unverified, "the stored bytes of output %s are others", d.Short())
		}
		left -= sizes[d]
		b.files["outputs/"+d.Hex()] = raw
	}
	for i := range doc.Files {
		if name := "outputs/" + doc.Files[i].Digest.Hex(); b.files[name] != nil {
			doc.Files[i].File = name
		}
	}
	raw, err := canonical.MarshalUpTo(doc, maxDocument)
	b.files[OutputsFile] = raw
	return err
}

// attest adds the signed statements.
func (b *Bundle) attest(ctx context.Context, h *history, by keyring.Signer) error {
	statements := []struct {
		file, payloadType string
		make              func() ([]byte, error)
	}{{PackRunFile, PayloadPackRun, h.packRun}, {RunFile, PayloadStatement, h.runStatement}}
	if h.ended.State == work.Succeeded {
		statements = append(statements, struct {
			file, payloadType string
			make              func() ([]byte, error)
		}{ProvenanceFile, PayloadStatement, h.provenance})
	}
	for _, s := range statements {
		payload, err := s.make()
		if err != nil {
			return err
		}
		e, err := by.Sign(ctx, s.payloadType, payload)
		if err != nil {
			return err
		}
		b.files[s.file] = e.Encode()
	}
	return nil
}

// sign adds the manifest, its signature and the list for sha256sum.
func (b *Bundle) sign(ctx context.Context, h *history, by keyring.Signer) error {
	r := h.record.Run
	b.Manifest = Manifest{FormatVersion: FormatVersion, Tenant: r.Tenant, RunID: r.ID, PlanHash: r.PlanHash, Status: r.State}
	var sums bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		raw := b.files[name]
		media, redacted := mediaType(name)
		sum := canonical.Digest(raw).Hex()
		b.Manifest.Files = append(b.Manifest.Files, FileEntry{name, int64(len(raw)), sum, media, redacted})
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
	}
	raw, err := canonical.MarshalUpTo(b.Manifest, maxDocument)
	if err != nil {
		return err
	}
	e, err := by.Sign(ctx, PayloadManifest, raw)
	if err != nil {
		return err
	}
	fmt.Fprintf(&sums, "%s  %s\n", canonical.Digest(raw).Hex(), ManifestFile)
	b.files[ManifestFile], b.files[ManifestSigned], b.files[SumsFile] = raw, e.Encode(), sums.Bytes()
	return nil
}

// mediaType returns what a file is, and whether secrets were taken out of it.
func mediaType(name string) (media string, redacted bool) {
	folder, _ := path.Split(name)
	switch {
	case folder == "outputs/":
		return mediaBytes, false
	case folder == "transcripts/":
		return mediaLines, true
	case name == InputsFile:
		return mediaJSON, true
	case name == CheckpointFile:
		return mediaNote, false
	case path.Ext(name) == ".ndjson":
		return mediaLines, false
	case bytes.HasSuffix([]byte(name), []byte(".dsse.json")):
		return mediaEnvelope, false
	default:
		return mediaJSON, false
	}
}

// WriteTo writes the bundle as a tar file: USTAR, files sorted by name, with the second of the run's end as their time and
// nobody as their owner.
func (b *Bundle) WriteTo(w io.Writer) (int64, error) {
	count := &counter{to: w}
	archive := tar.NewWriter(count)
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		raw := b.files[name]
		err := archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: name, Size: int64(len(raw)), Mode: 0o644, ModTime: b.ended, Format: tar.FormatUSTAR,
		})
		if err == nil {
			_, err = archive.Write(raw)
		}
		if err != nil {
			return count.n, fault.Wrap(cmp.Or(fault.CodeOf(err), fault.Internal), err, "write %s of the bundle", name)
		}
	}
	return count.n, archive.Close()
}

type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
