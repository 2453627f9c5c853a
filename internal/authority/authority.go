// Package authority gives workers short-lived identities: X.509 certificates in the form of SPIFFE, for mutual TLS.
//
// A worker joins once with a token that counts once, and then renews its certificate, which lasts an hour, with the one it has. Whoever
// is denied is refused from the next request on, whatever certificate it holds.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Lifetimes.
const (
	CertificateLife = time.Hour
	JoinLife        = 24 * time.Hour // of a token for one join, when nobody says otherwise
	rootLife        = 10 * 365 * 24 * time.Hour
	early           = time.Minute // certificates count from a little before now: clocks differ
)

// Domain is the trust domain of the names that a built-in authority gives.
const Domain = "orrery"

// Authority signs certificates of workers. It is safe for concurrent use within one process.
type Authority struct {
	dir  string
	now  func() work.Time
	root *x509.Certificate
	key  *ecdsa.PrivateKey

	mu    sync.Mutex
	state state
}

// state is what the authority remembers.
type state struct {
	Joins  map[string]join   `json:"joins"`  // by the SHA-256 of the token
	Denied map[string]Denial `json:"denied"` // by the name of the worker
}

type join struct {
	Tenant  work.Tenant `json:"tenant"`
	Pool    string      `json:"pool"`
	Expires work.Time   `json:"expires"`
}

// Denial shuts a worker out.
type Denial struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     work.Time `json:"at"`
}

// Files of an authority in its folder.
const (
	keyFile   = "authority.key"
	RootFile  = "authority.pem"
	stateFile = "authority.json"
)

// Open opens the authority of a folder, and makes it when it is new. Errors: fault.Denied when others may read its key, fault.Invalid.
func Open(dir string, now func() work.Time) (*Authority, error) {
	a := &Authority{dir: dir, now: now, state: state{Joins: map[string]join{}, Denied: map[string]Denial{}}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the authority's folder")
	}
	if _, err := os.Stat(filepath.Join(dir, RootFile)); errors.Is(err, fs.ErrNotExist) {
		if err := a.create(); err != nil {
			return nil, err
		}
	}
	return a, a.load()
}

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the authority's key")
	}
	now := a.now().Std()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Orrery workers"}, URIs: []*url.URL{{Scheme: "spiffe", Host: Domain}},
		NotBefore: now.Add(-early), NotAfter: now.Add(rootLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the authority's certificate")
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the authority's key")
	}
	if err := replace(filepath.Join(a.dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	return replace(filepath.Join(a.dir, RootFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func (a *Authority) load() error {
	path := filepath.Join(a.dir, keyFile)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return fault.New(fault.Denied, "others may read %s", path).WithHint("chmod 600 %s", path)
	}
	private, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the authority's key")
	}
	der, err := readPEM(filepath.Join(a.dir, RootFile), "CERTIFICATE")
	if err != nil {
		return err
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		return fault.Wrap(fault.Invalid, err, "the authority's certificate")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(a.root.PublicKey) {
		return fault.New(fault.Invalid, "the authority's key is not that of its certificate")
	}
	a.key = key
	raw, err := os.ReadFile(filepath.Join(a.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &a.state)
	}
	return fault.Wrap(fault.Invalid, err, "what the authority remembers")
}

// Root returns the certificate that those of workers are checked with.
func (a *Authority) Root() *x509.Certificate { return a.root }

// RootPEM returns it as text.
func (a *Authority) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
}

// nameForm is what a tenant, a pool and an id look like in the name of a worker.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Invite makes a token with which one worker may join a pool, once, within life. Error: fault.Invalid.
func (a *Authority) Invite(tenant work.Tenant, pool string, life time.Duration) (string, error) {
	if !nameForm.MatchString(pool) || !nameForm.MatchString(string(tenant)) {
		return "", fault.New(fault.Invalid, "%q is no name of a pool", pool)
	}
	if life <= 0 {
		life = JoinLife
	}
	token := "orj_" + strings.ToLower(rand.Text())
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for k, j := range a.state.Joins {
		if j.Expires <= now {
			delete(a.state.Joins, k)
		}
	}
	a.state.Joins[hashOf(token)] = join{tenant, pool, now.Add(life)}
	return token, a.save()
}

// Join takes a worker in: for a token that was not used, a certificate for the key of the request. Errors: fault.Unauthenticated for a token
// that does not count, fault.Invalid for a request that does not hold.
func (a *Authority) Join(token string, request []byte) ([]byte, error) {
	csr, err := parse(request)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	j, ok := a.state.Joins[hashOf(token)]
	if !ok || j.Expires <= a.now() {
		return nil, fault.New(fault.Unauthenticated, "the token for joining is not known, was used or has expired")
	}
	delete(a.state.Joins, hashOf(token))
	if err := a.save(); err != nil {
		return nil, err
	}
	id := strings.ToLower(rand.Text()[:16])
	return a.issue(name(j.Tenant, j.Pool, id), csr)
}

// Renew gives a worker another certificate under the same name. Errors: those of Identify, fault.Invalid.
func (a *Authority) Renew(current *x509.Certificate, request []byte) ([]byte, error) {
	p, err := a.Identify(current)
	if err != nil {
		return nil, err
	}
	csr, err := parse(request)
	if err != nil {
		return nil, err
	}
	return a.issue(p.Subject, csr)
}

// Identify returns who holds a certificate. Errors: fault.Unauthenticated for one that is not of this authority, out of time or of no
// worker, and for a worker that is denied.
func (a *Authority) Identify(c *x509.Certificate) (access.Principal, error) {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	now := a.now().Std()
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return access.Principal{}, fault.New(fault.Unauthenticated, "the certificate does not count: %v", err)
	}
	if len(c.URIs) != 1 {
		return access.Principal{}, fault.New(fault.Unauthenticated, "the certificate names no worker")
	}
	subject := c.URIs[0].String()
	parts := strings.Split(c.URIs[0].Path, "/")
	if c.URIs[0].Scheme != "spiffe" || c.URIs[0].Host != Domain || len(parts) != 6 || parts[1] != "tenant" || parts[3] != "worker" {
		return access.Principal{}, fault.New(fault.Unauthenticated, "the certificate names no worker")
	}
	a.mu.Lock()
	d, denied := a.state.Denied[subject]
	a.mu.Unlock()
	if denied {
		return access.Principal{}, fault.New(fault.Unauthenticated, "the worker is denied since %s", d.At)
	}
	return access.Principal{
		Subject: subject, Kind: "worker", Tenant: work.Tenant(parts[2]), Scopes: []access.Scope{access.Worker}, TokenID: "x509:" + c.SerialNumber.Text(16),
	}, nil
}

// Deny shuts a worker out for good, of a tenant that must be its own. Errors: fault.NotFound for a name that is none of the tenant's.
func (a *Authority) Deny(tenant work.Tenant, worker string, d Denial) error {
	if !strings.HasPrefix(worker, name(tenant, "", "")[:len(name(tenant, "", ""))-1]) {
		return fault.New(fault.NotFound, "there is no worker %s", worker)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	d.At = a.now()
	if _, ok := a.state.Denied[worker]; !ok {
		a.state.Denied[worker] = d
	}
	return a.save()
}

func name(tenant work.Tenant, pool, id string) string {
	return "spiffe://" + Domain + "/tenant/" + string(tenant) + "/worker/" + pool + "/" + id
}

func (a *Authority) issue(subject string, csr *x509.CertificateRequest) ([]byte, error) {
	uri, err := url.Parse(subject)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the name of a worker")
	}
	now := a.now().Std()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), URIs: []*url.URL{uri}, NotBefore: now.Add(-early), NotAfter: now.Add(CertificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, a.root, csr.PublicKey, a.key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "sign a certificate")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// parse reads a request for a certificate, of which only the key counts, and checks that its sender has the key.
func parse(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fault.New(fault.Invalid, "this is no request for a certificate")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "the request for a certificate does not hold: %v", err)
	}
	if k, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, fault.New(fault.Invalid, "the key of a worker is ECDSA on P-256")
	}
	return csr, nil
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// save writes what the authority remembers. The caller holds the lock.
func (a *Authority) save() error {
	raw, err := json.Marshal(a.state)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "what the authority remembers")
	}
	return replace(filepath.Join(a.dir, stateFile), raw, 0o600)
}

func readPEM(path, kind string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "%s", path)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != kind {
		return nil, fault.New(fault.Invalid, "%s holds no %s", path, kind)
	}
	return block.Bytes, nil
}

// replace writes a file so that a reader, also after a crash, sees the old or the new text and nothing between.
func replace(path string, text []byte, mode fs.FileMode) error {
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
	return nil
}
