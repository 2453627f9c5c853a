package dsse_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
)

// What OpenSSL signs with a key on secp256k1 we verify, and nothing else.
func TestSecp256k1(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed; apt-get install openssl")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	openssl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	openssl("ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", at("key.pem"))
	openssl("ec", "-in", at("key.pem"), "-pubout", "-out", at("pub.pem"))
	text, err := os.ReadFile(at("pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	pub, err := dsse.ParsePublic(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, err := dsse.NewKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := dsse.MarshalPublic(pub); err != nil || !bytes.Equal(again, block.Bytes) {
		t.Errorf("the key has another form than OpenSSL's: %x %v", again, err)
	}
	sign := func(pae []byte) ([]byte, error) {
		if err := os.WriteFile(at("pae"), pae, 0o600); err != nil {
			return nil, err
		}
		openssl("dgst", "-sha256", "-sign", at("key.pem"), "-out", at("sig"), at("pae"))
		return os.ReadFile(at("sig"))
	}
	e, err := dsse.Sign("text/plain", []byte("payload"), key.ID, sign)
	if err != nil {
		t.Fatal(err)
	}
	if got, id, err := dsse.Verify(e, "text/plain", []dsse.Key{key}); err != nil || string(got) != "payload" || id != key.ID {
		t.Errorf("%q %s %v", got, id, err)
	}
	e.Signatures[0].Sig[len(e.Signatures[0].Sig)-1] ^= 1
	if _, _, err := dsse.Verify(e, "text/plain", []dsse.Key{key}); fault.CodeOf(err) != fault.Unverified {
		t.Errorf("a broken signature: %v", err)
	}
	if _, err := dsse.NewSecp256k1(make([]byte, 33)); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("a point that is none: %v", err)
	}
	if _, err := dsse.NewKey(dsse.Secp256k1{}); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("an empty key: %v", err)
	}
}
