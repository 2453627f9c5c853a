package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

func TestCosign(t *testing.T) {
	c := ledger.Checkpoint{Origin: ledger.Origin("acme"), Size: 7}
	raw, logKey, _ := signed(t, c)
	witnesses := map[string]ed25519.PublicKey{}
	sealed := raw
	for i, name := range []string{"b.example/w", "a.example/w"} {
		pub, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		witnesses[name] = pub
		sealed, err = ledger.Cosign(sealed, name, pub, start+work.Time(i)*1_000_000+5, func(text []byte) ([]byte, error) {
			return ed25519.Sign(private, text), nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := ledger.OpenCheckpoint(sealed, c.Origin, []ed25519.PublicKey{logKey}); err != nil || got != c {
		t.Error("a witnessed checkpoint is still one of its log", err)
	}
	found, err := ledger.Cosignatures(sealed, witnesses)
	if err != nil || len(found) != 2 || found[0] != (ledger.Cosignature{"a.example/w", start + 1_000_000}) || found[1].At != start {
		t.Fatal(found, err)
	}
	if found, err := ledger.Cosignatures(raw, witnesses); err != nil || len(found) != 0 {
		t.Error("nobody witnessed the bare checkpoint", found, err)
	}
	if found, err := ledger.Cosignatures(sealed, map[string]ed25519.PublicKey{"a.example/w": logKey}); err != nil || len(found) != 0 {
		t.Error("a witness is a key, not a name", found, err)
	}
	grown := bytes.Replace(sealed, []byte("\n7\n"), []byte("\n8\n"), 1)
	if _, err := ledger.Cosignatures(grown, witnesses); fault.CodeOf(err) != fault.Unverified {
		t.Error("a cosignature is over one checkpoint:", err)
	}
	// The time is part of what is signed.
	at := bytes.LastIndex(sealed, []byte(" "))
	bent := bytes.Clone(sealed)
	bent[at+14] ^= 1
	if _, err := ledger.Cosignatures(bent, witnesses); fault.CodeOf(err) != fault.Unverified {
		t.Error("a moved time holds:", err)
	}
	lost := errors.New("the key was pulled")
	fail := func([]byte) ([]byte, error) { return nil, lost }
	if _, err := ledger.Cosign(raw, "w", logKey, start, fail); !errors.Is(err, lost) {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "text": []byte("x\n"), "large": bytes.Repeat(raw, 1000)} {
		if _, err := ledger.Cosign(bad, "w", logKey, start, fail); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ledger.Cosign(raw, "w", logKey, 0, fail); fault.CodeOf(err) != fault.Invalid {
		t.Error("a cosignature has a time:", err)
	}
}
