package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/keystore"
)

// encryptionKeyFile is the key in the data folder, when no other is named.
const encryptionKeyFile = "encryption.key"

// encrypt reads the encryption key of a server and holds it to the one that the store began with. One that the operator named must be there.
func (f *Folder) encrypt(ctx context.Context) (err error) {
	if f.EncryptionKey != "" {
		f.encrypter, err = readEncryptionKey(f.EncryptionKey)
	} else {
		f.encrypter, err = makeEncryptionKey(filepath.Join(f.Dir, encryptionKeyFile))
	}
	if err != nil {
		return err
	}
	return f.keystore().Check(ctx)
}

func (f *Folder) keystore() *keystore.Store {
	return &keystore.Store{Records: f.Store, Encrypter: f.encrypter}
}

// readEncryptionKey reads a file with a key of 32 bytes in base64. Errors: fault.NotFound, fault.Denied when others may read the file,
// fault.Invalid.
func readEncryptionKey(path string) (*keyring.Encrypter, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "there is no encryption key %s", path).WithHint("openssl rand -base64 32 > %s; chmod 600 %s", path, path)
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "the encryption key: %v", err)
	}
	if exposed(info) {
		return nil, fault.New(fault.Denied, "others may read the encryption key %s", path).WithHint("chmod 600 %s", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the encryption key: %v", err)
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(raw)))
	if err != nil || len(key) != keyring.EncryptionKeySize {
		return nil, fault.New(fault.Invalid, "%s holds no encryption key: 32 bytes in base64", path).WithHint("openssl rand -base64 32")
	}
	return keyring.NewEncrypter(key)
}

// makeEncryptionKey is readEncryptionKey for a file that is made when it is missing.
func makeEncryptionKey(path string) (*keyring.Encrypter, error) {
	e, err := readEncryptionKey(path)
	if fault.CodeOf(err) != fault.NotFound {
		return e, err
	}
	var key [keyring.EncryptionKeySize]byte
	_, _ = rand.Read(key[:]) // never fails, by its documentation
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the encryption key")
	}
	// Two servers that share a folder may make it at the same time: the first one counts.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return readEncryptionKey(path)
	}
	if err == nil {
		_, err = f.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the encryption key")
	}
	return keyring.NewEncrypter(key[:])
}
