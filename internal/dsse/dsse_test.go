package dsse_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
)

const helloType = "http://example.com/HelloWorld"

func TestPAESpecificationVector(t *testing.T) {
	if got := string(dsse.PAE(helloType, []byte("hello world"))); got != "DSSEv1 29 http://example.com/HelloWorld 11 hello world" {
		t.Fatal(got)
	}
	if got := string(dsse.PAE("é", nil)); got != "DSSEv1 2 é 0 " {
		t.Fatalf("lengths count bytes: %q", got)
	}
}

// The key and signature of protocol.md of the specification; its signature is r||s, ours is DER.
func TestSpecificationSignature(t *testing.T) {
	point := make([]byte, 65)
	point[0] = 4 // uncompressed
	for i, s := range []string{
		"46950820868899156662930047687818585632848591499744589407958293238635476079160",
		"5640078356564379163099075877009565129882514886557779369047442380624545832820",
	} {
		n, _ := new(big.Int).SetString(s, 10)
		n.FillBytes(point[1+32*i : 33+32*i])
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
	if err != nil {
		t.Fatal(err)
	}
	key, err := dsse.NewKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	for sig, want := range map[string]bool{string(der): true, string(raw): false, string(der) + "x": false} {
		e, err := dsse.Sign(helloType, []byte("hello world"), key.ID, func([]byte) ([]byte, error) { return []byte(sig), nil })
		if err != nil {
			t.Fatal(err)
		}
		payload, id, err := dsse.Verify(e, helloType, []dsse.Key{key})
		if (err == nil) != want {
			t.Errorf("signature of %d bytes: %v", len(sig), err)
		}
		if want && (string(payload) != "hello world" || id != key.ID) {
			t.Error("wrong payload or key", string(payload), id)
		}
	}
}

type pair struct {
	private crypto.Signer
	key     dsse.Key
}

func newPair(t testing.TB, ed bool) pair {
	t.Helper()
	var private crypto.Signer
	var err error
	if ed {
		_, private, err = ed25519.GenerateKey(rand.Reader)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := dsse.NewKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pair{private, key}
}

func (p pair) sign(t testing.TB, payloadType, payload string) dsse.Envelope {
	t.Helper()
	e, err := dsse.Sign(payloadType, []byte(payload), p.key.ID, func(pae []byte) ([]byte, error) {
		if _, ok := p.private.(ed25519.PrivateKey); ok {
			return p.private.Sign(rand.Reader, pae, crypto.Hash(0))
		}
		sum := sha256.Sum256(pae)
		return p.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestVerify(t *testing.T) {
	for _, ed := range []bool{false, true} {
		mine, other := newPair(t, ed), newPair(t, !ed)
		e := mine.sign(t, "text/plain", "payload")
		decoded, err := dsse.Decode(e.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if payload, id, err := dsse.Verify(decoded, "text/plain", []dsse.Key{other.key, mine.key}); err != nil || string(payload) != "payload" || id != mine.key.ID {
			t.Fatal(string(payload), id, err)
		}
		unnamed := decoded
		unnamed.Signatures = []dsse.Signature{{Sig: decoded.Signatures[0].Sig}}
		if _, id, err := dsse.Verify(unnamed, "text/plain", []dsse.Key{other.key, mine.key}); err != nil || id != mine.key.ID {
			t.Error("an envelope without a key id is tried with every key:", err)
		}
		relabelled := decoded
		relabelled.Signatures = []dsse.Signature{{KeyID: other.key.ID, Sig: decoded.Signatures[0].Sig}}
		doubled := decoded
		doubled.Signatures = append([]dsse.Signature{}, decoded.Signatures[0], decoded.Signatures[0])
		retyped := decoded
		retyped.Type = "text/html"
		bent := decoded
		bent.Signatures = []dsse.Signature{{KeyID: mine.key.ID, Sig: append([]byte{decoded.Signatures[0].Sig[0] ^ 1}, decoded.Signatures[0].Sig[1:]...)}}
		for name, c := range map[string]struct {
			e    dsse.Envelope
			typ  string
			keys []dsse.Key
			code fault.Code
		}{
			"no key":         {decoded, "text/plain", nil, fault.Untrusted},
			"other key":      {decoded, "text/plain", []dsse.Key{other.key}, fault.Untrusted},
			"other type":     {decoded, "text/html", []dsse.Key{mine.key}, fault.Unverified},
			"retyped":        {retyped, "text/html", []dsse.Key{mine.key}, fault.Unverified},
			"relabelled":     {relabelled, "text/plain", []dsse.Key{mine.key, other.key}, fault.Unverified},
			"two signatures": {doubled, "text/plain", []dsse.Key{mine.key}, fault.Unverified},
			"bent":           {bent, "text/plain", []dsse.Key{mine.key}, fault.Unverified},
		} {
			payload, _, err := dsse.Verify(c.e, c.typ, c.keys)
			if fault.CodeOf(err) != c.code || payload != nil {
				t.Errorf("ed25519=%v %s: %v, payload %q", ed, name, err, payload)
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := `{"payload":"aGk=","payloadType":"t","signatures":[{"keyid":"k","sig":"AAA="}]}`
	if _, err := dsse.Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"empty":                 ``,
		"list":                  `[]`,
		"text after":            good + `{}`,
		"bracket after":         good + `}`,
		"double payload":        strings.Replace(good, `{"payload"`, `{"payload":"aGk=","payload"`, 1),
		"double unknown":        strings.Replace(good, `{`, `{"x":1,"x":1,`, 1),
		"case variant":          strings.Replace(good, `{`, `{"Payload":"aG8=",`, 1),
		"case variant in sig":   strings.Replace(good, `"sig"`, `"SIG":"AAA=","sig"`, 1),
		"no payload":            strings.Replace(good, `"payload":"aGk=",`, ``, 1),
		"no type":               strings.Replace(good, `"payloadType":"t",`, ``, 1),
		"no signatures":         strings.Replace(good, `,"signatures":[{"keyid":"k","sig":"AAA="}]`, ``, 1),
		"signatures empty":      strings.Replace(good, `{"keyid":"k","sig":"AAA="}`, ``, 1),
		"signature without sig": strings.Replace(good, `,"sig":"AAA="`, ``, 1),
		"null payload":          strings.Replace(good, `"aGk="`, `null`, 1),
		"unpadded":              strings.Replace(good, `aGk=`, `aGk`, 1),
		"stray bits":            strings.Replace(good, `aGk=`, `aGl=`, 1),
		"line break":            strings.Replace(good, `aGk=`, `aG\nk=`, 1),
		"space in base64":       strings.Replace(good, `aGk=`, `aG k=`, 1),
		"mixed alphabets":       strings.Replace(good, `aGk=`, `+_==`, 1),
		"bad utf-8":             strings.Replace(good, `"t"`, "\"\xff\"", 1),
		"big signature":         strings.Replace(good, `AAA=`, strings.Repeat("AAAA", 300), 1),
		"17 signatures":         strings.Replace(good, `[`, `[`+strings.Repeat(`{"sig":"AAA="},`, 16), 1),
		"long type":             strings.Replace(good, `"t"`, `"`+strings.Repeat("t", 257)+`"`, 1),
	} {
		if _, err := dsse.Decode([]byte(raw)); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, raw := range map[string]string{
		"unknown field": strings.Replace(good, `{`, `{"x":{"y":[1]},`, 1),
		"url alphabet":  strings.Replace(good, `aGk=`, `-_8=`, 1),
		"std alphabet":  strings.Replace(good, `aGk=`, `+/8=`, 1),
		"white space":   " " + strings.ReplaceAll(good, ",", " ,\n") + "\n",
		"no keyid":      strings.Replace(good, `"keyid":"k",`, ``, 1),
	} {
		if _, err := dsse.Decode([]byte(raw)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewKeyRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, pub := range []crypto.PublicKey{&p384.PublicKey, &rsa.PublicKey{N: big.NewInt(15), E: 3}, ed25519.PublicKey("short"), nil} {
		if _, err := dsse.NewKey(pub); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%T: %v", pub, err)
		}
	}
}

func TestLimits(t *testing.T) {
	unused := func([]byte) ([]byte, error) { return nil, errors.New("signed beyond the limits") }
	if _, err := dsse.Sign("t", make([]byte, dsse.MaxPayload+1), "", unused); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
	for _, typ := range []string{"", strings.Repeat("t", 257), "\xff"} {
		if _, err := dsse.Sign(typ, nil, "", unused); fault.CodeOf(err) != fault.Invalid {
			t.Error(err)
		}
	}
	if _, err := dsse.Decode(make([]byte, dsse.MaxEnvelope+1)); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	e := newPair(t, true).sign(t, "a \"type\"\twith\x01 escapes ü", "p")
	raw, err := json.Marshal(struct{ E dsse.Envelope }{e})
	if err != nil {
		t.Fatal(err)
	}
	var back struct{ E dsse.Envelope }
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.E.Encode(), e.Encode()) || back.E.Type != e.Type {
		t.Fatalf("%s\n%s", back.E.Encode(), e.Encode())
	}
}

// What we sign, OpenSSL verifies; what OpenSSL signs, we verify.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed; apt-get install openssl")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(at(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openssl := func(args ...string) error {
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if err != nil {
			t.Logf("openssl %v: %s", args, out)
		}
		return err
	}
	for _, ed := range []bool{false, true} {
		p := newPair(t, ed)
		e := p.sign(t, "text/plain", "payload")
		pub, err := x509.MarshalPKIXPublicKey(p.key.Public)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(p.private)
		if err != nil {
			t.Fatal(err)
		}
		write("pub.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
		write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
		write("pae", dsse.PAE("text/plain", []byte("payload")))
		write("sig", e.Signatures[0].Sig)
		check := []string{"dgst", "-sha256", "-verify", at("pub.pem"), "-signature", at("sig"), at("pae")}
		sign := []string{"dgst", "-sha256", "-sign", at("key.pem"), "-out", at("sig2"), at("pae")}
		if ed {
			check = []string{"pkeyutl", "-verify", "-pubin", "-inkey", at("pub.pem"), "-rawin", "-in", at("pae"), "-sigfile", at("sig")}
			sign = []string{"pkeyutl", "-sign", "-inkey", at("key.pem"), "-rawin", "-in", at("pae"), "-out", at("sig2")}
		}
		if err := openssl(check...); err != nil {
			t.Errorf("ed25519=%v: OpenSSL refuses our signature", ed)
		}
		if err := openssl(sign...); err != nil {
			t.Fatal(err)
		}
		theirs, err := os.ReadFile(at("sig2"))
		if err != nil {
			t.Fatal(err)
		}
		e.Signatures = []dsse.Signature{{KeyID: p.key.ID, Sig: theirs}}
		if _, _, err := dsse.Verify(e, "text/plain", []dsse.Key{p.key}); err != nil {
			t.Errorf("ed25519=%v: we refuse OpenSSL's signature: %v", ed, err)
		}
	}
}

// Whatever decodes, encodes to canonical text that decodes to the same envelope.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"payload":"aGk=","payloadType":"t","signatures":[{"keyid":"k","sig":"AAA="}]}`))
	f.Add([]byte(`{"x":[],"payload":"-_8=","payloadType":"\u0007","signatures":[{"sig":""}]}`))
	f.Add([]byte(`{"payload":"","payload":"","payloadType":"t","signatures":[]}`))
	f.Add([]byte(`{"payload":"","payloadType":"t","signatures":[{"batch":{"index":1,"proof":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],"size":2},"sig":"AAA="}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := dsse.Decode(raw)
		if err != nil {
			return
		}
		once := e.Encode()
		again, err := dsse.Decode(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if !bytes.Equal(again.Encode(), once) {
			t.Fatalf("%s\n%s", once, again.Encode())
		}
		if _, _, err := dsse.Verify(e, e.Type, nil); err == nil {
			t.Fatal("verified without a key")
		}
	})
}
