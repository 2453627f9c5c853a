package worker

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/sandbox/workspace"
	"orrery.example/orrery/internal/work"
)

// maxValues bounds what a step may hand on as values; more belongs into a file.
const maxValues = 256 << 10

// maxFiles bounds the files of one declared output.
const maxFiles = 10_000

// collect gathers and hashes what the step left behind. A declared output that is missing or wrong fails the attempt.
func (a *attempt) collect(ctx context.Context) {
	values, err := a.values()
	if err == nil {
		err = a.declared(values)
	}
	if err == nil {
		err = a.artifacts(ctx)
	}
	if err != nil {
		a.report.Outputs, a.report.Artifacts = nil, nil
		a.refuse(work.EndedByOutput, "output", err)
	}
}

// values reads the file that the step wrote its values to: NAME=value lines, or one JSON object.
func (a *attempt) values() (map[string]any, error) {
	root, err := os.OpenRoot(a.dir)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "workspace")
	}
	defer root.Close()
	info, err := root.Lstat(outputFile)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]any{}, nil
	}
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxValues {
		return nil, fault.New(fault.Invalid, "$ORRERY_OUTPUT must be a plain file of at most %d bytes", maxValues).
			WithHint("declare an output with a path for anything larger")
	}
	raw, err := root.ReadFile(outputFile)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "$ORRERY_OUTPUT")
	}
	return parseValues(raw)
}

func parseValues(raw []byte) (map[string]any, error) {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && trimmed[0] == '{' {
		d := json.NewDecoder(bytes.NewReader(trimmed))
		d.UseNumber()
		var v map[string]any
		if err := d.Decode(&v); err != nil {
			return nil, fault.New(fault.Invalid, "$ORRERY_OUTPUT looks like JSON but is not one object: %v", err)
		}
		if d.More() {
			return nil, fault.New(fault.Invalid, "$ORRERY_OUTPUT has more than one JSON value")
		}
		return v, nil
	}
	out := map[string]any{}
	scan := bufio.NewScanner(bytes.NewReader(raw))
	scan.Buffer(nil, maxValues)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSuffix(scan.Text(), "\r")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fault.New(fault.Invalid, "$ORRERY_OUTPUT line %d is not NAME=value", n)
		}
		out[name] = value
	}
	return out, scan.Err()
}

// declared keeps the values that the plan declares, in the types it declares. What else the step wrote is dropped.
func (a *attempt) declared(values map[string]any) error {
	kept := map[string]any{}
	for _, o := range a.spec.Outputs {
		if o.Path != "" {
			continue
		}
		v, ok := values[o.Name]
		if !ok {
			if o.Optional {
				continue
			}
			return fault.New(fault.Invalid, "the step did not write its output %q to $ORRERY_OUTPUT", o.Name)
		}
		typed, err := typedValue(o, v)
		if err != nil {
			return err
		}
		kept[o.Name] = typed
	}
	if len(kept) == 0 {
		return nil
	}
	raw, err := canonical.Marshal(kept)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "outputs")
	}
	if masked := a.mask(string(raw)); masked != string(raw) {
		return fault.New(fault.Invalid, "an output holds a secret; outputs are kept in history and evidence").
			WithHint("hand on a reference, or read the secret again where it is needed")
	}
	a.report.Outputs = raw
	return nil
}

func typedValue(o work.StepOutput, v any) (any, error) {
	s, isText := v.(string)
	wrong := fault.New(fault.Invalid, "output %q is not of type %s", o.Name, o.Type)
	switch o.Type {
	case "", "string":
		if isText {
			return s, nil
		}
		return fmt.Sprint(v), nil
	case "integer":
		n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
		if err != nil {
			return nil, wrong
		}
		return n, nil
	case "boolean":
		b, err := strconv.ParseBool(fmt.Sprint(v))
		if err != nil {
			return nil, wrong
		}
		return b, nil
	default:
		if isText {
			d := json.NewDecoder(strings.NewReader(s))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				return nil, wrong
			}
		}
		return wholeNumbers(v), nil
	}
}

// wholeNumbers turns numbers with a fraction into their text: hashed documents hold none.
func wholeNumbers(v any) any {
	switch x := v.(type) {
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n
		}
		return x.String()
	case []any:
		for i := range x {
			x[i] = wholeNumbers(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = wholeNumbers(x[k])
		}
	}
	return v
}

// artifacts stores the files that the plan declares, by what this worker hashes them to.
func (a *attempt) artifacts(ctx context.Context) error {
	for _, o := range a.spec.Outputs {
		if o.Path == "" {
			continue
		}
		if err := a.gather(ctx, o); err != nil {
			return err
		}
	}
	slices.SortFunc(a.report.Artifacts, func(x, y work.Artifact) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Path, y.Path))
	})
	return nil
}

func (a *attempt) gather(ctx context.Context, o work.StepOutput) error {
	found, err := workspace.Collect(a.dir, []string{o.Path}, workspace.Limits{Files: maxFiles})
	if err != nil {
		return err
	}
	defer found.Close()
	if len(found.Files) == 0 && !o.Optional {
		return fault.New(fault.Invalid, "the step left nothing at %q for its output %q", o.Path, o.Name)
	}
	for _, f := range found.Files {
		if err := a.patiently(ctx, func() error { return a.keep(ctx, o.Name, f) }); err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) keep(ctx context.Context, name string, f workspace.File) error {
	if err := a.harmless(name, f); err != nil {
		return err
	}
	r, err := f.Open()
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "output %s", f.Path)
	}
	defer r.Close()
	digest, size, err := a.w.blobs.Put(ctx, a.grant.Tenant, r)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "output %s", f.Path)
	}
	a.report.Artifacts = append(a.report.Artifacts, work.Artifact{
		Name: name, Path: path.Clean(f.Path), Digest: digest, Size: size, Executable: f.Mode&0o100 != 0,
	})
	return nil
}

// harmless refuses a file with a secret in it or in its name: files are kept, and go into the evidence as they are.
func (a *attempt) harmless(output string, f workspace.File) error {
	if len(a.rendered.secrets) == 0 {
		return nil
	}
	found := a.mask(f.Path) != f.Path
	if !found {
		r, err := f.Open()
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "output %s", f.Path)
		}
		defer r.Close()
		plain, masked := sha256.New(), sha256.New()
		search := a.redactor.Writer(masked)
		if _, err = io.Copy(io.MultiWriter(plain, search), r); err == nil {
			err = search.Close()
		}
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "output %s", f.Path)
		}
		found = !bytes.Equal(plain.Sum(nil), masked.Sum(nil))
	}
	if found {
		return fault.New(fault.Invalid, "the file %q of output %q holds a secret; outputs are kept and go into the evidence", f.Path, output).
			WithHint("hand on a reference, or read the secret again where it is needed")
	}
	return nil
}
