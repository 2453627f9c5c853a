package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

func leaf(t testing.TB, i int) []byte {
	t.Helper()
	raw, err := ledger.Leaf{
		Tenant: "acme", Run: work.RunID(fmt.Sprintf("run_%d", i)), PlanHash: "sha256:aa", State: work.Succeeded,
		Events: int64(i), Head: "sha256:bb", Ended: start,
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func grow(t testing.TB, n int) ledger.Hashes {
	t.Helper()
	var stored ledger.Hashes
	for i := range n {
		hashes, err := ledger.Append(int64(i), leaf(t, i), stored)
		if err != nil {
			t.Fatal(err)
		}
		if got := ledger.StoredCount(int64(i)); got != int64(len(stored)) {
			t.Fatal("the new hashes begin at", len(stored), "not", got)
		}
		stored = append(stored, hashes...)
	}
	return stored
}

func root(t testing.TB, size int64, stored ledger.Hashes) ledger.Node {
	t.Helper()
	r, err := ledger.Root(size, stored)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Every leaf of every size up to 40 is proved, and under no other index, root or size.
func TestInclusion(t *testing.T) {
	const n = 40
	stored := grow(t, n)
	for size := int64(1); size <= n; size++ {
		r := root(t, size, stored)
		for index := range size {
			proof, err := ledger.ProveInclusion(size, index, stored)
			if err != nil {
				t.Fatal(err)
			}
			raw := leaf(t, int(index))
			if err := ledger.CheckInclusion(proof, size, r, index, raw); err != nil {
				t.Fatal(size, index, err)
			}
			refused := func(what string, proof []ledger.Node, size int64, r ledger.Node, index int64, raw []byte) {
				t.Helper()
				if err := ledger.CheckInclusion(proof, size, r, index, raw); fault.CodeOf(err) != fault.Unverified {
					t.Fatalf("size %d index %d: %s: %v", size, index, what, err)
				}
			}
			refused("another leaf", proof, size, r, index, leaf(t, int(index)+1))
			refused("another root", proof, size, ledger.Node{}, index, raw)
			refused("an index beyond", proof, size, r, size, raw)
			refused("a negative index", proof, size, r, -1, raw)
			refused("a longer proof", append(append([]ledger.Node{}, proof...), r), size, r, index, raw)
			if index+1 < size {
				refused("another index", proof, size, r, index+1, raw)
			}
			if len(proof) > 0 {
				refused("a shorter proof", proof[1:], size, r, index, raw)
			}
		}
	}
	if _, err := ledger.ProveInclusion(3, 3, stored); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func TestConsistency(t *testing.T) {
	const n = 24
	stored := grow(t, n)
	forked := grow(t, 5)
	other, err := ledger.Append(5, []byte("another history"), forked)
	if err != nil {
		t.Fatal(err)
	}
	forked = append(forked, other...)
	for size := int64(1); size <= n; size++ {
		for old := int64(1); old <= size; old++ {
			proof, err := ledger.ProveConsistency(old, size, stored)
			if err != nil {
				t.Fatal(err)
			}
			if err := ledger.CheckConsistency(proof, old, root(t, old, stored), size, root(t, size, stored)); err != nil {
				t.Fatal(old, size, err)
			}
			if err := ledger.CheckConsistency(proof, old, ledger.Node{1}, size, root(t, size, stored)); fault.CodeOf(err) != fault.Unverified {
				t.Fatal("another old root", old, size, err)
			}
			if old == 6 {
				if err := ledger.CheckConsistency(proof, old, root(t, 6, forked), size, root(t, size, stored)); fault.CodeOf(err) != fault.Unverified {
					t.Fatal("a forked log is not consistent", err)
				}
			}
		}
	}
	for _, sizes := range [][2]int64{{0, 5}, {6, 5}, {-1, 5}} {
		if _, err := ledger.ProveConsistency(sizes[0], sizes[1], stored); fault.CodeOf(err) != fault.Invalid {
			t.Error(sizes, err)
		}
		if err := ledger.CheckConsistency(nil, sizes[0], ledger.Node{}, sizes[1], ledger.Node{}); fault.CodeOf(err) != fault.Unverified {
			t.Error(sizes, err)
		}
	}
}

func TestMissingHashesAreErrors(t *testing.T) {
	if _, err := ledger.Append(5, leaf(t, 5), ledger.Hashes{}); err == nil {
		t.Error("appended to a log whose hashes are gone")
	}
	if _, err := ledger.Root(5, ledger.Hashes{}); err == nil {
		t.Error("made a root of nothing")
	}
}

func TestLeaf(t *testing.T) {
	raw := leaf(t, 3)
	l, err := ledger.ParseLeaf(raw)
	if err != nil || l.Run != "run_3" || l.Ended != start {
		t.Fatal(l, err)
	}
	for name, bad := range map[string]string{
		"space": string(raw) + " ", "unknown": strings.Replace(string(raw), "{", `{"a":1,`, 1), "twice": strings.Replace(string(raw), "{", `{"ended":null,`, 1),
		"case": strings.Replace(string(raw), `"run"`, `"Run"`, 1), "missing": strings.Replace(string(raw), `"state":"succeeded",`, ``, 1), "text": "x",
	} {
		if _, err := ledger.ParseLeaf([]byte(bad)); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func signed(t *testing.T, c ledger.Checkpoint) ([]byte, ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ledger.SignCheckpoint(c, pub, func(text []byte) ([]byte, error) { return ed25519.Sign(private, text), nil })
	if err != nil {
		t.Fatal(err)
	}
	return raw, pub, private
}

func TestCheckpoint(t *testing.T) {
	stored := grow(t, 7)
	origin := ledger.Origin("acme")
	c := ledger.Checkpoint{Origin: origin, Size: 7, Root: root(t, 7, stored)}
	raw, pub, private := signed(t, c)
	_, stranger, _ := signed(t, c)
	got, by, err := ledger.OpenCheckpoint(raw, origin, []ed25519.PublicKey{stranger, pub})
	if err != nil || got != c || !by.Equal(pub) {
		t.Fatal(got, err)
	}
	// The note library of the Go checksum database reads it by the key in its usual form.
	key, err := ledger.VerifierKey(origin, pub)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(raw, note.VerifierList(v)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw    []byte
		origin string
		keys   []ed25519.PublicKey
		code   fault.Code
	}{
		"no keys":         {raw, origin, nil, fault.Untrusted},
		"stranger":        {raw, origin, []ed25519.PublicKey{stranger}, fault.Untrusted},
		"other log":       {raw, ledger.Origin("evil"), []ed25519.PublicKey{pub}, fault.Unverified},
		"size":            {bytes.Replace(raw, []byte("\n7\n"), []byte("\n8\n"), 1), origin, []ed25519.PublicKey{pub}, fault.Unverified},
		"not a note":      {[]byte(origin + "\n7\n"), origin, []ed25519.PublicKey{pub}, fault.Unverified},
		"too big":         {bytes.Repeat(raw, 1000), origin, []ed25519.PublicKey{pub}, fault.Unverified},
		"key of no size":  {raw, origin, []ed25519.PublicKey{pub[:5]}, fault.Untrusted},
		"nothing":         {nil, origin, []ed25519.PublicKey{pub}, fault.Unverified},
		"second spelling": {respell(raw), origin, []ed25519.PublicKey{pub}, fault.Unverified},
	} {
		if _, _, err := ledger.OpenCheckpoint(c.raw, c.origin, c.keys); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What the key signed is still refused when it is no checkpoint.
	for name, text := range map[string]string{
		"leading zero": origin + "\n07\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
		"negative":     origin + "\n-7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
		"extension":    origin + "\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nmore\n",
		"short root":   origin + "\n7\nAAAA\n",
		"other origin": "other\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
	} {
		raw, err := note.Sign(&note.Note{Text: text}, raw64{origin, v.KeyHash(), private})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ledger.OpenCheckpoint(raw, origin, []ed25519.PublicKey{pub}); fault.CodeOf(err) != fault.Unverified {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ledger.SignCheckpoint(ledger.Checkpoint{Origin: "has space"}, pub, nil); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	lost := errors.New("the key is on a token that was pulled")
	if _, err := ledger.SignCheckpoint(c, pub, func([]byte) ([]byte, error) { return nil, lost }); !errors.Is(err, lost) {
		t.Error(err)
	}
}

type raw64 struct {
	name    string
	hash    uint32
	private ed25519.PrivateKey
}

func (s raw64) Name() string                     { return s.name }
func (s raw64) KeyHash() uint32                  { return s.hash }
func (s raw64) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.private, text), nil }

// respell sets a bit of the last base64 character that carries no data.
func respell(raw []byte) []byte {
	out := bytes.Clone(raw)
	at := bytes.LastIndexByte(out, '=') - 1
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	out[at] = alphabet[strings.IndexByte(alphabet, out[at])|1]
	return out
}

func FuzzOpenCheckpoint(f *testing.F) {
	pub, private, _ := ed25519.GenerateKey(rand.Reader)
	origin := ledger.Origin("acme")
	raw, _ := ledger.SignCheckpoint(ledger.Checkpoint{Origin: origin, Size: 3}, pub, func(text []byte) ([]byte, error) { return ed25519.Sign(private, text), nil })
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := ledger.OpenCheckpoint(b, origin, []ed25519.PublicKey{pub})
		if err == nil && (c.Size != 3 || c.Origin != origin) {
			t.Fatalf("forged %+v", c)
		}
	})
}
