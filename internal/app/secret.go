package app

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// maxSecret bounds a secret: more is a mistake.
const maxSecret = 64 << 10

// ageIdentities names the variable with the file of the identities that age-encrypted secrets are read with.
const ageIdentities = "ORRERY_AGE_IDENTITIES"

// resolveSecret finds the value of a secret where its reference says: env:NAME, file:/path or age:/path. The value goes to the step and to
// the redactor and nowhere else.
func resolveSecret(_ work.Tenant, ref string) ([]byte, error) {
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
	default:
		return nil, fault.New(fault.Invalid, "a secret's reference begins with env:, file: or age:, not %q", kind)
	}
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
