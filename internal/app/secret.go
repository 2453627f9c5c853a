package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"filippo.io/age"
	"filippo.io/age/armor"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/keystore"
	"orrery.example/orrery/internal/vault"
	"orrery.example/orrery/internal/work"
)

// maxSecret bounds a secret: more is a mistake.
const maxSecret = 64 << 10

// ageIdentities names the variable with the file of the identities that age-encrypted secrets are read with.
const ageIdentities = "ORRERY_AGE_IDENTITIES"

// secrets finds the values of secrets with what this process can reach.
type secrets struct {
	mu    sync.Mutex
	vault *vault.Client // made at the first use
}

// resolve finds the value of a secret where its reference says: env:NAME, file:/path, age:/path or vault:path#field. The value goes to the
// step and to the redactor and nowhere else.
func (s *secrets) resolve(_ work.Tenant, ref string) ([]byte, error) {
	kind, where, _ := strings.Cut(ref, ":")
	switch kind {
	case "env":
		v, ok := os.LookupEnv(where)
		if !ok || v == "" {
			return nil, fault.New(fault.NotFound, "the secret's environment variable %s is not set", where).
				WithHint("export %s before orrery run", where)
		}
		return []byte(v), nil
	case "file":
		raw, err := readSecret(where)
		return trimmed(raw), err
	case "age":
		return decryptSecret(where)
	case "vault":
		return s.fetch(where)
	default:
		return nil, fault.New(fault.Invalid, "a secret's reference begins with env:, file:, age: or vault:, not %q", kind)
	}
}

// fetch reads a secret from the Vault server that the environment names.
func (s *secrets) fetch(where string) ([]byte, error) {
	entry, field, err := vault.Parse(where)
	if err != nil {
		return nil, err
	}
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	value, err := client.Read(context.Background(), entry, field) // it bounds its own time
	if err == nil && len(value) > maxSecret {
		return nil, fault.New(fault.Invalid, "the field %s of %s is larger than %d bytes", field, entry, maxSecret)
	}
	return trimmed(value), err
}

// client keeps one client, and with it a login, for as long as the process runs.
func (s *secrets) client() (*vault.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vault != nil {
		return s.vault, nil
	}
	settings := vault.Settings{
		Address: os.Getenv("VAULT_ADDR"), Namespace: os.Getenv("VAULT_NAMESPACE"), CA: os.Getenv("VAULT_CACERT"),
		TokenFile: os.Getenv("VAULT_TOKEN_FILE"), Token: os.Getenv("VAULT_TOKEN"),
		RoleID: os.Getenv("VAULT_ROLE_ID"), SecretIDFile: os.Getenv("VAULT_SECRET_ID_FILE"), SecretID: os.Getenv("VAULT_SECRET_ID"),
		Mount: os.Getenv("VAULT_APPROLE_MOUNT"),
	}
	if settings.Address == "" {
		return nil, fault.New(fault.NotFound, "no Vault server is known where the step runs: VAULT_ADDR is not set").
			WithHint("export VAULT_ADDR=https://vault.example.org:8200")
	}
	var err error
	s.vault, err = vault.New(settings)
	return s.vault, err
}

func trimmed(raw []byte) []byte { return bytes.TrimRight(raw, "\r\n") }

func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(fault.NotFound, "the secret's file %s cannot be read: %v", path, errors.Unwrap(err))
	}
	if info.Size() > maxSecret {
		return nil, fault.New(fault.Invalid, "the secret's file %s is larger than %d bytes", path, maxSecret)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.NotFound, "the secret's file %s cannot be read", path)
	}
	return raw, nil
}

// decryptSecret reads a file that was encrypted with age, binary or armored, with the identities of this machine.
func decryptSecret(path string) ([]byte, error) {
	raw, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	keys := os.Getenv(ageIdentities)
	if keys == "" {
		return nil, fault.New(fault.NotFound, "nothing here decrypts %s: %s names no file with identities", path, ageIdentities).
			WithHint("age-keygen makes one")
	}
	info, err := os.Stat(keys)
	if err != nil {
		return nil, fault.New(fault.NotFound, "the age identities: %v", err)
	}
	if exposed(info) {
		return nil, fault.New(fault.Denied, "others may read the age identities %s", keys).WithHint("chmod 600 %s", keys)
	}
	text, err := os.ReadFile(keys)
	if err != nil {
		return nil, fault.New(fault.NotFound, "the age identities: %v", err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s holds no age identities", keys).WithHint("age-keygen makes a file that does")
	}
	var in io.Reader = bytes.NewReader(raw)
	if bytes.HasPrefix(raw, []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	plain, err := age.Decrypt(in, identities...)
	if err != nil {
		return nil, fault.New(fault.Denied, "the secret's file %s is not encrypted for the identities in %s, or is damaged", path, keys)
	}
	value, err := io.ReadAll(io.LimitReader(plain, maxSecret+1))
	if err != nil {
		return nil, fault.New(fault.Unverified, "the secret's file %s is damaged", path)
	}
	return trimmed(value), nil
}

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
