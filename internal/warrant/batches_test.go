package warrant

import (
	"context"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/keyring"
)

// A signature that held is remembered for its key and its text, and for nothing else; one that did not is not.
func TestBatches(t *testing.T) {
	alice, err := keyring.Generate("alice", keyring.Ed25519, []keyring.Usage{keyring.Submit}, 1)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := keyring.Generate("bob", keyring.Ed25519, []keyring.Usage{keyring.Submit}, 1)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := keyring.Trust{}.With(alice.Key)
	if err == nil {
		trust, err = trust.With(bob.Key)
	}
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]dsse.Key{}
	for _, k := range trust.For(keyring.Submit) {
		keys[k.ID] = k
	}
	e, err := alice.Sign(context.Background(), "text/plain", []byte("a batch"))
	if err != nil {
		t.Fatal(err)
	}
	text, sig := dsse.PAE("text/plain", []byte("a batch")), e.Signatures[0].Sig
	bent := append([]byte{}, sig...)
	bent[0] ^= 1
	var b batches
	for range 2 { // the second time from memory
		for name, c := range map[string]struct {
			key       dsse.Key
			text, sig []byte
			want      bool
		}{
			"holds":             {keys[alice.KeyID()], text, sig, true},
			"another key":       {keys[bob.KeyID()], text, sig, false},
			"another text":      {keys[alice.KeyID()], append([]byte{'x'}, text...), sig, false},
			"another signature": {keys[alice.KeyID()], text, bent, false},
			"moved border":      {keys[alice.KeyID()], text[1:], append(append([]byte{}, sig...), text[0]), false},
		} {
			if got := b.holds(c.key, c.text, c.sig); got != c.want {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	if len(b.known) != 1 {
		t.Errorf("%d signatures are remembered, not the one that held", len(b.known))
	}
	b.known = map[[32]byte]bool{}
	for i := range knownBatches {
		b.known[[32]byte{byte(i), byte(i >> 8)}] = true
	}
	if !b.holds(keys[alice.KeyID()], text, sig) || len(b.known) > 1 {
		t.Errorf("%d signatures are remembered, more than %d", len(b.known), knownBatches)
	}
}
