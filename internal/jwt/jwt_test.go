package jwt

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

func signer(t testing.TB) (dsse.Key, func([]byte) ([]byte, error)) {
	t.Helper()
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	public, err := dsse.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return public, func(text []byte) ([]byte, error) { return ed25519.Sign(key, text), nil }
}

func approval() Approval {
	return Approval{
		Run: "run_1", Gate: "gate", PlanHash: work.Digest("sha256:" + strings.Repeat("a", 64)), Decision: "approved", Reason: "fine",
		Approver: "ben", ID: "0123456789abcdef", Issued: 1_000_000, Expires: 1_000_300,
	}
}

func TestRoundTrip(t *testing.T) {
	key, sign := signer(t)
	token, err := Sign(approval(), key, sign)
	if err != nil {
		t.Fatal(err)
	}
	got, id, err := Verify(token, []dsse.Key{key})
	if err != nil || got != approval() || id != key.ID {
		t.Fatalf("%+v by %s: %v", got, id, err)
	}
	if _, _, err := Verify(token, nil); fault.CodeOf(err) != fault.Untrusted {
		t.Errorf("a key that nobody trusts: %v", err)
	}
	for i := range token { // whatever changes, nothing else is read
		changed := token[:i] + string(token[i]^1) + token[i+1:]
		if got, _, err := Verify(changed, []dsse.Key{key}); err == nil && got != approval() {
			t.Fatalf("changed at %d it says %+v", i, got)
		}
	}
}

func TestCounts(t *testing.T) {
	second := func(s int64) work.Time { return work.Time(s * 1_000_000) }
	a := approval()
	for at, ok := range map[int64]bool{
		a.Issued - Skew - 1: false, a.Issued - Skew: true, a.Issued: true, a.Expires: true, a.Expires + Skew - 1: true, a.Expires + Skew: false,
	} {
		if err := a.Counts(second(at)); (err == nil) != ok {
			t.Errorf("at %d: %v", at, err)
		}
	}
	for name, change := range map[string]func(*Approval){
		"ends before it begins": func(a *Approval) { a.Expires = a.Issued },
		"too long":              func(a *Approval) { a.Expires = a.Issued + MaxLife + 1 },
		"without a begin":       func(a *Approval) { a.Issued = 0 },
		"beyond all numbers":    func(a *Approval) { a.Issued, a.Expires = -1<<63, 1<<63-1 },
	} {
		b := approval()
		change(&b)
		if err := b.Counts(second(a.Issued)); err == nil {
			t.Errorf("a token that is %s counts", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key, sign := signer(f)
	good, err := Sign(approval(), key, sign)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("a.b.c")
	f.Add("..")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Fuzz(func(t *testing.T, token string) {
		got, id, err := Verify(token, []dsse.Key{key})
		if err == nil && (got != approval() || id != key.ID) { // nobody else has the key
			t.Errorf("%q is read as %+v", token, got)
		}
	})
}
