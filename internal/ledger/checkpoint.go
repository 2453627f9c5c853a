package ledger

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Checkpoint is the signed head of a log (C2SP tlog-checkpoint): it commits to the first Size leaves.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   Node
}

const maxCheckpoint = 64 << 10

// Origin names the log of a tenant. It is also the name of the key that signs its checkpoints.
func Origin(tenant work.Tenant) string { return "orrery.example/audit/" + string(tenant) }

// Text returns what is signed.
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// SignCheckpoint returns the checkpoint as a signed note. sign receives the text and returns the Ed25519 signature of the
// key pub. Errors: fault.Invalid for an origin that a note cannot carry, and those of sign.
func SignCheckpoint(c Checkpoint, pub ed25519.PublicKey, sign func(text []byte) ([]byte, error)) ([]byte, error) {
	s := signer{name: c.Origin, pub: pub, sign: sign}
	raw, err := note.Sign(&note.Note{Text: c.Text()}, s)
	return raw, fault.Wrap(fault.Invalid, err, "sign the checkpoint of %q", c.Origin)
}

// OpenCheckpoint reads a signed note and verifies that one of keys signed it as the log's own key; it returns that key.
// Signatures of others, such as witnesses, are let pass.
//
// Errors: fault.Untrusted when none of keys signed it, fault.Unverified for everything else that is wrong with it.
func OpenCheckpoint(raw []byte, origin string, keys []ed25519.PublicKey) (Checkpoint, ed25519.PublicKey, error) {
	if len(raw) > maxCheckpoint {
		return Checkpoint{}, nil, fault.New(fault.Unverified, "a checkpoint of %d bytes is above the limit of %d", len(raw), maxCheckpoint)
	}
	for _, pub := range keys {
		v := verifier{name: origin, pub: pub}
		opened, err := note.Open(raw, note.VerifierList(v))
		var unsigned *note.UnverifiedNoteError
		switch {
		case errors.As(err, &unsigned):
			continue
		case err != nil:
			return Checkpoint{}, nil, fault.New(fault.Unverified, "the checkpoint of %s: %s", origin, err)
		}
		for _, s := range opened.Sigs {
			if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
				return Checkpoint{}, nil, fault.New(fault.Unverified, "a signature of the checkpoint has a second spelling of its base64")
			}
		}
		c, err := parseCheckpoint(opened.Text)
		if err != nil {
			return Checkpoint{}, nil, err
		}
		if c.Origin != origin {
			return Checkpoint{}, nil, fault.New(fault.Unverified, "the checkpoint is of the log %q, not %q", c.Origin, origin)
		}
		return c, pub, nil
	}
	if !bytes.HasPrefix(raw, []byte(origin+"\n")) {
		return Checkpoint{}, nil, fault.New(fault.Unverified, "this is not a checkpoint of the log %q", origin)
	}
	return Checkpoint{}, nil, fault.New(fault.Untrusted, "the checkpoint of %s is signed by no log key that is trusted", origin)
}

// parseCheckpoint reads the three lines. Extension lines, which C2SP allows, have no meaning here and are refused.
func parseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fault.New(fault.Unverified, "a checkpoint has the three lines origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fault.New(fault.Unverified, "the size %q of a checkpoint is not a number", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, fault.New(fault.Unverified, "the root of a checkpoint is 32 bytes of base64")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: Node(root)}, nil
}

// VerifierKey returns the key in the form that other tools for C2SP logs take: name+hash+key.
func VerifierKey(origin string, pub ed25519.PublicKey) (string, error) {
	key, err := note.NewEd25519VerifierKey(origin, pub)
	return key, fault.Wrap(fault.Invalid, err, "the verifier key of %q", origin)
}

// keyHash is the C2SP key id: the first four bytes of SHA-256(name, line break, algorithm, key).
func keyHash(name string, pub ed25519.PublicKey) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n\x01"), pub...))
	return binary.BigEndian.Uint32(sum[:])
}

type signer struct {
	name string
	pub  ed25519.PublicKey
	sign func([]byte) ([]byte, error)
}

func (s signer) Name() string                     { return s.name }
func (s signer) KeyHash() uint32                  { return keyHash(s.name, s.pub) }
func (s signer) Sign(text []byte) ([]byte, error) { return s.sign(text) }

type verifier struct {
	name string
	pub  ed25519.PublicKey
}

func (v verifier) Name() string    { return v.name }
func (v verifier) KeyHash() uint32 { return keyHash(v.name, v.pub) }
func (v verifier) Verify(text, sig []byte) bool {
	return len(v.pub) == ed25519.PublicKeySize && ed25519.Verify(v.pub, text, sig)
}
