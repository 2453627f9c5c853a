package keystore_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/keystore"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/work"
)

const acme work.Tenant = "acme"

func now() work.Time { return work.At(time.Now()) }

func encrypter(t *testing.T) *keyring.Encrypter {
	t.Helper()
	key := make([]byte, keyring.EncryptionKeySize)
	_, _ = rand.Read(key)
	e, err := keyring.NewEncrypter(key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// servers are two of them on one store.
func servers(t *testing.T) (a, b *keystore.Store) {
	t.Helper()
	records, e := kernel.New(memory.New(), kernel.Options{Now: now}), encrypter(t)
	return &keystore.Store{Records: records, Encrypter: e}, &keystore.Store{Records: records, Encrypter: e}
}

func TestKeysOfServers(t *testing.T) {
	one, two := servers(t)
	for _, s := range []*keystore.Store{one, two} {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stranger := &keystore.Store{Records: one.Records, Encrypter: encrypter(t)}
	if err := stranger.Check(t.Context()); fault.CodeOf(err) != fault.Denied {
		t.Error("a server with another encryption key:", err)
	}
	a := one.Ring(acme)
	if tr, err := a.Trust(); err != nil || len(tr.Keys) != 0 {
		t.Fatal(tr, err)
	}
	made, err := a.Generate("attestor", keyring.ECDSAP256, []keyring.Usage{keyring.Attest}, now())
	if err != nil {
		t.Fatal(err)
	}
	b := two.Ring(acme)
	held, err := b.Load("attestor", keyring.Attest, now())
	if err != nil || held.Key.ID != made.Key.ID {
		t.Fatal("the other server does not hold it:", held, err)
	}
	text, err := held.Sign(t.Context(), "text/plain", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	same, err := made.Sign(t.Context(), "text/plain", []byte("x"))
	if err != nil || !bytes.Equal(text.Encode(), same.Encode()) {
		t.Error("it is another key", err)
	}
	if _, err := two.Ring("globex").Load("attestor", keyring.Attest, now()); fault.CodeOf(err) != fault.NotFound {
		t.Error("a key of another tenant:", err)
	}
	if _, err := stranger.Ring(acme).Load("attestor", keyring.Attest, now()); fault.CodeOf(err) != fault.Unverified {
		t.Error("read without the encryption key:", err)
	}
	row, err := one.Records.Record(t.Context(), acme, "private-key", made.Key.ID)
	if err != nil || bytes.Contains(row.Doc, []byte("PRIVATE")) {
		t.Error("it is kept as it is:", err)
	}
	// What was put under another key's name is not taken for it.
	other, err := a.Generate("ledger", keyring.Ed25519, []keyring.Usage{keyring.Log}, now())
	if err != nil {
		t.Fatal(err)
	}
	moved, err := one.Records.Record(t.Context(), acme, "private-key", other.Key.ID)
	if err != nil {
		t.Fatal(err)
	}
	row.Doc = moved.Doc
	if err := one.Records.Change(t.Context(), store.RecordChange{Record: row}); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Ring(acme).Load("attestor", keyring.Attest, now()); fault.CodeOf(err) != fault.Unverified {
		t.Error("a private key in another's place:", err)
	}
}

// What is trusted or revoked on one server counts on the other within a second, and nothing is lost when both are told at once.
func TestRingsOfServersAgree(t *testing.T) {
	one, two := servers(t)
	rings := []keyring.Ring{one.Ring(acme), two.Ring(acme)}
	const people = 20
	var group sync.WaitGroup
	for i := range people {
		p, err := keyring.Generate(fmt.Sprint("p", i), keyring.Ed25519, []keyring.Usage{keyring.Submit}, now())
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			if _, err := rings[i%2].Import(p.Key.Name, []byte(p.Key.Public), p.Key.Usage, now()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	fresh := two.Ring(acme)
	all, err := fresh.Trust()
	if err != nil || len(all.Keys) != people {
		t.Fatalf("%d keys of %d are trusted: %v", len(all.Keys), people, err)
	}
	if held, err := fresh.Held(); err != nil || len(held) != 0 {
		t.Error("private parts of others are held:", held, err)
	}
	if err := rings[0].Revoke(all.Keys[0].ID, keyring.Revocation{At: now(), Reason: keyring.Compromised}); err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for until := time.Now().Add(2 * time.Minute); ; <-look.C {
		tr, err := rings[1].Trust()
		if err != nil {
			t.Fatal(err)
		}
		if k, _ := tr.Find(all.Keys[0].ID); k.Revoked != nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the other server never hears of it")
		}
	}
	if _, err := rings[0].Import("x", []byte("none"), []keyring.Usage{keyring.Submit}, now()); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	if err := rings[0].Revoke(strings.Repeat("0", 64), keyring.Revocation{At: now(), Reason: keyring.Superseded}); fault.CodeOf(err) != fault.NotFound {
		t.Error(err)
	}
}
