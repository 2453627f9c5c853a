package workerapi

import (
	"bytes"
	"crypto/x509"
	"net/http"

	"orrery.example/orrery/internal/authority"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/evidence"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// signatures looks at what workers have signed before it becomes part of a history: evidence with a signature that does not hold would be
// INVALID for ever. It remembers what one request repeats.
type signatures struct {
	authority *authority.Authority

	certificate []byte // the last one, and its key
	key         dsse.Key
	message     []byte // the last one of a batch that held, and its signature
	sig         []byte
}

// check refuses a signature that is not the caller's, over this report. Errors: fault.Unauthenticated, fault.Unverified, fault.Invalid.
func (s *signatures) check(r *http.Request, c *httpapi.Call, tenant work.Tenant, cmd *store.ReportCommand) error {
	if der := cmd.Report.Signed.Certificate; s.certificate == nil || !bytes.Equal(der, s.certificate) {
		if err := s.identify(r, c, der); err != nil {
			return err
		}
	}
	result := evidence.Result{Tenant: tenant, Run: cmd.Run, Step: cmd.Step, Report: &cmd.Report}
	return evidence.CheckResult(result, s.key, func(k dsse.Key, message, sig []byte) bool {
		if bytes.Equal(message, s.message) && bytes.Equal(sig, s.sig) {
			return true
		}
		if !dsse.Holds(k, message, sig) {
			return false
		}
		s.message, s.sig = message, sig
		return true
	})
}

// identify takes the key from a certificate that is the caller's: the one of the connection, or one from before it was renewed.
func (s *signatures) identify(r *http.Request, c *httpapi.Call, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil || s.authority == nil {
		return fault.New(fault.Invalid, "a result is signed with the key of a certificate that this server's authority has given")
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || !r.TLS.PeerCertificates[0].Equal(cert) {
		p, err := s.authority.Identify(r.Context(), cert)
		if err != nil {
			return err
		}
		if p.Subject != c.Principal.Subject {
			return fault.New(fault.Unverified, "the result is signed by %s, and sent by %s", p.Subject, c.Principal.Subject)
		}
	}
	key, err := dsse.NewKey(cert.PublicKey)
	if err != nil {
		return err
	}
	s.certificate, s.key, s.message, s.sig = der, key, nil, nil
	return nil
}
