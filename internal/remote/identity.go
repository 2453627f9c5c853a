package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
)

// Identity is a worker's own key with the certificate of the moment, kept in a folder. The key never leaves the machine. It is safe for
// concurrent use.
type Identity struct {
	dir string

	mu   sync.Mutex
	cert *tls.Certificate // nil before the worker has joined
}

const (
	certFile = "worker.pem"
	keyFile  = "worker.key"
)

// OpenIdentity reads the identity of a folder, which may have none yet. Errors: fault.Denied when others may read the key, fault.Invalid.
func OpenIdentity(dir string) (*Identity, error) {
	i := &Identity{dir: dir}
	path := filepath.Join(dir, keyFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Denied, "others may read the worker's key %s", path).WithHint("chmod 600 %s", path)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the worker's certificate")
	}
	i.cert = &cert
	return i, nil
}

// Joined reports whether there is a certificate that still lasts.
func (i *Identity) Joined() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert != nil && time.Now().Before(i.cert.Leaf.NotAfter)
}

// Certificate is for tls.Config.GetClientCertificate.
func (i *Identity) Certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cert == nil {
		return &tls.Certificate{}, nil // none
	}
	return i.cert, nil
}

// Join gets the first certificate for a token that counts once. Errors: those of the server.
func (i *Identity) Join(ctx context.Context, c *Client, token string) error {
	return i.obtain(ctx, c, "join", token)
}

// Keep renews the certificate until ctx ends, each after two thirds of its life.
func (i *Identity) Keep(ctx context.Context, c *Client) {
	for {
		i.mu.Lock()
		from, to := i.cert.Leaf.NotBefore, i.cert.Leaf.NotAfter
		i.mu.Unlock()
		t := time.NewTimer(max(time.Until(from.Add(to.Sub(from)*2/3)), renewAgain))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if err := i.Renew(ctx, c); err != nil {
			c.Log.Warn("the certificate is not renewed", "error", err)
		}
	}
}

// renewAgain is how soon after another a renewal is tried.
const renewAgain = 10 * time.Second

// Renew gets the next certificate with the one that lasts, for a new key. Errors: those of the server.
func (i *Identity) Renew(ctx context.Context, c *Client) error { return i.obtain(ctx, c, "renew", "") }

func (i *Identity) obtain(ctx context.Context, c *Client, path, token string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a key for the worker")
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a request for a certificate")
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "a key for the worker")
	}
	var out api.WorkerIdentity
	err = c.call(ctx, path, api.WorkerJoin{
		Token: token, Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	}, &out, callTimeout)
	if err != nil {
		return err
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	cert, err := tls.X509KeyPair([]byte(out.Certificate), secret)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the certificate that the server gave")
	}
	if err := i.save([]byte(out.Certificate), secret); err != nil {
		return err
	}
	i.mu.Lock()
	i.cert = &cert
	i.mu.Unlock()
	c.Reconnect()
	return nil
}

// save keeps certificate and key. A crash between the two leaves a pair that does not fit, and the worker has to join again.
func (i *Identity) save(cert, key []byte) error {
	for name, text := range map[string][]byte{keyFile: key, certFile: cert} {
		path := filepath.Join(i.dir, name)
		tmp := path + ".tmp"
		if err := os.WriteFile(tmp, text, 0o600); err != nil {
			return fault.Wrap(fault.Internal, err, "the worker's certificate")
		}
		if err := os.Rename(tmp, path); err != nil {
			return fault.Wrap(fault.Internal, err, "the worker's certificate")
		}
	}
	return nil
}
