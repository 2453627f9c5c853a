package remote

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"time"

	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
)

// certificateRead is how long a certificate is used to sign with before it is asked for again: it may have been renewed.
const certificateRead = 10 * time.Second

// identity is what a client signs results with.
type identity struct {
	cert *tls.Certificate // nil when the client has none that names a worker
	read time.Time
}

// SignResults signs what a worker reports with the certificate that its connection has. A worker that proves itself with a token alone signs
// nothing. It is called by one goroutine at a time. Errors: the certificate cannot be read, those of evidence.SignResults.
func (c *Client) SignResults(_ context.Context, results []evidence.Result) error {
	if c.TLS == nil || c.TLS.GetClientCertificate == nil {
		return nil
	}
	if time.Since(c.signs.read) > certificateRead {
		cert, err := c.TLS.GetClientCertificate(nil)
		if err != nil {
			return err
		}
		c.signs = identity{read: time.Now()}
		if cert.Leaf != nil && len(cert.Leaf.URIs) == 1 {
			c.signs.cert = cert
		}
	}
	cert := c.signs.cert
	if cert == nil {
		return nil
	}
	key, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fault.New(fault.Invalid, "results are signed with a key for ECDSA on P-256, and that of the worker's certificate is another")
	}
	return evidence.SignResults(results, cert.Certificate[0], func(payloadType string, payload []byte) (dsse.Envelope, error) {
		return dsse.Sign(payloadType, payload, "", func(pae []byte) ([]byte, error) {
			sum := sha256.Sum256(pae)
			return key.Sign(rand.Reader, sum[:], crypto.SHA256)
		})
	})
}
