package dsse_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
)

// batch signs documents of one text each.
func (p pair) batch(t testing.TB, payloadType string, texts ...string) []dsse.Envelope {
	t.Helper()
	payloads := make([][]byte, len(texts))
	for i, text := range texts {
		payloads[i] = []byte(text)
	}
	signed := 0
	out, err := dsse.SignBatch(payloadType, payloads, func(payloadType string, payload []byte) (dsse.Envelope, error) {
		signed++
		return p.sign(t, payloadType, string(payload)), nil
	})
	if err != nil || signed != 1 || len(out) != len(texts) {
		t.Fatal(err, signed, len(out))
	}
	return out
}

func texts(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("document %d", i)
	}
	return out
}

// Every document of a batch of any size is verified by the one signature, and by nothing else than its own place.
func TestBatch(t *testing.T) {
	for _, ed := range []bool{false, true} {
		mine, other := newPair(t, ed), newPair(t, !ed)
		for n := 1; n <= 33; n += 1 + n/9 {
			for i, e := range mine.batch(t, "text/plain", texts(n)...) {
				e, err := dsse.Decode(e.Encode())
				if err != nil {
					t.Fatal(err)
				}
				payload, id, err := dsse.VerifyMember(e, "text/plain", []dsse.Key{other.key, mine.key}, dsse.Holds)
				if err != nil || id != mine.key.ID || string(payload) != texts(n)[i] {
					t.Fatalf("%d of %d: %q %v", i, n, payload, err)
				}
				if _, _, err := dsse.VerifyMember(e, "text/plain", []dsse.Key{other.key}, dsse.Holds); fault.CodeOf(err) != fault.Untrusted {
					t.Fatal(err)
				}
				_, _, err = dsse.Verify(e, "text/plain", []dsse.Key{mine.key})
				if alone := n == 1; (err == nil) != alone || !alone && fault.CodeOf(err) != fault.Unverified {
					t.Fatalf("one of %d, as a document that was signed alone: %v", n, err)
				}
				if _, ids, _ := dsse.Signers(e, "text/plain", []dsse.Key{mine.key}); (len(ids) == 1) != (n == 1) {
					t.Fatalf("one of %d has the signers %v", n, ids)
				}
			}
		}
	}
}

// The text of what is signed, computed with another program. Whoever has written a verifier by the reference may use it, too.
func TestBatchVector(t *testing.T) {
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	key, err := dsse.NewKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	all := pair{private, key}.batch(t, "application/vnd.orrery.job+json", "{}", "[]", "null")
	const sig = "1D0aw8XRv8CK+ohY2HKvctfA7RI1aPaKtjC6IYtjFEvzqIioaN5/+XtoU/PF3S+n8NPGbZzC9VX/MeONH+toBg=="
	text := string(all[1].Encode())
	for _, want := range []string{
		`{"payload":"W10=","payloadType":"application/vnd.orrery.job+json","signatures":[{"batch":{"index":1,"proof":[`,
		`"xvqFYyAdpIIhOqWUmNVrLg5CkIJSAM/QoG2M52RxIX4=","JaX+ufuOAFVnIuuQYs61BHHEWMm8h8Atuv9pqvzKkeM="`,
		`],"size":3},"keyid":"` + key.ID + `","sig":"` + sig + `"}]}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nhas no %s", text, want)
		}
	}
}

func TestBatchRefuses(t *testing.T) {
	mine := newPair(t, true)
	keys := []dsse.Key{mine.key}
	whole := func() dsse.Envelope { return mine.batch(t, "text/plain", texts(7)...)[2] }
	cases := map[string]func(e *dsse.Envelope){
		"another place":     func(e *dsse.Envelope) { e.Signatures[0].Batch.Index = 3 },
		"a place outside":   func(e *dsse.Envelope) { e.Signatures[0].Batch.Index = 7 },
		"a place before":    func(e *dsse.Envelope) { e.Signatures[0].Batch.Index = -1 },
		"another size":      func(e *dsse.Envelope) { e.Signatures[0].Batch.Size = 8 },
		"no size":           func(e *dsse.Envelope) { e.Signatures[0].Batch.Size = 0 },
		"a short proof":     func(e *dsse.Envelope) { e.Signatures[0].Batch.Proof = e.Signatures[0].Batch.Proof[:2] },
		"no proof":          func(e *dsse.Envelope) { e.Signatures[0].Batch.Proof = nil },
		"a long proof":      func(e *dsse.Envelope) { b := e.Signatures[0].Batch; b.Proof = append(b.Proof, b.Proof[0]) },
		"another node":      func(e *dsse.Envelope) { e.Signatures[0].Batch.Proof[1][5] ^= 1 },
		"another type":      func(e *dsse.Envelope) { e.Type = "text/html" },
		"another signature": func(e *dsse.Envelope) { e.Signatures[0].Sig[3] ^= 1 },
		"taken out":         func(e *dsse.Envelope) { e.Signatures[0].Batch = nil },
		"alone, at some place": func(e *dsse.Envelope) {
			*e = mine.sign(t, "text/plain", "alone")
			e.Signatures[0].Batch = &dsse.Place{Size: 1}
		},
		"the batch as document": func(e *dsse.Envelope) {
			*e = mine.sign(t, "text/plain", "document 2")
			e.Signatures[0].Batch = whole().Signatures[0].Batch
		},
		"another document": func(e *dsse.Envelope) {
			was := *e
			*e = mine.sign(t, "text/plain", "document 3")
			e.Signatures = was.Signatures
		},
	}
	for name, change := range cases {
		e := whole()
		change(&e)
		if _, _, err := dsse.VerifyMember(e, e.Type, keys, dsse.Holds); fault.CodeOf(err) != fault.Unverified {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, payloads := range map[string][][]byte{"nothing": {}, "too many": make([][]byte, dsse.MaxBatch+1)} {
		if _, err := dsse.SignBatch("text/plain", payloads, nil); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	form := `{"payload":"","payloadType":"t","signatures":[{"batch":%s,"keyid":"k","sig":""}]}`
	for _, place := range []string{
		`{}`, `1`, `null`, `{"index":0,"proof":[]}`, `{"index":1,"proof":[],"size":1}`, `{"index":0.0,"proof":[],"size":1}`,
		`{"index":1e0,"proof":[],"size":2}`, `{"index":"0","proof":[],"size":1}`, `{"index":0,"proof":[""],"size":2}`, `{"index":0,"proof":{},"size":1}`,
		`{"index":0,"index":0,"proof":[],"size":1}`, `{"index":0,"proof":[],"Size":1}`, `{"index":-1,"proof":[],"size":1}`, `{"index":0,"proof":[],"size":1048577}`,
	} {
		if _, err := dsse.Decode(fmt.Appendf(nil, form, place)); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", place, err)
		}
	}
}

// What a check remembers is asked for batches only, and its no is final.
func TestBatchCheck(t *testing.T) {
	mine := newPair(t, true)
	asked := 0
	no := func(dsse.Key, []byte, []byte) bool { asked++; return false }
	if _, _, err := dsse.VerifyMember(mine.batch(t, "text/plain", texts(2)...)[0], "text/plain", []dsse.Key{mine.key}, no); fault.CodeOf(err) != fault.Unverified || asked != 1 {
		t.Error(err, asked)
	}
	if _, _, err := dsse.VerifyMember(mine.sign(t, "text/plain", "alone"), "text/plain", []dsse.Key{mine.key}, no); err != nil || asked != 1 {
		t.Error(err, asked)
	}
}

// No other place, proof or document is accepted under a signature than the one it was made for.
func FuzzPlace(f *testing.F) {
	mine := newPair(f, true)
	all := mine.batch(f, "text/plain", texts(11)...)
	f.Add(uint8(0), int64(0), int64(11), all[0].Signatures[0].Batch.Proof[0][:])
	f.Add(uint8(10), int64(5), int64(6), []byte{})
	f.Fuzz(func(t *testing.T, which uint8, index, size int64, proof []byte) {
		e := all[int(which)%len(all)]
		was := *e.Signatures[0].Batch
		place := dsse.Place{Index: index, Size: size}
		for ; len(proof) >= 32; proof = proof[32:] {
			place.Proof = append(place.Proof, [32]byte(proof))
		}
		e.Signatures = slices.Clone(e.Signatures)
		e.Signatures[0].Batch = &place
		_, _, err := dsse.VerifyMember(e, e.Type, []dsse.Key{mine.key}, dsse.Holds)
		if same := place.Index == was.Index && place.Size == was.Size && slices.Equal(place.Proof, was.Proof); (err == nil) != same {
			t.Fatalf("%+v: %v", place, err)
		}
		if decoded, err := dsse.Decode(e.Encode()); err == nil && !bytes.Equal(decoded.Encode(), e.Encode()) {
			t.Fatal(hex.EncodeToString(e.Encode()))
		}
	})
}
