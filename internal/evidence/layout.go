package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"orrery.example/orrery/internal/work"
)

// The files of a bundle.
const (
	ManifestFile   = "manifest.json"
	ManifestSigned = "manifest.dsse.json"
	SumsFile       = "SHA256SUMS"
	PlanFile       = "plan.json"
	RequestFile    = "request.dsse.json"
	PackRunFile    = "attestations/pack-run.dsse.json"
	RunFile        = "attestations/run.dsse.json"
	ProvenanceFile = "attestations/provenance.dsse.json"
	TimelineFile   = "timeline.ndjson"
	EgressFile     = "egress.ndjson"
	InputsFile     = "inputs.redacted.json"
	OutputsFile    = "outputs.json"
	LeafFile       = "audit/leaf.json"
	CheckpointFile = "audit/checkpoint"
	ProofFile      = "audit/proof.json"
	TrustFile      = "trust/keyring.json"
)

// The versions and types of what is signed. They are part of the public contract.
const (
	FormatVersion      = "orrery.evidence/v1"
	JobVersion         = "orrery.job/v1"
	StatementType      = "https://in-toto.io/Statement/v1"
	RunPredicate       = "https://orrery.example/attestation/run/v1"
	ApprovalPredicate  = "https://orrery.example/attestation/approval/v1"
	SLSAPredicate      = "https://slsa.dev/provenance/v1"
	BuildType          = "https://orrery.example/buildtypes/workflow/v1"
	BuilderPrefix      = "https://orrery.example/builder/"
	PayloadStatement   = "application/vnd.in-toto+json"
	PayloadPackRun     = "application/vnd.stellaops.pack-run+json"
	PayloadManifest    = "application/vnd.orrery.manifest+json"
	PayloadJob         = "application/vnd.orrery.job+json"
	PayloadPack        = "application/vnd.orrery.pack+json"
	mediaJSON          = "application/json"
	mediaLines         = "application/x-ndjson"
	mediaEnvelope      = "application/vnd.dsse.envelope.v1+json"
	mediaNote          = "text/plain; charset=utf-8"
	mediaBytes         = "application/octet-stream"
	runTranscript      = "~run" // the lines that belong to no step; no step is called so in a file name
	maxStepName        = 64
	maxDocument        = 128 << 20
	signedDocumentSize = 256 << 20
)

// StepFile returns how a step is called in file names: letters, digits, "-", "_" and inner dots stay, every other byte is
// %XX in upper case, and a name that gets longer than 64 bytes is its first 31, "~" and 32 digits of its SHA-256.
func StepFile(id work.StepID) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	name := b.String()
	if len(name) <= maxStepName {
		return name
	}
	sum := sha256.Sum256([]byte(id))
	return name[:31] + "~" + hex.EncodeToString(sum[:16])
}
