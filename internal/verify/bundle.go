package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// Options say what the caller expects.
type Options struct {
	Tenant   work.Tenant // "" for any
	Run      work.RunID  // "" for any
	PlanHash work.Digest // "" for any
	Now      work.Time   // when the question is asked; zero means: at the end of the run
	MaxBytes int64       // of the bundle; zero means DefaultMaxBytes

	SignedResults bool // a result that its worker has not signed is missing something
}

// DefaultMaxBytes bounds a bundle. All but the bytes of outputs is held in memory.
const DefaultMaxBytes = 4 << 30

const (
	maxDocument = 128 << 20
	maxEnvelope = 256 << 20
)

// bundle is a bundle under examination.
type bundle struct {
	files    map[string]*member
	trust    keyring.Trust
	opts     Options
	mtime    int64
	manifest manifest
	plan     *work.Plan
	timeline []work.Event
	hist     *history
	report   *Report
}

// Bundle examines the bundle of a run, or of an audit stream, under the caller's trust root. It returns a report in any case; its Err gives the verdict as an
// error. An error of r other than the end counts as a failed check.
func Bundle(r io.Reader, trust keyring.Trust, opts Options) *Report {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	report := &Report{}
	defer report.conclude()
	files, mtime, err := readArchive(r, opts.MaxBytes)
	report.add("bundle", work.Count(len(files), "file")+", nothing besides", err)
	if err != nil {
		return report
	}
	b := &bundle{files: files, trust: trust, opts: opts, mtime: mtime, report: report}
	if isAudit(files) {
		b.audit()
		return report
	}
	for _, c := range []struct {
		name  string
		check func() (string, error)
	}{
		{"manifest", b.checkManifest},
		{"files", b.checkFiles},
		{"plan", b.checkPlan},
		{"events", b.checkChain},
		{"identity", b.checkIdentity},
		{"history", b.checkHistory},
		{"request", b.checkRequest},
		{"approvals", b.checkApprovals},
		{"policy", b.checkPolicies},
		{"attempts", b.checkAttempts},
		{"results", b.checkResults},
		{"inputs and outputs", b.checkValues},
		{"attestation of the run", b.checkRunAttestation},
		{"attestation of the pack run", b.checkPackRun},
		{"provenance", b.checkProvenance},
		{"ledger", b.checkLedger},
		{"keys of the producer", b.checkSnapshot},
	} {
		detail, err := c.check()
		report.add(c.name, detail, err)
	}
	return report
}

// file returns the bytes of a file. Error: fault.Incomplete.
func (b *bundle) file(name string) ([]byte, error) {
	m := b.files[name]
	if m == nil {
		return nil, absent("%s is not in the bundle", name)
	}
	return m.data, nil
}

// signed returns the payload of an envelope in the bundle, verified under the keys with the usage at the time at.
func (b *bundle) signed(name, payloadType string, usage keyring.Usage, at work.Time) ([]byte, keyring.Key, error) {
	raw, err := b.file(name)
	if err != nil {
		return nil, keyring.Key{}, err
	}
	return b.open(name, raw, payloadType, usage, at)
}

func (b *bundle) open(name string, raw []byte, payloadType string, usage keyring.Usage, at work.Time) ([]byte, keyring.Key, error) {
	e, err := dsse.DecodeUpTo(raw, maxEnvelope)
	if err != nil {
		return nil, keyring.Key{}, wrong("%s: %s", name, err)
	}
	if !bytes.Equal(e.Encode(), raw) {
		return nil, keyring.Key{}, wrong("%s is not spelled as envelopes are", name)
	}
	var batch dsse.Check // only submissions are signed in batches
	if payloadType == typeJob {
		batch = dsse.Holds
	}
	payload, id, err := dsse.VerifyMember(e, payloadType, b.trust.For(usage), batch)
	if err != nil {
		return nil, keyring.Key{}, fault.Wrap(fault.Unverified, err, "%s", name)
	}
	k, _ := b.trust.Find(id)
	if err := b.counts(k, at); err != nil {
		return nil, k, fault.Wrap(fault.Untrusted, err, "%s", name)
	}
	return payload, k, nil
}

// counts judges a key by the time of its signature. Error: fault.Untrusted.
func (b *bundle) counts(k keyring.Key, at work.Time) error {
	if at < k.NotBefore && (k.May(keyring.Attest) || k.May(keyring.Log)) {
		// The services sign at the end of the run or later, and do not say when: a newer key may have taken over by then.
		at = 0
	}
	now := b.opts.Now
	if now == 0 {
		now = max(at, k.NotBefore)
	}
	if v := keyring.Judge(k, keyring.Moment{At: at}, now); !v.Counts() {
		return fault.New(fault.Untrusted, "the key %.12s of %s does not count for a signature of that time: %s", k.ID, k.Name, v)
	}
	return nil
}

// strict reads a canonical document whose every field is known, so that it has one meaning.
func strict[T any](name string, raw []byte, into *T) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return wrong("%s is not of its type: %s", name, err)
	}
	again, err := canonical.MarshalUpTo(*into, maxDocument)
	if err != nil || !bytes.Equal(again, raw) {
		return wrong("%s is not canonical JSON with the fields of its type", name)
	}
	return nil
}

type manifest struct {
	FormatVersion string      `json:"formatVersion"`
	Tenant        work.Tenant `json:"tenant"`
	RunID         work.RunID  `json:"runId"`
	PlanHash      work.Digest `json:"planHash"`
	Status        work.State  `json:"status"`
	Files         []entry     `json:"files"`
}

type entry struct {
	Path      string `json:"path"`
	Size      int64  `json:"size"`
	SHA256    string `json:"sha256"`
	MediaType string `json:"mediaType"`
	Redacted  bool   `json:"redacted,omitempty"`
}

func (b *bundle) checkManifest() (string, error) {
	raw, err := b.file("manifest.json")
	if err != nil {
		return "", err
	}
	if err := strict("manifest.json", raw, &b.manifest); err != nil {
		return "", err
	}
	if v := b.manifest.FormatVersion; v != "orrery.evidence/v1" {
		return "", wrong("the bundle has format %q, this verifier knows orrery.evidence/v1", v)
	}
	at := work.Time(b.mtime*1_000_000 + 999_999) // a tar file keeps whole seconds
	payload, key, err := b.signed("manifest.dsse.json", "application/vnd.orrery.manifest+json", keyring.Attest, at)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(payload, raw) {
		return "", wrong("the signature is over another manifest")
	}
	return "signed by " + key.Name, nil
}

// checkFiles holds the files to the manifest, and SHA256SUMS to both.
func (b *bundle) checkFiles() (string, error) {
	if b.files["manifest.json"] == nil {
		return "", absent("there is no manifest to hold the files to")
	}
	listed := map[string]bool{"manifest.json": true, "manifest.dsse.json": true, "SHA256SUMS": true}
	var sums strings.Builder
	var gone []string
	for i, e := range b.manifest.Files {
		if i > 0 && e.Path <= b.manifest.Files[i-1].Path || listed[e.Path] {
			return "", wrong("the manifest lists %q out of order, twice, or at all", e.Path)
		}
		listed[e.Path] = true
		fmt.Fprintf(&sums, "%s  %s\n", e.SHA256, e.Path)
		switch m := b.files[e.Path]; {
		case m == nil:
			gone = append(gone, e.Path)
		case m.size != e.Size || m.sum != e.SHA256:
			return "", wrong("%s is not the file that the manifest lists", e.Path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		if !listed[name] {
			return "", wrong("%s is in the bundle, but not in the manifest", name)
		}
	}
	fmt.Fprintf(&sums, "%s  manifest.json\n", b.files["manifest.json"].sum)
	if m := b.files["SHA256SUMS"]; m == nil {
		gone = append(gone, "SHA256SUMS")
	} else if string(m.data) != sums.String() {
		return "", wrong("SHA256SUMS says something else than the manifest")
	}
	if len(gone) > 0 {
		return "", absent("missing: %s", strings.Join(gone, ", "))
	}
	return work.Count(len(b.manifest.Files), "file") + " as the manifest says", nil
}

func (b *bundle) checkPlan() (string, error) {
	raw, err := b.file("plan.json")
	if err != nil {
		return "", err
	}
	hash := canonical.Digest(raw)
	if hash != b.manifest.PlanHash {
		return "", wrong("plan.json hashes to %s, the bundle is about plan %s", hash.Short(), b.manifest.PlanHash.Short())
	}
	var p work.Plan
	if err := strict("plan.json", raw, &p); err != nil {
		return "", err
	}
	if p.Version != work.PlanVersion {
		return "", wrong("the plan has version %q, this verifier knows %q", p.Version, work.PlanVersion)
	}
	b.plan = &p
	return fmt.Sprintf("%s, %s", hash, work.Count(len(p.Steps), "step")), nil
}

// checkIdentity sees that everything speaks of the one run that the caller asks for.
func (b *bundle) checkIdentity() (string, error) {
	if len(b.timeline) == 0 {
		return "", absent("there is no history to compare with")
	}
	m, o, first := b.manifest, b.opts, b.timeline[0]
	last := b.timeline[len(b.timeline)-1]
	switch {
	case m.Tenant != first.Tenant || m.RunID != first.Run:
		return "", wrong("the manifest is about run %s of %s, the history about run %s of %s", m.RunID, m.Tenant, first.Run, first.Tenant)
	case o.Tenant != "" && o.Tenant != m.Tenant:
		return "", wrong("this is evidence of tenant %s, not %s", m.Tenant, o.Tenant)
	case o.Run != "" && o.Run != m.RunID:
		return "", wrong("this is evidence of run %s, not %s", m.RunID, o.Run)
	case o.PlanHash != "" && o.PlanHash != m.PlanHash:
		return "", wrong("this is evidence of plan %s, not %s", m.PlanHash, o.PlanHash)
	case b.mtime != int64(last.Time)/1_000_000:
		return "", wrong("the files carry another time than the end of the run")
	}
	b.report.Tenant, b.report.Run, b.report.PlanHash = m.Tenant, m.RunID, m.PlanHash
	return fmt.Sprintf("run %s of tenant %s", m.RunID, m.Tenant), nil
}
