package keyring_test

import (
	"bytes"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
)

func TestEncrypter(t *testing.T) {
	one, err := keyring.NewEncrypter(bytes.Repeat([]byte{1}, keyring.EncryptionKeySize))
	if err != nil {
		t.Fatal(err)
	}
	two, err := keyring.NewEncrypter(bytes.Repeat([]byte{2}, keyring.EncryptionKeySize))
	if err != nil || one.ID == two.ID {
		t.Fatal(one.ID, two.ID, err)
	}
	hidden := one.Encrypt([]byte("text"), "a")
	if again := one.Encrypt([]byte("text"), "a"); bytes.Equal(hidden, again) {
		t.Error("the same text gives the same bytes")
	}
	if text, err := one.Decrypt(hidden, "a"); err != nil || string(text) != "text" {
		t.Error(text, err)
	}
	for i := range hidden {
		changed := bytes.Clone(hidden)
		changed[i] ^= 1
		if _, err := one.Decrypt(changed, "a"); fault.CodeOf(err) != fault.Unverified {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	if _, err := one.Decrypt(hidden, "b"); fault.CodeOf(err) != fault.Unverified {
		t.Error("read for something else:", err)
	}
	if _, err := two.Decrypt(hidden, "a"); fault.CodeOf(err) != fault.Unverified {
		t.Error("read with another key:", err)
	}
	if _, err := one.Decrypt(nil, "a"); fault.CodeOf(err) != fault.Unverified {
		t.Error("nothing:", err)
	}
	if _, err := keyring.NewEncrypter([]byte("short")); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}
