package verify

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

const resultType = "application/vnd.orrery.result+json"

// result is what a worker signs for each end of an attempt.
type result struct {
	Version string      `json:"v"`
	Tenant  work.Tenant `json:"tenant"`
	Run     work.RunID  `json:"run"`
	Step    work.StepID `json:"step"`
	Report  work.Digest `json:"report"`
}

// checkResults verifies that what the history says of attempts is what their workers signed.
func (b *bundle) checkResults() (string, error) {
	if b.hist == nil {
		return "", absent("it takes the history to know the results")
	}
	signed, bare := 0, 0
	signers := []string{}
	seen := map[string]bool{} // signatures of batches that hold
	check := func(k dsse.Key, message, sig []byte) bool {
		id := k.ID + string(sig) + string(message)
		if !seen[id] && dsse.Holds(k, message, sig) {
			seen[id] = true
		}
		return seen[id]
	}
	for _, s := range b.hist.steps {
		for _, a := range s.attempts {
			switch {
			case a.report == nil:
			case a.report.Signed == nil:
				bare++
			default:
				name, err := b.checkResult(s.id, a, check)
				if err != nil {
					return "", err
				}
				if signed++; !slices.Contains(signers, name) {
					signers = append(signers, name)
				}
			}
		}
	}
	if b.opts.SignedResults && bare > 0 {
		return "", absent("%s without the signature of the worker", work.Count(bare, "result"))
	}
	detail := "no result is signed by its worker"
	if signed > 0 {
		slices.Sort(signers)
		detail = fmt.Sprintf("%s signed by %s", work.Count(signed, "result"), strings.Join(signers, ", "))
		if bare > 0 {
			detail += fmt.Sprintf(", %d not signed by the worker", bare)
		}
	}
	return detail, nil
}

// checkResult verifies one report and returns who signed it.
func (b *bundle) checkResult(step work.StepID, a *attempt, check dsse.Check) (string, error) {
	sig := a.report.Signed
	plain := *a.report
	plain.Worker, plain.Signed = "", nil
	digest, _, err := canonical.DigestOf(plain)
	if err != nil {
		return "", wrong("attempt %d of %q: %s", a.n, step, err)
	}
	payload, err := canonical.Marshal(result{"orrery.result/v1", b.manifest.Tenant, b.manifest.RunID, step, digest})
	if err != nil {
		return "", wrong("attempt %d of %q: %s", a.n, step, err)
	}
	raw, err := json.Marshal(map[string]any{"payload": payload, "payloadType": resultType, "signatures": []any{struct {
		Batch *work.ResultBatch `json:"batch,omitempty"`
		Sig   []byte            `json:"sig"`
	}{sig.Batch, sig.Sig}}})
	if err != nil {
		return "", wrong("attempt %d of %q: %s", a.n, step, err)
	}
	e, err := dsse.Decode(raw)
	if err != nil {
		return "", wrong("attempt %d of %q has a signature that is none: %s", a.n, step, err)
	}
	key, name, err := b.workerKey(a)
	if err != nil {
		return "", fault.Wrap(fault.CodeOf(err), err, "the result of attempt %d of %q", a.n, step)
	}
	if _, _, err := dsse.VerifyMember(e, resultType, []dsse.Key{key}, check); err != nil {
		return "", wrong("the result of attempt %d of %q is not the one that its worker signed", a.n, step)
	}
	return name, nil
}

// workerKey returns the key that a report names: one of the trust root, or that of a certificate which one of the trust root signed.
func (b *bundle) workerKey(a *attempt) (dsse.Key, string, error) {
	sig := a.report.Signed
	if sig.Certificate == nil {
		for _, k := range b.trust.For(keyring.Worker) {
			if k.ID == sig.Key {
				known, _ := b.trust.Find(k.ID)
				return k, known.Name, b.counts(known, a.report.EndedAt)
			}
		}
		return dsse.Key{}, "", fault.New(fault.Untrusted, "it is signed with the key %.12s, and the trust root knows no such worker", sig.Key)
	}
	cert, err := x509.ParseCertificate(sig.Certificate)
	if err != nil || sig.Key != "" {
		return dsse.Key{}, "", wrong("its certificate cannot be read")
	}
	issuer, ok := b.issuer(cert)
	if !ok {
		return dsse.Key{}, "", fault.New(fault.Untrusted, "its certificate is signed by no authority of the trust root")
	}
	name, err := b.holder(cert)
	switch {
	case err != nil:
		return dsse.Key{}, "", err
	case a.report.Worker != name && !strings.HasPrefix(a.report.Worker, name+"/"):
		return dsse.Key{}, "", wrong("it is said to be of %s, and the certificate is that of %s", a.report.Worker, name)
	case work.At(cert.NotAfter) < a.report.EndedAt || work.At(cert.NotBefore) > a.closedAt:
		return dsse.Key{}, "", wrong("its certificate did not last at that time")
	}
	if err := b.counts(issuer, a.report.EndedAt); err != nil {
		return dsse.Key{}, "", err
	}
	key, err := dsse.NewKey(cert.PublicKey)
	if err != nil {
		return dsse.Key{}, "", wrong("its certificate: %s", err)
	}
	return key, name, nil
}

// issuer returns the key of the trust root that signed a certificate.
func (b *bundle) issuer(cert *x509.Certificate) (keyring.Key, bool) {
	for _, k := range b.trust.For(keyring.Worker) {
		parent := &x509.Certificate{PublicKey: k.Public}
		switch k.Public.(type) {
		case *ecdsa.PublicKey:
			parent.PublicKeyAlgorithm = x509.ECDSA
		case ed25519.PublicKey:
			parent.PublicKeyAlgorithm = x509.Ed25519
		default:
			continue
		}
		if parent.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			return b.trust.Find(k.ID)
		}
	}
	return keyring.Key{}, false
}

// holder returns the name in a certificate, which is that of a worker of the tenant: spiffe://DOMAIN/tenant/TENANT/worker/POOL/ID.
func (b *bundle) holder(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.IsCA {
		return "", wrong("its certificate names no worker")
	}
	parts := strings.Split(cert.URIs[0].Path, "/")
	if len(parts) != 6 || parts[1] != "tenant" || parts[3] != "worker" || parts[2] != string(b.manifest.Tenant) {
		return "", wrong("its certificate is that of %s, which is no worker of tenant %s", cert.URIs[0], b.manifest.Tenant)
	}
	return cert.URIs[0].String(), nil
}
