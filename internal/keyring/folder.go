package keyring

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Folder is a keyring on disk: keyring.json beside the folder keys/. It is safe for concurrent use within one process;
// between processes the one that holds the data folder writes.
type Folder struct {
	dir string
	mu  sync.Mutex

	parsed struct { // the trust root that was read last, and its text
		sync.Mutex
		raw   []byte
		trust Trust
	}
}

const (
	trustFile  = "keyring.json"
	keysFolder = "keys"
	maxFile    = 4 << 20
)

// Open returns the keyring of a data folder. Nothing is created before the first key.
func Open(dir string) *Folder { return &Folder{dir: dir} }

// Trust returns the trust root; without keyring.json it trusts nobody. Error: fault.Invalid for a damaged file.
func (f *Folder) Trust() (Trust, error) {
	raw, err := readUpTo(filepath.Join(f.dir, trustFile), false)
	if errors.Is(err, fs.ErrNotExist) {
		return Trust{Version: TrustVersion}, nil
	}
	if err != nil {
		return Trust{}, err
	}
	t, err := f.parse(raw)
	return t, fault.Wrap(fault.Invalid, err, "%s", filepath.Join(f.dir, trustFile))
}

// parse is ParseTrust. The file is read for every question, but its text hardly ever changes.
func (f *Folder) parse(raw []byte) (Trust, error) {
	f.parsed.Lock()
	defer f.parsed.Unlock()
	if f.parsed.raw == nil || !bytes.Equal(f.parsed.raw, raw) {
		t, err := ParseTrust(raw)
		if err != nil {
			return Trust{}, err
		}
		f.parsed.raw, f.parsed.trust = raw, t
	}
	t := f.parsed.trust
	t.Keys = slices.Clone(t.Keys) // who asked may change what he got
	return t, nil
}

// Generate makes a key, keeps its private part in the folder and trusts its public part. A name may have several keys.
func (f *Folder) Generate(name string, a Algorithm, usage []Usage, now work.Time) (*Private, error) {
	p, err := Generate(name, a, usage, now)
	if err != nil {
		return nil, err
	}
	text, err := p.PEM()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(f.dir, keysFolder), 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "make the folder for keys")
	}
	// The private part comes first: a key without trust is of no use, trust without a key locks its owner out.
	if err := replace(f.file(p.Key), text, 0o600); err != nil {
		return nil, err
	}
	return p, f.change(func(t Trust) (Trust, error) { return t.With(p.Key) })
}

// Load returns the private key to sign with at the time now: of those of the name that have the usage and are valid, the
// newest whose private part is here. Errors: fault.NotFound, fault.Denied when others may read the file, fault.Invalid.
func (f *Folder) Load(name string, u Usage, now work.Time) (*Private, error) {
	t, err := f.Trust()
	if err != nil {
		return nil, err
	}
	for _, k := range t.Named(name) {
		if !k.May(u) || Judge(k, Moment{At: now}, now) != Valid {
			continue
		}
		text, err := readUpTo(f.file(k), true)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return ParsePrivate(text, k)
	}
	return nil, fault.New(fault.NotFound, "there is no valid private key of %s to %s with", name, u).WithHint("orrery keys generate %s", name)
}

// Held returns the keys whose private part is in the folder, in the order of the trust document.
func (f *Folder) Held() ([]Key, error) {
	t, err := f.Trust()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(t.Keys), func(k Key) bool {
		_, err := os.Lstat(f.file(k))
		return err != nil
	}), nil
}

// Import trusts the public key of somebody else. Errors: those of NewKey and Trust.With.
func (f *Folder) Import(name string, public []byte, usage []Usage, now work.Time) (Key, error) {
	pub, err := ParsePublic(public)
	if err != nil {
		return Key{}, err
	}
	k, err := NewKey(name, pub, usage, now)
	if err != nil {
		return Key{}, err
	}
	return k, f.change(func(t Trust) (Trust, error) { return t.With(k) })
}

// Revoke ends the trust in a key. Errors: those of Trust.Revoke.
func (f *Folder) Revoke(id string, r Revocation) error {
	return f.change(func(t Trust) (Trust, error) { return t.Revoke(id, r) })
}

// Rotate gives the owner of a key a new one of the same kind. The old one stays valid for the overlap, for what is under way.
func (f *Folder) Rotate(id string, now work.Time, overlap time.Duration) (*Private, error) {
	t, err := f.Trust()
	if err != nil {
		return nil, err
	}
	old, ok := t.Find(id)
	if !ok {
		return nil, fault.New(fault.NotFound, "the keyring has no key %.12s", id)
	}
	if Judge(old, Moment{At: now}, now) != Valid {
		return nil, fault.New(fault.Conflict, "the key %.12s of %s is not valid any more", id, old.Name)
	}
	p, err := f.Generate(old.Name, old.Algorithm, old.Usage, now)
	if err != nil {
		return nil, err
	}
	return p, f.change(func(t Trust) (Trust, error) { return t.Retire(id, now.Add(overlap)) })
}

func (f *Folder) file(k Key) string {
	return filepath.Join(f.dir, keysFolder, k.Name+"."+k.ID[:16]+".pem")
}

func (f *Folder) change(change func(Trust) (Trust, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := f.Trust()
	if err != nil {
		return err
	}
	if t, err = change(t); err != nil {
		return err
	}
	raw, err := t.Encode()
	if err != nil {
		return err
	}
	return replace(filepath.Join(f.dir, trustFile), append(raw, '\n'), 0o644)
}

// KeepRoot writes the file of a signed trust root, whole or not at all.
func KeepRoot(path string, signed []byte) error { return replace(path, signed, 0o600) }

// replace writes a file so that a reader, also after a crash, sees the old or the new text and nothing between.
func replace(path string, text []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Wrap(fault.Internal, err, "make the folder of %s", path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // 0600 from the start
	if err != nil {
		return fault.Wrap(fault.Internal, err, "write %s", path)
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fault.Wrap(fault.Internal, err, "write %s", path), os.Remove(tmp.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fault.Wrap(fault.Internal, err, "write %s", path)
	}
	return fault.Wrap(fault.Internal, errors.Join(dir.Sync(), dir.Close()), "write %s", path)
}

// readUpTo reads a regular file. A secret must not be readable by others, and must not be reached through a link.
func readUpTo(path string, secret bool) ([]byte, error) {
	named, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if secret && !named.Mode().IsRegular() {
		return nil, fault.New(fault.Denied, "%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	opened, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if secret && !os.SameFile(named, opened) {
		return nil, fault.New(fault.Denied, "%s changed while it was opened", path)
	}
	if secret && opened.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Denied, "others may read the private key %s (mode %04o)", path, opened.Mode().Perm()).
			WithHint("chmod 600 %s", path)
	}
	if opened.Size() > maxFile {
		return nil, fault.New(fault.Invalid, "%s is larger than %d bytes", path, maxFile)
	}
	return io.ReadAll(io.LimitReader(file, maxFile))
}
