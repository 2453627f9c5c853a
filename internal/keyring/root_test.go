package keyring_test

import (
	"bytes"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// signRoot makes the file that follows prev, with the signatures of keys.
func signRoot(t testing.TB, prev keyring.Root, tr keyring.Trust, threshold int, keys ...*keyring.Private) []byte {
	t.Helper()
	r, err := keyring.NextRoot(prev, tr, threshold, hour(int(prev.Number)), hour(int(prev.Number)+100))
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Sign(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	raw := e.Encode()
	for _, k := range keys[1:] {
		if e, err = keyring.CosignRoot(raw, k); err != nil {
			t.Fatal(err)
		}
		raw = e.Encode()
	}
	return raw
}

func openRoot(t testing.TB, raw []byte) keyring.Root {
	t.Helper()
	r, err := keyring.OpenRoot(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRootNeedsItsThreshold(t *testing.T) {
	a, b := generate(t, "a", keyring.Ed25519, keyring.RootKey), generate(t, "b", keyring.ECDSAP256, keyring.RootKey)
	other := generate(t, "c", keyring.Ed25519, keyring.RootKey)
	tr := trust(t, a, b, generate(t, "alice", keyring.Ed25519, keyring.Submit))
	for name, c := range map[string]struct {
		keys []*keyring.Private
		want fault.Code
	}{
		"both":            {[]*keyring.Private{a, b}, ""},
		"one":             {[]*keyring.Private{a}, fault.Unverified},
		"one twice":       {[]*keyring.Private{a, a}, fault.Unverified},
		"one and nobody":  {[]*keyring.Private{a, other}, fault.Unverified},
		"both and nobody": {[]*keyring.Private{other, b, a}, ""},
	} {
		if _, err := keyring.OpenRoot(signRoot(t, keyring.Root{}, tr, 2, c.keys...)); fault.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keyring.NextRoot(keyring.Root{}, tr, 3, now, hour(1)); fault.CodeOf(err) != fault.Invalid {
		t.Error("more signatures demanded than there are keys:", err)
	}
	if _, err := keyring.NextRoot(keyring.Root{}, tr, 1, now, now); fault.CodeOf(err) != fault.Invalid {
		t.Error("an end at the beginning:", err)
	}
	r := openRoot(t, signRoot(t, keyring.Root{}, tr, 1, a))
	if err := r.Current(r.ExpiresAt); err != nil {
		t.Error("ended too early:", err)
	}
	if err := r.Current(r.ExpiresAt + 1); fault.CodeOf(err) != fault.Unavailable {
		t.Error("no end:", err)
	}
}

func TestRootFollowsRoot(t *testing.T) {
	a, b, c := generate(t, "a", keyring.Ed25519, keyring.RootKey), generate(t, "b", keyring.Ed25519, keyring.RootKey), generate(t, "c", keyring.Ed25519, keyring.RootKey)
	old := trust(t, a, b)
	first := openRoot(t, signRoot(t, keyring.Root{}, old, 2, a, b))
	all := trust(t, a, b, c)
	stolen, err := all.Revoke(a.Key.ID, keyring.Revocation{At: hour(1), Reason: keyring.Compromised})
	if err != nil {
		t.Fatal(err)
	}
	second := signRoot(t, first, all, 2, a, b)
	later, err := first.Accept(second)
	if err != nil || later.Number != 2 {
		t.Fatal(later.Number, err)
	}
	for name, c := range map[string]struct {
		from keyring.Root
		raw  []byte
		want fault.Code
	}{
		"again":                     {later, second, fault.Conflict},
		"an older one":              {later, signRoot(t, keyring.Root{}, old, 2, a, b), fault.Conflict},
		"one left out":              {first, signRoot(t, later, all, 2, a, b), fault.Conflict},
		"not by the old ones":       {first, signRoot(t, first, all, 2, b, c), fault.Unverified},
		"not by the new ones":       {first, signRoot(t, first, trust(t, b, c), 2, a, b), fault.Unverified},
		"by the old and new ones":   {first, signRoot(t, first, trust(t, b, c), 2, a, b, c), ""},
		"by a key that is revoked":  {later, signRoot(t, later, stolen, 2, a, b), fault.Unverified},
		"without the revoked one":   {later, signRoot(t, later, stolen, 2, c, b), ""},
		"a lower threshold":         {first, signRoot(t, first, all, 1, a), fault.Unverified},
		"a lower threshold, agreed": {first, signRoot(t, first, all, 1, a, b), ""},
	} {
		if _, err := c.from.Accept(c.raw); fault.CodeOf(err) != c.want {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
	own, before, err := keyring.Missing(signRoot(t, first, trust(t, b, c), 2, b), first)
	if own != 1 || before != 1 || err != nil {
		t.Error("missing:", own, before, err)
	}
}

// Whoever hands the file on changes nothing in it.
func TestRootIsBytes(t *testing.T) {
	a := generate(t, "a", keyring.Ed25519, keyring.RootKey)
	raw := signRoot(t, keyring.Root{}, trust(t, a), 1, a)
	whole := openRoot(t, raw)
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		if r, err := keyring.OpenRoot(changed); err == nil && (r.Number != whole.Number || r.ExpiresAt != whole.ExpiresAt || len(r.Keyring.Keys) != 1) {
			t.Fatalf("byte %d flipped is taken for another root", i)
		}
	}
	k := generate(t, "s", keyring.Ed25519, keyring.Submit)
	if _, err := whole.Sign(k); fault.CodeOf(err) != fault.Denied {
		t.Error("signed by a key for something else:", err)
	}
	forged, err := k.Sign(t.Context(), keyring.RootType, []byte(`{"number":2,"x":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.OpenRoot(forged.Encode()); fault.CodeOf(err) != fault.Invalid {
		t.Error("unknown fields:", err)
	}
}

func TestTrustFileInEitherForm(t *testing.T) {
	a := generate(t, "a", keyring.Ed25519, keyring.RootKey)
	tr := trust(t, a)
	plain, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	signed := signRoot(t, keyring.Root{}, tr, 1, a)
	for name, raw := range map[string][]byte{"keyring": plain, "signed": append(signed, '\n')} {
		got, err := keyring.ParseTrustFile(raw)
		if err != nil || len(got.Keys) != 1 {
			t.Error(name, got, err)
		}
	}
	bad, _ := dsse.Sign(keyring.RootType, []byte("{}"), "", func([]byte) ([]byte, error) { return []byte("x"), nil })
	if _, err := keyring.ParseTrustFile(bad.Encode()); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func FuzzOpenRoot(f *testing.F) {
	a, err := keyring.Generate("a", keyring.Ed25519, []keyring.Usage{keyring.RootKey}, work.Time(now))
	if err != nil {
		f.Fatal(err)
	}
	tr, err := keyring.Trust{}.With(a.Key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signRoot(f, keyring.Root{}, tr, 1, a))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := keyring.OpenRoot(raw)
		if err != nil {
			return
		}
		if r.Number < 1 || r.Threshold < 1 || r.ExpiresAt <= r.IssuedAt {
			t.Fatalf("taken for a trust root: %+v", r)
		}
	})
}
