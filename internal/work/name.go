package work

import (
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// Tenant is the wall that nothing crosses. It is a type of its own so that a key without it does not compile.
type Tenant string

// LocalTenant owns everything in a data folder that is used without a server.
const LocalTenant Tenant = "local"

// RunID names one run for ever: "run_" and 26 characters of Crockford base32 that sort by time of creation.
type RunID string

// StepID names a step within its run. A step of the pack has the name its author gave it. A scope puts a prefix before
// it: "deploy/" for the sub-pack step deploy, "shard[3]::" for the fourth item of the map step shard. In a plan, where the
// items are not known yet, the prefix of a map is "shard[*]::".
type StepID string

// Digest is "sha256:" and 64 lower-case hexadecimal digits.
type Digest string

var errDigest = errors.New(`a digest is "sha256:" and 64 lower-case hexadecimal digits`)

// ParseDigest checks the form of s.
func ParseDigest(s string) (Digest, error) {
	rest, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(rest) != 64 || strings.ToLower(rest) != rest {
		return "", errDigest
	}
	if _, err := hex.DecodeString(rest); err != nil {
		return "", errDigest
	}
	return Digest(s), nil
}

// Hex returns the digits without the algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short returns the first twelve digits, for people.
func (d Digest) Short() string {
	h := d.Hex()
	if len(h) > 12 {
		h = h[:12]
	}
	return h
}

// Template returns the name the step has in the plan: every index of a map is a star.
func (id StepID) Template() StepID {
	s := string(id)
	if !strings.Contains(s, "]::") {
		return id
	}
	var b strings.Builder
	for {
		end := strings.Index(s, "]::")
		if end < 0 {
			b.WriteString(s)
			return StepID(b.String())
		}
		open := strings.LastIndexByte(s[:end], '[')
		if open < 0 {
			b.WriteString(s)
			return StepID(b.String())
		}
		b.WriteString(s[:open])
		b.WriteString("[*]::")
		s = s[end+3:]
	}
}

// Scope returns the prefix that the step shares with its siblings, "" at the top of the pack.
func (id StepID) Scope() string {
	s := string(id)
	slash := strings.LastIndexByte(s, '/')
	colons := strings.LastIndex(s, "::")
	if colons >= 0 {
		colons++
	}
	return s[:max(slash, colons)+1]
}

// Local returns the name within its scope, the one the author wrote.
func (id StepID) Local() string { return string(id)[len(id.Scope()):] }

// Indices returns the positions in the maps that the step is inside of, outermost first.
func (id StepID) Indices() []string {
	var out []string
	s := string(id)
	for {
		end := strings.Index(s, "]::")
		if end < 0 {
			return out
		}
		open := strings.LastIndexByte(s[:end], '[')
		out = append(out, s[open+1:end])
		s = s[end+3:]
	}
}

// Instantiate puts positions in the place of the stars of a plan's step, as many as it has.
func (id StepID) Instantiate(indices []string) StepID {
	s := string(id)
	if len(indices) == 0 || !strings.Contains(s, "[*]") {
		return id
	}
	var b strings.Builder
	for _, index := range indices {
		before, after, found := strings.Cut(s, "[*]")
		if !found {
			break
		}
		b.WriteString(before)
		b.WriteByte('[')
		b.WriteString(index)
		b.WriteByte(']')
		s = after
	}
	b.WriteString(s)
	return StepID(b.String())
}

// Count says how many there are of something, in words: "1 step", "2 steps". The noun is one with a plain plural.
func Count[N ~int | ~int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.FormatInt(int64(n), 10) + " " + noun + "s"
}
