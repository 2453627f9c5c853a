// Package authority gives workers short-lived identities: X.509 certificates in the form of SPIFFE, for mutual TLS.
//
// A worker joins once with a token that counts once, and then renews its certificate, which lasts an hour, with the one it has. Whoever
// is denied is refused from the next request on, whatever certificate it holds.
package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"regexp"
	"strings"
	"time"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/store"
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

// Authority signs certificates of workers. It is safe for concurrent use, also by several servers on one store.
type Authority struct {
	Config
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Config is where an authority keeps its key, what it handed out and whom it shut out.
type Config struct {
	Records   store.Records
	Encrypter *keyring.Encrypter // of its key
	Now       func() work.Time
}

// Kinds of records. A token for joining counts until it is deleted, which only one of those who try can do.
const (
	kindRoot   = "authority"
	kindJoin   = "worker-join"
	kindDenied = "worker-denied"
	only       = "only"
	aboutKey   = "key of the authority"
)

// root is what is kept of the authority itself.
type root struct {
	Certificate []byte `json:"certificate"` // DER
	Key         []byte `json:"key"`         // PKCS#8, encrypted
}

type join struct {
	Tenant work.Tenant `json:"tenant"`
	Pool   string      `json:"pool"`
}

// Denial shuts a worker out.
type Denial struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     work.Time `json:"at"`
}

// Open opens the authority of an installation, and makes it when there is none. Errors: fault.Unverified for another encryption key than
// the one it was made with, those of the store.
func Open(ctx context.Context, c Config) (*Authority, error) {
	a := &Authority{Config: c}
	for {
		row, err := c.Records.Record(ctx, store.Installation, kindRoot, only)
		if err == nil {
			return a, a.load(row.Doc)
		}
		if fault.CodeOf(err) != fault.NotFound {
			return nil, err
		}
		if err := a.create(ctx); err != nil && fault.CodeOf(err) != fault.Conflict { // another server began at the same moment
			return nil, err
		}
	}
}

func (a *Authority) create(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "the authority's key")
	}
	now := a.Now().Std()
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
	return a.put(ctx, store.Record{Tenant: store.Installation, Kind: kindRoot, ID: only}, root{der, a.Encrypter.Encrypt(private, aboutKey)})
}

func (a *Authority) put(ctx context.Context, r store.Record, v any) error {
	var err error
	if r.Doc, err = json.Marshal(v); err != nil {
		return fault.Wrap(fault.Internal, err, "what the authority remembers")
	}
	return a.Records.Change(ctx, store.RecordChange{Record: r})
}

func (a *Authority) load(doc []byte) error {
	var r root
	if err := json.Unmarshal(doc, &r); err != nil {
		return fault.Wrap(fault.Invalid, err, "the authority")
	}
	private, err := a.Encrypter.Decrypt(r.Key, aboutKey)
	if err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the authority's key")
	}
	if a.root, err = x509.ParseCertificate(r.Certificate); err != nil {
		return fault.Wrap(fault.Invalid, err, "the authority's certificate")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(a.root.PublicKey) {
		return fault.New(fault.Invalid, "the authority's key is not that of its certificate")
	}
	a.key = key
	return nil
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
func (a *Authority) Invite(ctx context.Context, tenant work.Tenant, pool string, life time.Duration) (string, error) {
	if !nameForm.MatchString(pool) || !nameForm.MatchString(string(tenant)) {
		return "", fault.New(fault.Invalid, "%q is no name of a pool", pool)
	}
	if life <= 0 {
		life = JoinLife
	}
	token := "orj_" + strings.ToLower(rand.Text())
	row := store.Record{Tenant: store.Installation, Kind: kindJoin, ID: hashOf(token), Expires: a.Now().Add(life)}
	return token, a.put(ctx, row, join{tenant, pool})
}

// Join takes a worker in: for a token that was not used, a certificate for the key of the request. Errors: fault.Unauthenticated for a token
// that does not count, fault.Invalid for a request that does not hold.
func (a *Authority) Join(ctx context.Context, token string, request []byte) ([]byte, error) {
	csr, err := parse(request)
	if err != nil {
		return nil, err
	}
	unknown := fault.New(fault.Unauthenticated, "the token for joining is not known, was used or has expired")
	row, err := a.Records.Record(ctx, store.Installation, kindJoin, hashOf(token))
	switch {
	case fault.CodeOf(err) == fault.NotFound:
		return nil, unknown
	case err != nil:
		return nil, err
	}
	var j join
	if err := json.Unmarshal(row.Doc, &j); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "a token for joining")
	}
	err = a.Records.Change(ctx, store.RecordChange{Record: row, Delete: true})
	if code := fault.CodeOf(err); code == fault.Conflict || code == fault.NotFound {
		return nil, unknown // somebody else was faster
	}
	if err != nil {
		return nil, err
	}
	id := strings.ToLower(rand.Text()[:16])
	return a.issue(name(j.Tenant, j.Pool, id), csr)
}

// Renew gives a worker another certificate under the same name. Errors: those of Identify, fault.Invalid.
func (a *Authority) Renew(ctx context.Context, current *x509.Certificate, request []byte) ([]byte, error) {
	p, err := a.Identify(ctx, current)
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
func (a *Authority) Identify(ctx context.Context, c *x509.Certificate) (access.Principal, error) {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	now := a.Now().Std()
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
	tenant := work.Tenant(parts[2])
	row, err := a.Records.Record(ctx, tenant, kindDenied, subject)
	if err == nil {
		var d Denial
		if err := json.Unmarshal(row.Doc, &d); err != nil {
			return access.Principal{}, fault.Wrap(fault.Internal, err, "a denial")
		}
		return access.Principal{}, fault.New(fault.Unauthenticated, "the worker is denied since %s", d.At)
	}
	if fault.CodeOf(err) != fault.NotFound {
		return access.Principal{}, err
	}
	return access.Principal{
		Subject: subject, Kind: "worker", Tenant: tenant, Scopes: []access.Scope{access.Worker}, TokenID: "x509:" + c.SerialNumber.Text(16),
	}, nil
}

// Deny shuts a worker out for good, of a tenant that must be its own. Errors: fault.NotFound for a name that is none of the tenant's.
func (a *Authority) Deny(ctx context.Context, tenant work.Tenant, worker string, d Denial) error {
	if !strings.HasPrefix(worker, name(tenant, "", "")[:len(name(tenant, "", ""))-1]) {
		return fault.New(fault.NotFound, "there is no worker %s", worker)
	}
	d.At = a.Now()
	err := a.put(ctx, store.Record{Tenant: tenant, Kind: kindDenied, ID: worker}, d)
	if fault.CodeOf(err) == fault.Conflict {
		return nil // it is denied already
	}
	return err
}

func name(tenant work.Tenant, pool, id string) string {
	return "spiffe://" + Domain + "/tenant/" + string(tenant) + "/worker/" + pool + "/" + id
}

func (a *Authority) issue(subject string, csr *x509.CertificateRequest) ([]byte, error) {
	uri, err := url.Parse(subject)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the name of a worker")
	}
	now := a.Now().Std()
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
