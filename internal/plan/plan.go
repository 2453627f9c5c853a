// Package plan turns a manifest and its inputs into the plan: an ordered graph that is hashed, approved and executed as it is.
//
// A plan says everything that decides what happens: sub-packs are in place, defaults are written out, inputs have their
// values, files have their digests. Its steps say nothing that does not: no display text, no formatting, no order of keys.
// The digest of the pack is part of the plan, so the hash also stands for the text that the plan was made of. A secret is
// in it as the reference where a worker finds it, never as a value.
package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// The bounds of a plan.
const (
	MaxBytes  = 256 << 20
	MaxNested = 8 // sub-packs inside each other
)

// Source is a pack that is planned.
type Source struct {
	Manifest *manifest.Manifest
	Path     string      // of the manifest inside of FS
	Digest   work.Digest // of the pack, from PackDigest
	Files    []work.File // what travels with the pack, from the root of FS on
	FS       fs.FS       // for sub-packs and schemas; nil for a pack that has neither
}

// Built is a plan and its spellings.
type Built struct {
	Plan      *work.Plan
	Canonical []byte // what is hashed and kept
	Hash      work.Digest
	Display   map[work.StepID]Text // what is shown beside a step but means nothing
}

// Text is what an author wrote for people.
type Text struct {
	Name    string `json:"name,omitempty"`
	Message string `json:"message,omitempty"` // of a gate
}

// SourceOf makes a Source of a manifest and the text that it was parsed from. The files are those that travel with the pack, hashed by
// the caller; the manifest may be among them.
func SourceOf(m *manifest.Manifest, data []byte, fsys fs.FS, path string, files []work.File) Source {
	files = sortedFiles(files)
	return Source{Manifest: m, Path: path, Digest: PackDigest(data, files), Files: files, FS: fsys}
}

// Build plans a pack with inputs. The error is manifest.Problems with everything that is wrong, up to
// manifest.MaxProblems, or a fault of another code when something could not be read.
func Build(src Source, inputs map[string]InputValue) (*Built, error) {
	b := newBuilder(src)
	b.inputs(inputs)
	b.pack()
	if err := b.problems.err(); err != nil {
		return nil, err
	}
	raw, err := Encode(b.plan)
	if err != nil {
		return nil, err
	}
	return &Built{Plan: b.plan, Canonical: raw, Hash: canonical.Digest(raw), Display: b.display}, nil
}

// Check does everything that Build does but for the inputs, so that a pack can be checked without having any.
func Check(src Source) error {
	b := newBuilder(src)
	b.pack()
	return b.problems.err()
}

// Encode returns the canonical form of a plan.
func Encode(p *work.Plan) ([]byte, error) {
	raw, err := canonical.MarshalUpTo(p, MaxBytes)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the plan has no canonical form")
	}
	return raw, nil
}

// Decode reads a plan from its canonical form and from nothing else: every byte must be what Encode would write. The
// error is fault.Invalid.
func Decode(raw []byte) (*work.Plan, error) {
	if len(raw) > MaxBytes {
		return nil, fault.New(fault.Invalid, "the plan has %d bytes, more than the %d allowed", len(raw), MaxBytes)
	}
	if err := canonical.CheckUpTo(raw, MaxBytes); err != nil {
		return nil, err
	}
	var p work.Plan
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return nil, fault.New(fault.Invalid, "this is no plan: %w", err)
	}
	if p.Version != work.PlanVersion {
		return nil, fault.New(fault.Invalid, "the plan has version %q, this program reads %q", p.Version, work.PlanVersion)
	}
	again, err := Encode(&p)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, fault.New(fault.Invalid, "the plan is not in canonical form, at byte %d", firstDifference(again, raw))
	}
	return &p, nil
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// problems collects what is wrong, up to a bound.
type problems struct {
	list manifest.Problems
	more int
	hard error // something could not be read; it hides the rest
}

func (p *problems) add(e *fault.Error) {
	if len(p.list) >= manifest.MaxProblems {
		p.more++
		return
	}
	p.list = append(p.list, e)
}

func (p *problems) join(err error) {
	var list manifest.Problems
	if errors.As(err, &list) {
		for _, e := range list {
			p.add(e)
		}
		return
	}
	var e *fault.Error
	if errors.As(err, &e) {
		p.add(e)
		return
	}
	p.hard = err
}

func (p *problems) err() error {
	if p.hard != nil {
		return p.hard
	}
	if len(p.list) == 0 {
		return nil
	}
	if p.more > 0 {
		p.list = append(p.list, fault.New(fault.Invalid, "and %d problems more", p.more))
		p.more = 0
	}
	return p.list
}

func sortedFiles(files []work.File) []work.File {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b work.File) int { return strings.Compare(a.Path, b.Path) })
	return files
}
