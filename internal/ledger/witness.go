package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Cosignature is a witness's word that it saw a checkpoint at a time, consistent with all it had seen of the log before
// (C2SP tlog-cosignature v1). With one, the owner of the log cannot show others another past.
type Cosignature struct {
	Witness string
	At      work.Time // whole seconds
}

// Cosign adds a witness's signature to a checkpoint and returns the note with all its signatures. The witness must have
// verified the checkpoint, and its consistency with the one it signed before, by itself. sign receives the text and
// returns the Ed25519 signature of the key pub. Errors: fault.Invalid, and those of sign.
func Cosign(checkpoint []byte, witness string, pub ed25519.PublicKey, at work.Time, sign func(text []byte) ([]byte, error)) ([]byte, error) {
	if len(checkpoint) > maxCheckpoint || at <= 0 {
		return nil, fault.New(fault.Invalid, "a cosignature is over a checkpoint, at a time")
	}
	_, err := note.Open(checkpoint, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return nil, fault.New(fault.Invalid, "this is no signed checkpoint: %v", err)
	}
	raw, err := note.Sign(unverified.Note, cosigner{witness, pub, uint64(at / 1_000_000), sign})
	return raw, fault.Wrap(fault.Invalid, err, "cosign as %q", witness)
}

// Cosignatures returns who of the witnesses, given by name, has signed the checkpoint, sorted by name. Signatures of others
// are let pass. Error: fault.Unverified when one that bears a witness's name does not hold.
func Cosignatures(checkpoint []byte, witnesses map[string]ed25519.PublicKey) ([]Cosignature, error) {
	if len(checkpoint) > maxCheckpoint {
		return nil, fault.New(fault.Unverified, "a checkpoint of %d bytes is above the limit of %d", len(checkpoint), maxCheckpoint)
	}
	var found []Cosignature
	for _, name := range slices.Sorted(maps.Keys(witnesses)) {
		opened, err := note.Open(checkpoint, note.VerifierList(coverifier{name, witnesses[name]}))
		var unverified *note.UnverifiedNoteError
		switch {
		case errors.As(err, &unverified):
			continue
		case err != nil:
			return nil, fault.New(fault.Unverified, "the cosignature of %s: %s", name, err)
		}
		blob, err := base64.StdEncoding.Strict().DecodeString(opened.Sigs[0].Base64)
		if err != nil || len(blob) != 4+8+ed25519.SignatureSize {
			return nil, fault.New(fault.Unverified, "the cosignature of %s has a second spelling of its base64", name)
		}
		found = append(found, Cosignature{name, work.At(time.Unix(int64(binary.BigEndian.Uint64(blob[4:12])), 0))})
	}
	return found, nil
}

// witnessed is the text that a witness signs.
func witnessed(seconds uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", seconds), text...)
}

func witnessHash(name string, pub ed25519.PublicKey) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n\x04"), pub...))
	return binary.BigEndian.Uint32(sum[:])
}

type cosigner struct {
	name    string
	pub     ed25519.PublicKey
	seconds uint64
	sign    func([]byte) ([]byte, error)
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return witnessHash(c.name, c.pub) }
func (c cosigner) Sign(text []byte) ([]byte, error) {
	sig, err := c.sign(witnessed(c.seconds, text))
	return append(binary.BigEndian.AppendUint64(nil, c.seconds), sig...), err
}

type coverifier struct {
	name string
	pub  ed25519.PublicKey
}

func (v coverifier) Name() string    { return v.name }
func (v coverifier) KeyHash() uint32 { return witnessHash(v.name, v.pub) }
func (v coverifier) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize || len(v.pub) != ed25519.PublicKeySize {
		return false
	}
	seconds := binary.BigEndian.Uint64(sig)
	return seconds < 1<<40 && ed25519.Verify(v.pub, witnessed(seconds, text), sig[8:])
}
