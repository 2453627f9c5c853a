package dsse

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/bits"
	"slices"
	"strconv"

	"orrery.example/orrery/internal/fault"
)

// BatchType is the payload type of what is signed for a batch of documents.
const BatchType = "application/vnd.orrery.batch+json"

// MaxBatch is how many documents one signature may be for.
const MaxBatch = 1 << 20

// Place is where a document stands in a batch: its number from 0, of how many, and the nodes beside the way from it to the root of the
// batch, from the leaf on.
type Place struct {
	Index, Size int64
	Proof       [][sha256.Size]byte
}

// Check reports whether sig is a signature of k over a message. Who verifies many documents may remember what it found.
type Check func(k Key, message, sig []byte) bool

// Holds is the Check that remembers nothing.
func Holds(k Key, message, sig []byte) bool { return holds(k.Public, message, sig) }

// SignBatch makes one envelope for each of several payloads, all with one signature: over the root of the Merkle tree (RFC 6962) whose
// leaves are the PAEs of the documents. sign gets a type and a payload and returns their envelope. One document alone is signed as it is.
// Errors: fault.Invalid for no payload, too many of them, or what Sign refuses; those of sign.
func SignBatch(payloadType string, payloads [][]byte, sign func(payloadType string, payload []byte) (Envelope, error)) ([]Envelope, error) {
	if len(payloads) == 1 {
		e, err := sign(payloadType, payloads[0])
		return []Envelope{e}, err
	}
	if len(payloads) == 0 || len(payloads) > MaxBatch {
		return nil, fault.New(fault.Invalid, "a batch has 1 to %d documents, not %d", MaxBatch, len(payloads))
	}
	leaves := make([][sha256.Size]byte, len(payloads))
	for i, p := range payloads {
		if err := signable(payloadType, p); err != nil {
			return nil, err
		}
		leaves[i] = leaf(payloadType, p)
	}
	proofs := make([][][sha256.Size]byte, len(payloads))
	signed, err := sign(BatchType, statement(grow(leaves, proofs), int64(len(payloads))))
	if err != nil {
		return nil, err
	}
	if len(signed.Signatures) != 1 {
		return nil, fault.New(fault.Internal, "a batch was signed %d times, not once", len(signed.Signatures))
	}
	out := make([]Envelope, len(payloads))
	for i, p := range payloads {
		s := signed.Signatures[0]
		s.Batch = &Place{Index: int64(i), Size: int64(len(payloads)), Proof: proofs[i]}
		out[i] = Envelope{Type: payloadType, Signatures: []Signature{s}, payload: bytes.Clone(p)}
	}
	return out, nil
}

// VerifyMember is Verify for a document that may be one of a batch. check is asked about signatures of batches only.
func VerifyMember(e Envelope, payloadType string, keys []Key, check Check) (payload []byte, keyID string, err error) {
	return verify(e, payloadType, keys, check)
}

// message returns what was signed: the PAE of the envelope, or that of the batch that it is one of. Nil for a place that is none.
func (e *Envelope) message(s *Signature) []byte {
	if s.Batch == nil {
		return PAE(e.Type, e.payload)
	}
	root, ok := s.Batch.root(leaf(e.Type, e.payload))
	if !ok {
		return nil
	}
	return PAE(BatchType, statement(root, s.Batch.Size))
}

// statement is the payload that is signed for a batch, in canonical JSON.
func statement(root [sha256.Size]byte, size int64) []byte {
	out := append(make([]byte, 0, 128), `{"root":"sha256:`...)
	out = hex.AppendEncode(out, root[:])
	out = append(out, `","size":`...)
	out = strconv.AppendInt(out, size, 10)
	return append(out, `,"v":"orrery.batch/v1"}`...)
}

func leaf(payloadType string, payload []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte{0}, PAE(payloadType, payload)...))
}

func node(left, right [sha256.Size]byte) [sha256.Size]byte {
	var text [1 + 2*sha256.Size]byte
	text[0] = 1
	copy(text[1:], left[:])
	copy(text[1+sha256.Size:], right[:])
	return sha256.Sum256(text[:])
}

// grow returns the root over leaves and appends to the proof of each what it adds on the way there.
func grow(leaves [][sha256.Size]byte, proofs [][][sha256.Size]byte) [sha256.Size]byte {
	n := len(leaves)
	if n == 1 {
		return leaves[0]
	}
	half := 1 << (bits.Len(uint(n-1)) - 1) // the largest power of two below n
	left, right := grow(leaves[:half], proofs[:half]), grow(leaves[half:], proofs[half:])
	for i := range proofs {
		if i < half {
			proofs[i] = append(proofs[i], right)
		} else {
			proofs[i] = append(proofs[i], left)
		}
	}
	return node(left, right)
}

// root follows the proof from a leaf upwards, as RFC 9162 (2.1.3.2) does. It is false for a proof that is too long or too short.
func (p *Place) root(at [sha256.Size]byte) ([sha256.Size]byte, bool) {
	if p.Index < 0 || p.Index >= p.Size || p.Size > MaxBatch {
		return at, false
	}
	i, last := p.Index, p.Size-1
	for _, other := range p.Proof {
		if last == 0 {
			return at, false
		}
		if i&1 == 1 || i == last {
			at = node(other, at)
			for i&1 == 0 && i != 0 {
				i, last = i>>1, last>>1
			}
		} else {
			at = node(at, other)
		}
		i, last = i>>1, last>>1
	}
	return at, last == 0
}

func (p *Place) equal(o *Place) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.Index == o.Index && p.Size == o.Size && slices.Equal(p.Proof, o.Proof)
}

func (p *Place) append(out []byte) []byte {
	out = strconv.AppendInt(append(out, `"batch":{"index":`...), p.Index, 10)
	out = append(out, `,"proof":[`...)
	for i := range p.Proof {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '"')
		out = base64.StdEncoding.AppendEncode(out, p.Proof[i][:])
		out = append(out, '"')
	}
	return append(strconv.AppendInt(append(out, `],"size":`...), p.Size, 10), "},"...)
}

func readPlace(dec *json.Decoder) (*Place, error) {
	p := &Place{Index: -1}
	err := readObject(dec, []string{"index", "proof", "size"}, func(field string) (err error) {
		switch field {
		case "index":
			p.Index, err = readNumber(dec)
		case "size":
			p.Size, err = readNumber(dec)
		default:
			p.Proof, err = readNodes(dec)
		}
		return err
	})
	if err == nil && (p.Index < 0 || p.Index >= p.Size || p.Size > MaxBatch) {
		err = fault.New(fault.Invalid, "a batch has an index below its size, and a size of at most %d", MaxBatch)
	}
	return p, err
}

func readNodes(dec *json.Decoder) ([][sha256.Size]byte, error) {
	if err := expect(dec, '['); err != nil {
		return nil, err
	}
	var out [][sha256.Size]byte
	for dec.More() {
		var text *string
		if err := readString(dec, &text); err != nil {
			return nil, err
		}
		raw, err := readBase64(*text, sha256.Size)
		if err != nil {
			return nil, err
		}
		if len(raw) != sha256.Size || len(out) >= bits.Len(MaxBatch) {
			return nil, fault.New(fault.Invalid, "a proof has at most %d nodes of %d bytes", bits.Len(MaxBatch), sha256.Size)
		}
		out = append(out, [sha256.Size]byte(raw))
	}
	return out, expect(dec, ']')
}

func readNumber(dec *json.Decoder) (int64, error) {
	t, err := dec.Token()
	if err != nil {
		return 0, err
	}
	text, _ := t.(json.Number)
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != string(text) {
		return 0, fault.New(fault.Invalid, "expected a whole number")
	}
	return n, nil
}
