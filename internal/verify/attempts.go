package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/work"
)

// stepFile returns how a step is called in file names; docs/reference/evidence.md has the rule.
func stepFile(id work.StepID) string {
	var b strings.Builder
	for i, c := range []byte(id) {
		plain := c == '-' || c == '_' || c == '.' && i > 0 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if plain {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() <= 64 {
		return b.String()
	}
	sum := sha256.Sum256([]byte(id))
	return b.String()[:31] + "~" + hex.EncodeToString(sum[:16])
}

type attemptKey struct {
	step    work.StepID
	attempt int
}

type transcript struct {
	lines int64
	hash  hash.Hash
}

// checkAttempts verifies what ran: the transcript of every attempt against the digest its worker reported, and that what
// was reported is possible.
func (b *bundle) checkAttempts() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know the attempts")
	}
	found, lines, err := b.transcripts()
	if err != nil {
		return "", err
	}
	reported := 0
	for _, s := range b.hist.steps {
		for _, a := range s.attempts {
			t := found[attemptKey{s.id, a.n}]
			delete(found, attemptKey{s.id, a.n})
			if a.report == nil {
				continue // what an attempt wrote before it was lost is bound by nothing
			}
			reported++
			if err := checkReport(a.report, t); err != nil {
				return "", wrong("attempt %d of %q: %s", a.n, s.id, err)
			}
		}
	}
	for key := range found {
		if key.attempt != 0 {
			return "", wrong("there is a transcript of attempt %d of %q, which the history does not know", key.attempt, key.step)
		}
	}
	return fmt.Sprintf("%s reported, %s of output as their workers saw them", work.Count(reported, "attempt"), work.Count(lines, "line")), nil
}

func checkReport(r *work.ReportedData, t *transcript) error {
	if t == nil {
		t = &transcript{hash: sha256.New()}
	}
	digest := work.Digest("sha256:" + hex.EncodeToString(t.hash.Sum(nil)))
	switch {
	case r.Transcript.Lines != t.lines:
		return fmt.Errorf("the transcript has %d lines, its worker reported %d", t.lines, r.Transcript.Lines)
	case r.Transcript.Digest != digest && (t.lines > 0 || r.Transcript.Digest != ""):
		return fmt.Errorf("the transcript is not the one its worker reported")
	case r.EndedAt < r.StartedAt:
		return fmt.Errorf("it ended before it started")
	case r.State == work.Succeeded && r.Reason.Code != work.EndedWell:
		return fmt.Errorf("it succeeded because of %s", r.Reason.Code)
	}
	for i, a := range r.Artifacts {
		if _, err := work.ParseDigest(string(a.Digest)); err != nil || a.Size < 0 {
			return fmt.Errorf("its output %q has no digest", a.Name)
		}
		if i > 0 && (a.Name < r.Artifacts[i-1].Name || a.Name == r.Artifacts[i-1].Name && a.Path <= r.Artifacts[i-1].Path) {
			return fmt.Errorf("its outputs are not sorted, or one stands there twice")
		}
	}
	return nil
}

// transcripts reads every line of output.
func (b *bundle) transcripts() (found map[attemptKey]*transcript, lines int64, err error) {
	found = map[attemptKey]*transcript{}
	seen := map[int64]bool{}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		file, ok := strings.CutPrefix(name, "transcripts/")
		if !ok {
			continue
		}
		last := int64(0)
		for raw := b.files[name].data; len(raw) > 0; {
			line, rest, ended := bytes.Cut(raw, []byte{'\n'})
			raw = rest
			var l work.LogLine
			if err := json.Unmarshal(line, &l); err != nil || !ended {
				return nil, 0, wrong("%s has a line that is no line of output", name)
			}
			again, err := canonical.Marshal(l)
			if err != nil || !bytes.Equal(again, line) {
				return nil, 0, wrong("%s has a line that is not spelled as lines are", name)
			}
			belongs := "~run.ndjson"
			if l.Step != "" {
				belongs = stepFile(l.Step) + ".ndjson"
			}
			if l.Run != b.manifest.RunID || l.Seq <= last || seen[l.Seq] || belongs != file {
				return nil, 0, wrong("line %d of run %s does not belong into %s at this place", l.Seq, l.Run, name)
			}
			last, seen[l.Seq] = l.Seq, true
			lines++
			t := found[attemptKey{l.Step, l.Attempt}]
			if t == nil {
				t = &transcript{hash: sha256.New()}
				found[attemptKey{l.Step, l.Attempt}] = t
			}
			t.lines++
			t.hash.Write([]byte(l.Message))
			t.hash.Write([]byte{'\n'})
		}
	}
	return found, lines, nil
}
