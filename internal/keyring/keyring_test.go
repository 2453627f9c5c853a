package keyring_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

const now = work.Time(1_767_323_045_000_000)

func hour(n int) work.Time { return now.Add(time.Duration(n) * time.Hour) }

func generate(t *testing.T, name string, a keyring.Algorithm, usage ...keyring.Usage) *keyring.Private {
	t.Helper()
	p, err := keyring.Generate(name, a, usage, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func trust(t *testing.T, keys ...*keyring.Private) keyring.Trust {
	t.Helper()
	var tr keyring.Trust
	for _, k := range keys {
		var err error
		if tr, err = tr.With(k.Key); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestSignIsDeterministicAndVerifies(t *testing.T) {
	for _, a := range []keyring.Algorithm{keyring.Ed25519, keyring.ECDSAP256} {
		p := generate(t, "alice", a, keyring.Approve)
		var s keyring.Signer = p
		one, err := s.Sign(context.Background(), "text/plain", []byte("p"))
		if err != nil {
			t.Fatal(err)
		}
		two, err := s.Sign(context.Background(), "text/plain", []byte("p"))
		if err != nil || !bytes.Equal(one.Encode(), two.Encode()) {
			t.Error(a, "signs the same document with different bytes", err)
		}
		tr := trust(t, p)
		if _, id, err := dsse.Verify(one, "text/plain", tr.For(keyring.Approve)); err != nil || id != s.KeyID() || s.Name() != "alice" {
			t.Error(a, id, err)
		}
		if _, _, err := dsse.Verify(one, "text/plain", tr.For(keyring.Attest)); fault.CodeOf(err) != fault.Untrusted {
			t.Error(a, "a key counts for its usage only:", err)
		}
		if _, err := p.SignCheckpoint([]byte("x")); fault.CodeOf(err) != fault.Denied {
			t.Error(a, "a person's key signs no checkpoint:", err)
		}
	}
}

func TestLogKeySignsCheckpointsOnly(t *testing.T) {
	p := generate(t, "log", keyring.Ed25519, keyring.Log)
	if _, err := p.Sign(context.Background(), "text/plain", nil); fault.CodeOf(err) != fault.Denied {
		t.Error(err)
	}
	sig, err := p.SignCheckpoint([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := p.Key.LogKey()
	if err != nil || !ed25519.Verify(pub, []byte("text"), sig) {
		t.Error("the signature of a checkpoint does not hold", err)
	}
	if _, err := generate(t, "a", keyring.Ed25519, keyring.Submit).Key.LogKey(); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	for _, usage := range [][]keyring.Usage{{keyring.Log, keyring.Attest}} {
		if _, err := keyring.Generate("log", keyring.Ed25519, usage, now); fault.CodeOf(err) != fault.Invalid {
			t.Error(usage, err)
		}
	}
	if _, err := keyring.Generate("log", keyring.ECDSAP256, []keyring.Usage{keyring.Log}, now); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		a     keyring.Algorithm
		usage []keyring.Usage
	}{
		{"", keyring.Ed25519, []keyring.Usage{keyring.Submit}}, {"../x", keyring.Ed25519, []keyring.Usage{keyring.Submit}},
		{".x", keyring.Ed25519, []keyring.Usage{keyring.Submit}}, {"a b", keyring.Ed25519, []keyring.Usage{keyring.Submit}},
		{strings.Repeat("a", 65), keyring.Ed25519, []keyring.Usage{keyring.Submit}}, {"a", "rsa", []keyring.Usage{keyring.Submit}},
		{"a", keyring.Ed25519, nil}, {"a", keyring.Ed25519, []keyring.Usage{"admin"}},
	} {
		if _, err := keyring.Generate(c.name, c.a, c.usage, now); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTrustDocument(t *testing.T) {
	bob, alice, attestor := generate(t, "bob", keyring.Ed25519, keyring.Submit, keyring.Approve), generate(t, "alice", keyring.Ed25519, keyring.Approve),
		generate(t, "attestor", keyring.ECDSAP256, keyring.Attest)
	tr := trust(t, bob, attestor, alice)
	raw, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := keyring.ParseTrust(append([]byte(" "), raw...))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.Encode(); err != nil || !bytes.Equal(again, raw) {
		t.Error("a keyring does not survive being read", err)
	}
	if len(back.Keys) != 3 || back.Keys[0].Name != "alice" || back.Keys[2].Name != "bob" {
		t.Error("keys are sorted by name")
	}
	der := mustDER(t, []byte(alice.Key.Public))
	if sum := sha256.Sum256(der); alice.Key.ID != hex.EncodeToString(sum[:]) {
		t.Error("the id is the digest of the public key")
	}
	replace := func(old, new string) []byte { return bytes.Replace(raw, []byte(old), []byte(new), 1) }
	for name, bad := range map[string][]byte{
		"unknown field":   replace(`{"keys"`, `{"also":1,"keys"`),
		"key field":       replace(`"algorithm"`, `"a":1,"algorithm"`),
		"version":         replace(`keyring/v1`, `keyring/v2`),
		"case":            replace(`"name":"bob"`, `"Name":"bob"`),
		"id":              replace(`"id":"`+bob.Key.ID, `"id":"`+alice.Key.ID),
		"usage":           replace(`["attest"]`, `["everything"]`),
		"usage order":     replace(`["approve","submit"]`, `["submit","approve"]`),
		"algorithm":       replace(`"ecdsa-p256"`, `"ed25519"`),
		"name":            replace(`"name":"bob"`, `"name":"b b"`),
		"order":           replace(`"name":"bob"`, `"name":"aaa"`),
		"log key":         replace(`["attest"]`, `["log"]`),
		"pem":             replace(`-----BEGIN PUBLIC KEY-----\n`, `-----BEGIN PUBLIC KEY-----\n\n`),
		"empty":           nil,
		"twice in object": replace(`{"keys"`, `{"keys":[],"keys"`),
	} {
		if bytes.Equal(bad, raw) {
			t.Fatal(name, "changes nothing")
		}
		if _, err := keyring.ParseTrust(bad); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if same, err := tr.With(bob.Key); err != nil || len(same.Keys) != 3 {
		t.Error("trusting the same key again changes nothing", err)
	}
	renamed := bob.Key
	renamed.Name = "mallory"
	if _, err := tr.With(renamed); fault.CodeOf(err) != fault.Conflict {
		t.Error("one key, one name:", err)
	}
	if tr.Keys = append(tr.Keys, bob.Key); len(tr.Keys) != 4 {
		t.Fatal()
	}
	if _, err := tr.Encode(); fault.CodeOf(err) != fault.Invalid {
		t.Error("a key stands once:", err)
	}
}

func mustDER(t *testing.T, public []byte) []byte {
	t.Helper()
	cmd := exec.Command("openssl", "pkey", "-pubin", "-outform", "DER")
	cmd.Stdin = bytes.NewReader(public)
	der, err := cmd.Output()
	if err != nil {
		t.Fatal("openssl does not run here; apt-get install openssl:", err)
	}
	return der
}

func TestRevoke(t *testing.T) {
	p := generate(t, "alice", keyring.Ed25519, keyring.Approve)
	tr := trust(t, p)
	revoke := func(tr keyring.Trust, at work.Time, r keyring.RevocationReason) (keyring.Trust, error) {
		return tr.Revoke(p.Key.ID, keyring.Revocation{At: at, Reason: r})
	}
	first, err := revoke(tr, hour(5), keyring.Superseded)
	if err != nil {
		t.Fatal(err)
	}
	if k, _ := tr.Find(p.Key.ID); k.Revoked != nil {
		t.Error("a trust is a value: the old one is unchanged")
	}
	if _, err := revoke(first, hour(1), keyring.Superseded); fault.CodeOf(err) != fault.Conflict {
		t.Error(err)
	}
	second, err := revoke(first, hour(6), keyring.Compromised)
	if err != nil {
		t.Error("a compromise is always noted", err)
	}
	if _, err := revoke(second, hour(7), keyring.Compromised); fault.CodeOf(err) != fault.Conflict {
		t.Error("a compromise does not move to later:", err)
	}
	if _, err := revoke(second, hour(2), keyring.Compromised); err != nil {
		t.Error(err)
	}
	if _, err := revoke(second, hour(1), keyring.Superseded); fault.CodeOf(err) != fault.Conflict {
		t.Error("a compromise stays one:", err)
	}
	if _, err := tr.Revoke("nobody", keyring.Revocation{At: now, Reason: keyring.Superseded}); fault.CodeOf(err) != fault.NotFound {
		t.Error(err)
	}
	for _, bad := range []keyring.Revocation{{At: now, Reason: "bored"}, {Reason: keyring.Compromised}} {
		if _, err := tr.Revoke(p.Key.ID, bad); fault.CodeOf(err) != fault.Invalid {
			t.Error(bad, err)
		}
	}
	if _, err := tr.Retire(p.Key.ID, hour(-1)); fault.CodeOf(err) != fault.Invalid {
		t.Error("a key does not end before it begins:", err)
	}
	short, err := tr.Retire(p.Key.ID, hour(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := short.Retire(p.Key.ID, hour(2)); fault.CodeOf(err) != fault.Conflict {
		t.Error("an end does not move to later:", err)
	}
}

// The whole table: key, moment, and what it is worth at hour 100.
func TestJudge(t *testing.T) {
	revoked := func(r keyring.RevocationReason) *keyring.Revocation {
		return &keyring.Revocation{At: hour(10), Reason: r}
	}
	keys := map[string]keyring.Key{
		"fresh":       {NotBefore: hour(0)},
		"retired":     {NotBefore: hour(0), NotAfter: hour(10)},
		"planned":     {NotBefore: hour(0), NotAfter: hour(200)},
		"future":      {NotBefore: hour(150)},
		"superseded":  {NotBefore: hour(0), Revoked: revoked(keyring.Superseded)},
		"compromised": {NotBefore: hour(0), Revoked: revoked(keyring.Compromised)},
		"both":        {NotBefore: hour(0), NotAfter: hour(5), Revoked: revoked(keyring.Superseded)},
	}
	const unknown = -1000
	for _, c := range []struct {
		key    string
		at     int
		proved bool
		want   keyring.Validity
	}{
		{"fresh", 1, false, keyring.Valid}, {"fresh", -1, true, keyring.OutOfTime}, {"fresh", unknown, false, keyring.Valid}, {"fresh", 0, false, keyring.Valid},
		{"retired", 9, false, keyring.ValidAtTime}, {"retired", 10, false, keyring.ValidAtTime}, {"retired", 11, false, keyring.OutOfTime}, {"retired", unknown, false, keyring.UnknownTime},
		{"planned", 9, false, keyring.Valid}, {"planned", unknown, false, keyring.Valid},
		{"future", 1, true, keyring.OutOfTime}, {"future", unknown, false, keyring.UnknownTime},
		{"superseded", 9, false, keyring.ValidAtTime}, {"superseded", 10, true, keyring.Revoked}, {"superseded", 11, false, keyring.Revoked}, {"superseded", -1, false, keyring.OutOfTime},
		{"superseded", unknown, false, keyring.UnknownTime},
		{"compromised", 9, true, keyring.ValidAtTime}, {"compromised", 9, false, keyring.UnknownTime}, {"compromised", 10, true, keyring.Revoked}, {"compromised", 11, false, keyring.Revoked},
		{"compromised", unknown, false, keyring.Revoked}, {"compromised", -1, true, keyring.OutOfTime},
		{"both", 4, false, keyring.ValidAtTime}, {"both", 6, false, keyring.OutOfTime}, {"both", 11, false, keyring.Revoked},
	} {
		m := keyring.Moment{At: hour(c.at), Proved: c.proved}
		if c.at == unknown {
			m = keyring.Moment{}
		}
		if got := keyring.Judge(keys[c.key], m, hour(100)); got != c.want {
			t.Errorf("%s signed at hour %d (proved %v): %s, expected %s", c.key, c.at, c.proved, got, c.want)
		}
	}
	for v, want := range map[keyring.Validity]bool{
		keyring.Valid: true, keyring.ValidAtTime: true, keyring.Revoked: false, keyring.UnknownTime: false, keyring.OutOfTime: false,
	} {
		if v.Counts() != want {
			t.Error(v)
		}
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	f := keyring.Open(dir)
	if tr, err := f.Trust(); err != nil || len(tr.Keys) != 0 {
		t.Fatal("an empty folder trusts nobody", tr, err)
	}
	if _, err := f.Load("alice", keyring.Submit, now); fault.CodeOf(err) != fault.NotFound {
		t.Fatal(err)
	}
	p, err := f.Generate("alice", keyring.Ed25519, []keyring.Usage{keyring.Submit, keyring.Approve}, now)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal("a private key is for its owner only", info.Mode(), err)
	}
	loaded, err := keyring.Open(dir).Load("alice", keyring.Approve, now)
	if err != nil || loaded.KeyID() != p.KeyID() {
		t.Fatal(err)
	}
	if _, err := f.Load("alice", keyring.Attest, now); fault.CodeOf(err) != fault.NotFound {
		t.Error("loaded for a usage it has not:", err)
	}
	other := generate(t, "bob", keyring.Ed25519, keyring.Approve)
	imported, err := f.Import("bob", []byte(other.Key.Public), []keyring.Usage{keyring.Approve}, now)
	if err != nil || imported.ID != other.Key.ID {
		t.Fatal(err)
	}
	if held, err := f.Held(); err != nil || len(held) != 1 || held[0].Name != "alice" {
		t.Error("only alice's private key is here", held, err)
	}
	if _, err := f.Load("bob", keyring.Approve, now); fault.CodeOf(err) != fault.NotFound {
		t.Error(err)
	}
	fresh, err := f.Rotate(p.KeyID(), hour(1), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := f.Trust()
	if err != nil {
		t.Fatal(err)
	}
	old, _ := tr.Find(p.KeyID())
	if old.NotAfter != hour(25) || !slices.Equal(fresh.Key.Usage, p.Key.Usage) {
		t.Error("rotation overlaps", old, fresh.Key)
	}
	if got, err := f.Load("alice", keyring.Submit, hour(2)); err != nil || got.KeyID() != fresh.KeyID() {
		t.Error("the newest key signs", err)
	}
	if err := f.Revoke(fresh.KeyID(), keyring.Revocation{At: hour(3), Reason: keyring.Compromised}); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load("alice", keyring.Submit, hour(4)); err != nil || got.KeyID() != p.KeyID() {
		t.Error("a revoked key signs nothing; the old one is still in its overlap", err)
	}
	if _, err := f.Load("alice", keyring.Submit, hour(26)); fault.CodeOf(err) != fault.NotFound {
		t.Error("no key is left after the overlap:", err)
	}
	if _, err := f.Rotate(fresh.KeyID(), hour(4), 0); fault.CodeOf(err) != fault.Conflict {
		t.Error("a revoked key is not rotated:", err)
	}
}

func TestFolderRefusesWidePermissionsAndSwaps(t *testing.T) {
	dir := t.TempDir()
	f := keyring.Open(dir)
	a, err := f.Generate("alice", keyring.Ed25519, []keyring.Usage{keyring.Submit}, now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Generate("bob", keyring.Ed25519, []keyring.Usage{keyring.Submit}, now)
	if err != nil {
		t.Fatal(err)
	}
	file := func(p *keyring.Private) string {
		return filepath.Join(dir, "keys", p.Name()+"."+p.KeyID()[:16]+".pem")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o620} {
		if err := os.Chmod(file(a), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load("alice", keyring.Submit, now); fault.CodeOf(err) != fault.Denied {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Rename(file(b), file(a)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load("alice", keyring.Submit, now); fault.CodeOf(err) != fault.Invalid {
		t.Error("the key of another in the place of alice's:", err)
	}
	if err := os.Rename(file(a), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), file(a)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load("alice", keyring.Submit, now); fault.CodeOf(err) != fault.Denied {
		t.Error("a private key behind a link:", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keyring.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Trust(); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	if _, err := f.Generate("carol", keyring.Ed25519, []keyring.Usage{keyring.Submit}, now); fault.CodeOf(err) != fault.Invalid {
		t.Error("a damaged keyring is never written over:", err)
	}
}

func TestParsePublicRefuses(t *testing.T) {
	p := generate(t, "a", keyring.Ed25519, keyring.Submit)
	private, err := p.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"private": private, "two": []byte(p.Key.Public + p.Key.Public), "text": []byte("x"), "empty": nil,
		"damaged": []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
	} {
		if _, err := keyring.ParsePublic(text); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keyring.ParsePrivate([]byte(p.Key.Public), p.Key); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	if back, err := keyring.ParsePrivate(private, p.Key); err != nil || back.KeyID() != p.KeyID() {
		t.Error(err)
	}
}

func FuzzParseTrust(f *testing.F) {
	p, _ := keyring.Generate("alice", keyring.Ed25519, []keyring.Usage{keyring.Submit}, now)
	tr, _ := keyring.Trust{}.With(p.Key)
	raw, _ := tr.Encode()
	f.Add(raw)
	f.Add([]byte(`{"keys":[],"version":"orrery.keyring/v1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := keyring.ParseTrust(b)
		if err != nil {
			return
		}
		for _, k := range tr.Keys {
			v, err := k.Verifier()
			if err != nil || v.ID != k.ID {
				t.Fatal("a key got in whose id is not its own", k, err)
			}
		}
	})
}

// A public key of anybody's is read or refused; one that was read has the same id when it is read again.
func FuzzParsePublic(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGXFnMrgbi+uRyheKbrhM4XbRWUClSVgYqSbIhY2LkSU=\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErGmH4JUgPNQgostMOQcRUyckcP4t\n5pEtnSbfy63QFPHuwmBaFgjqKC/nDrctLmCXO/124Uo+5UGhRKpi39QiQQ==\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pub, err := keyring.ParsePublic(text)
		if err != nil {
			return
		}
		key, err := keyring.NewKey("somebody", pub, []keyring.Usage{keyring.Approve}, 1)
		if err != nil {
			return
		}
		again, err := keyring.ParsePublic([]byte(key.Public))
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if same, err := keyring.NewKey("somebody", again, key.Usage, 1); err != nil || same.ID != key.ID {
			t.Fatalf("the key %s becomes %s, %v", key.ID, same.ID, err)
		}
	})
}
