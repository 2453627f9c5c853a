package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"

	"orrery.example/orrery/internal/fault"
)

// Encrypter encrypts what servers keep in a store that others may read, such as private keys: AES-256-GCM with a random nonce.
type Encrypter struct {
	aead cipher.AEAD

	// ID names the key without giving it away: who has another one is told so, rather than that something is damaged.
	ID string
}

// EncryptionKeySize is how many bytes an encryption key has.
const EncryptionKeySize = 32

// NewEncrypter returns an encrypter with a key of 32 random bytes. Error: fault.Invalid.
func NewEncrypter(key []byte) (*Encrypter, error) {
	if len(key) != EncryptionKeySize {
		return nil, fault.New(fault.Invalid, "an encryption key has %d bytes, not %d", EncryptionKeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the encryption key")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the encryption key")
	}
	sum := sha256.Sum256(append([]byte("orrery encryption key\x00"), key...))
	return &Encrypter{aead, hex.EncodeToString(sum[:8])}, nil
}

// Encrypt returns text under the key. About says what it belongs to, and is needed to read it: nobody puts it in another place.
func (e *Encrypter) Encrypt(text []byte, about string) []byte {
	return e.aead.Seal(nil, nil, text, []byte(about))
}

// Decrypt is the inverse of Encrypt. Error: fault.Unverified for what was encrypted with another key, for something else, or was changed.
func (e *Encrypter) Decrypt(encrypted []byte, about string) ([]byte, error) {
	text, err := e.aead.Open(nil, nil, encrypted, []byte(about))
	if err != nil {
		return nil, fault.New(fault.Unverified, "what is kept of %s was not encrypted with the key %s, or was changed", about, e.ID)
	}
	return text, nil
}
