package plan

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/expression"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
	"orrery.example/orrery/internal/work"
)

// subPack puts the steps of another manifest into the plan, under the id of the step and a slash.
func (b *builder) subPack(p *place, n *node) {
	s := n.step
	wrong := func(format string, args ...any) *fault.Error { return p.manifest.Fault(s.PathPos, format, args...) }
	file, data, err := b.find(path.Join(p.folder, s.Path))
	if err != nil {
		b.problems.add(wrong("the pack %q cannot be read: %v", s.Path, err).
			WithHint("write the path of a folder with a pack.yaml, or of a manifest, from the folder of this file on"))
		return
	}
	if slices.Contains(p.chain, file) {
		b.problems.add(wrong("the pack %q contains itself: %s", s.Path, strings.Join(append(p.chain, file), " → ")))
		return
	}
	if len(p.chain) > MaxNested {
		b.problems.add(wrong("packs lie more than %d levels inside each other", MaxNested))
		return
	}
	m, err := manifest.Parse(file, data)
	if err != nil {
		b.problems.join(err)
		return
	}
	folder := path.Dir(file)
	if folder == "." {
		folder = ""
	}
	inner := &place{manifest: m, folder: folder, chain: append(slices.Clone(p.chain), file)}
	if e := b.fitsInside(m); e != "" {
		b.problems.add(wrong("the pack %q %s", s.Path, e).WithHint("only the outermost pack decides about that"))
		return
	}
	var files []work.File
	for _, f := range b.plan.Files {
		if rest, ok := strings.CutPrefix(f.Path, prefixed(folder)); ok {
			f.Path = rest
			files = append(files, f)
		}
	}
	spec := *s.Spec.Pack
	spec.Ref = &work.PackRef{Name: m.Name, Version: m.Version, Digest: PackDigest(data, files)}
	spec.ContinueOnError = spec.ContinueOnError || m.ContinueOnError
	for _, o := range m.Outputs {
		spec.Outputs = append(spec.Outputs, o.RunOutput)
	}
	n.spec.Pack = &spec
	b.hand(p, n, m)
	b.list(inner, n, n.inner, m.Steps, n.spec.Finally)
}

// find reads a manifest that is named by its folder or itself.
func (b *builder) find(name string) (string, []byte, error) {
	if b.source.FS == nil {
		return "", nil, fault.New(fault.NotFound, "the pack has no folder")
	}
	if info, err := fs.Stat(b.source.FS, name); err == nil && info.IsDir() {
		name = path.Join(name, ManifestFile)
	}
	data, err := fs.ReadFile(b.source.FS, name)
	if err != nil {
		return "", nil, err
	}
	return name, data, b.travels(name, data)
}

// travels holds what was read now to what will travel with the pack.
func (b *builder) travels(name string, data []byte) error {
	listed, ok := b.files[name]
	if !ok {
		return fault.New(fault.Invalid, "%s is not among the files of the pack; check .packignore", name)
	}
	if listed.Digest != canonical.Digest(data) {
		return fault.New(fault.Conflict, "%s changed while the pack was read", name)
	}
	return nil
}

// fitsInside says what keeps a pack from being part of another, as the rest of a sentence, or "".
func (b *builder) fitsInside(m *manifest.Manifest) string {
	switch {
	case len(m.Finally) > 0:
		return "has finally steps"
	case m.TimeoutMs > 0:
		return "has a time limit of its own"
	case m.Concurrency != nil:
		return "has a concurrency key of its own"
	case m.MaxParallel > 0:
		return "limits how many steps run at once"
	case m.Sealed && !b.plan.Sealed:
		return "is sealed, while the one around it is not"
	default:
		return ""
	}
}

// hand checks what a sub-pack is given against what it declares, and writes its defaults out.
func (b *builder) hand(p *place, n *node, m *manifest.Manifest) {
	s, spec := n.step, n.spec.Pack
	spec.With, spec.Secrets = map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.With)) {
		v := s.With[name]
		in := m.Input(name)
		switch {
		case in == nil:
			e := p.manifest.Fault(v.Pos, "the pack %q has no input %q", s.Path, name)
			e.Hint = manifest.Choices(name, inputNames(m))
			b.problems.add(e)
		case in.Type == "secret":
			b.problems.add(p.manifest.Fault(v.Pos, "the input %q of %q is a secret", name, s.Path).WithHint("hand it over under secrets:"))
		default:
			text, err := handed(in, v)
			if err != nil {
				b.problems.add(p.manifest.Fault(v.Pos, "the value of input %q %v", name, err))
			}
			spec.With[name] = text
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		in := m.Input(name)
		if in == nil || in.Type != "secret" {
			b.problems.add(p.manifest.Fault(s.Secrets[name].Pos, "the pack %q has no secret input %q", s.Path, name))
			continue
		}
		spec.Secrets[name] = s.Secrets[name].Text
	}
	for i := range m.Inputs {
		in := &m.Inputs[i]
		_, given := s.With[in.Name]
		_, secret := s.Secrets[in.Name]
		switch {
		case given || secret:
		case in.Default != nil:
			spec.With[in.Name] = literal(in.Default)
		case in.Required:
			b.problems.add(p.manifest.Fault(s.PathPos, "the pack %q needs the input %q", s.Path, in.Name).
				WithHint("add it under %s:", map[bool]string{true: "secrets", false: "with"}[in.Type == "secret"]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.With)) {
		if _, err := expression.CompileTemplate(spec.With[name]); err != nil {
			b.problems.add(p.manifest.Fault(s.PathPos, "the value of input %q cannot be handed to %q: %v", name, s.Path, err).
				WithHint("hand large values over as files"))
		}
	}
	if len(spec.With) == 0 {
		spec.With = nil
	}
	if len(spec.Secrets) == 0 {
		spec.Secrets = nil
	}
}

// handed turns the value that a sub-pack is given into a template. A value without expressions is checked at once.
func handed(in *manifest.Input, v manifest.Value) (string, error) {
	plain, err := fromJSON(in, v.JSON)
	if err != nil {
		return "", err
	}
	text, isText := plain.(string)
	if isText && expression.HasExpression(text) {
		return text, nil
	}
	if holdsTemplate(plain) {
		return "", fmt.Errorf("mixes expressions into a list or map; write the whole value as one expression")
	}
	switch {
	case isText:
		plain, err = convert(in, manifestText(text))
	case in.Type == "string":
		switch plain.(type) {
		case int64, bool:
			plain = fmt.Sprint(plain)
		}
	}
	if err != nil {
		return "", err
	}
	if err := in.Check(plain); err != nil {
		return "", err
	}
	raw, err := canonical.Marshal(plain)
	if err != nil {
		return "", err
	}
	return literal(raw), nil
}

func manifestText(text string) InputValue {
	return InputValue{Text: strings.ReplaceAll(text, "$${{", "${{")}
}

func holdsTemplate(v any) bool {
	switch v := v.(type) {
	case string:
		return expression.HasExpression(v)
	case []any:
		return slices.ContainsFunc(v, holdsTemplate)
	case map[string]any:
		for _, e := range v {
			if holdsTemplate(e) {
				return true
			}
		}
	}
	return false
}

// literal writes a value as a template that yields it with its type. Canonical JSON is an expression as it stands.
func literal(raw []byte) string {
	if raw[0] == '"' {
		if v, err := fromJSON(&manifest.Input{}, raw); err == nil {
			return strings.ReplaceAll(v.(string), "${{", "$${{")
		}
	}
	return "${{ " + string(raw) + " }}"
}
