package manifest

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"orrery.example/orrery/internal/canonical"
)

// value turns a node into a plain JSON value. It keeps nothing that YAML readers understand differently.
func (r *reader) value(n *yaml.Node, what string) any {
	switch n.Kind {
	case yaml.MappingNode:
		out := make(map[string]any, len(n.Content)/2)
		for _, f := range r.fields(n, what) {
			out[f.name] = r.value(f.value, what)
		}
		return out
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for _, e := range n.Content {
			out = append(out, r.value(e, what))
		}
		return out
	case yaml.ScalarNode:
		return r.scalar(n)
	default:
		return nil
	}
}

func (r *reader) scalar(n *yaml.Node) any {
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if !decimal.MatchString(n.Value) || err != nil || v > canonical.MaxInteger || v < -canonical.MaxInteger {
			r.problem(n, "put it in quotes, or write it as a plain decimal number of at most 15 digits", "readers do not agree on what the number %s is", n.Value)
			return int64(0)
		}
		return v
	case "!!float":
		r.problem(n, "put it in quotes; it is then handed on as it stands", "a number with a fraction (%s) cannot be hashed", n.Value)
		return int64(0)
	default:
		return n.Value
	}
}

// json returns the canonical form of a value.
func (r *reader) json(n *yaml.Node, what string) []byte {
	raw, err := canonical.Marshal(r.value(n, what))
	if err != nil {
		r.problem(n, "", "%s: %v", what, err)
		return []byte("null")
	}
	return raw
}

// strings returns a mapping of texts whose names follow a rule.
func (r *reader) stringMap(n *yaml.Node, what string) map[string]string {
	out := map[string]string{}
	for _, f := range r.fields(n, what) {
		out[f.name] = r.text(f.value, what+"."+f.name)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

const longest = 10 * 366 * 24 * 3600 * 1000 // milliseconds; ten years

// duration returns milliseconds. It reads 90s, 1h30m, 2d, 500ms and the ISO 8601 forms without years and months.
func (r *reader) duration(n *yaml.Node, what string) int64 {
	text := r.text(n, what)
	ms, ok := milliseconds(text)
	switch {
	case ok && ms > 0 && ms <= longest:
		return ms
	case ok && ms > longest:
		r.problem(n, "", "%s can be ten years at most", what)
	case decimal.MatchString(text):
		r.problem(n, "write "+text+"s for seconds, "+text+"m for minutes", "%s needs a unit", what)
	default:
		r.problem(n, "durations are written 500ms, 90s, 1h30m, 2d or PT4H", "%s cannot be %q", what, text)
	}
	return 1
}

func milliseconds(text string) (int64, bool) {
	if m := isoDuration.FindStringSubmatch(text); m != nil && text != "P" && !strings.HasSuffix(text, "T") {
		total := int64(0)
		for i, unit := range []int64{86_400_000, 3_600_000, 60_000, 1000} {
			if m[i+1] != "" {
				v, err := strconv.ParseInt(m[i+1], 10, 64)
				if err != nil || v > longest/unit+1 {
					return longest + 1, true
				}
				total += v * unit
			}
		}
		return total, true
	}
	units := []string{"d", "h", "m", "s", "ms"}
	sizes := []int64{86_400_000, 3_600_000, 60_000, 1000, 1}
	total, next := int64(0), 0
	for rest := text; ; {
		m := durationPart.FindStringSubmatch(rest)
		if m == nil {
			return total, rest == "" && text != ""
		}
		unit := slices.Index(units, m[2])
		if unit < next {
			return 0, false
		}
		v, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || v > longest/sizes[unit]+1 {
			return longest + 1, true
		}
		total += v * sizes[unit]
		next, rest = unit+1, rest[len(m[0]):]
	}
}

// bytes returns a size: 512Mi and the like in powers of two, 500M in powers of ten, a plain number in bytes.
func (r *reader) bytes(n *yaml.Node, what string) int64 {
	text := r.text(n, what)
	m := size.FindStringSubmatch(text)
	if m == nil {
		r.problem(n, "sizes are written 512Mi, 2Gi, 500M or as a plain number of bytes", "%s cannot be %q", what, text)
		return 1
	}
	factor := int64(1)
	switch strings.TrimSuffix(m[2], "B") {
	case "Ki":
		factor = 1 << 10
	case "Mi":
		factor = 1 << 20
	case "Gi":
		factor = 1 << 30
	case "Ti":
		factor = 1 << 40
	case "k", "K":
		factor = 1e3
	case "M":
		factor = 1e6
	case "G":
		factor = 1e9
	case "T":
		factor = 1e12
	}
	v, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || v < 1 || v > canonical.MaxInteger/factor {
		r.problem(n, "", "%s must be between 1 byte and 8 pebibytes, not %s", what, text)
		return 1
	}
	return v * factor
}

// relative returns a clean path that stays inside of the folder it is relative to. A slash at the end is kept.
func (r *reader) relative(n *yaml.Node, what string) string {
	before := len(r.problems) + r.more
	p := r.text(n, what)
	if len(r.problems)+r.more > before {
		return ""
	}
	clean := path.Clean(p)
	switch {
	case p == "" || strings.ContainsAny(p, "\x00\\"):
		r.problem(n, "write a relative path with forward slashes", "%s cannot be %q", what, p)
	case path.IsAbs(p) || len(p) > 1 && p[1] == ':':
		r.problem(n, "paths are relative to the folder of the step or of the manifest", "%s must not be absolute (%s)", what, p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		r.problem(n, "a path stays inside of its folder", "%s leaves its folder (%s)", what, p)
	}
	if strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return clean
}
