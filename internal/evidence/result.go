package evidence

import (
	"encoding/json"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/work"
)

// PayloadResult is the type of what a worker signs for each end of an attempt.
const PayloadResult = "application/vnd.orrery.result+json"

// resultStatement is what a worker signs: the digest of its report, and what it is for.
type resultStatement struct {
	Version string      `json:"v"`
	Tenant  work.Tenant `json:"tenant"`
	Run     work.RunID  `json:"run"`
	Step    work.StepID `json:"step"`
	Report  work.Digest `json:"report"`
}

// Result is a report that is to be signed.
type Result struct {
	Tenant work.Tenant
	Run    work.RunID
	Step   work.StepID
	Report *work.ReportedData
}

// statement returns the payload: the report counts without its signature and without the name that the server gives its worker.
func (r *Result) statement() ([]byte, error) {
	plain := *r.Report
	plain.Worker, plain.Signed = "", nil
	digest, _, err := canonical.DigestOf(plain)
	if err != nil {
		return nil, err
	}
	return canonical.Marshal(resultStatement{"orrery.result/v1", r.Tenant, r.Run, r.Step, digest})
}

// SignResults signs reports that are not signed yet, with one signature for all. sign makes an envelope, as keyring.Signer does; certificate
// is that of the key, DER, nil for a key that trust roots know itself. Errors: fault.Invalid for a report that is no document, those of sign.
func SignResults(results []Result, certificate []byte, sign func(payloadType string, payload []byte) (dsse.Envelope, error)) error {
	var open []*work.ReportedData
	var payloads [][]byte
	for i := range results {
		if results[i].Report.Signed != nil {
			continue
		}
		payload, err := results[i].statement()
		if err != nil {
			return err
		}
		open, payloads = append(open, results[i].Report), append(payloads, payload)
	}
	if len(open) == 0 {
		return nil
	}
	signed, err := dsse.SignBatch(PayloadResult, payloads, sign)
	if err != nil {
		return err
	}
	for i, r := range open {
		r.Signed = signatureOf(&signed[i].Signatures[0], certificate)
	}
	return nil
}

func signatureOf(s *dsse.Signature, certificate []byte) *work.ResultSignature {
	out := &work.ResultSignature{Certificate: certificate, Sig: s.Sig}
	if certificate == nil {
		out.Key = s.KeyID
	}
	if s.Batch != nil {
		out.Batch = &work.ResultBatch{Index: s.Batch.Index, Size: s.Batch.Size, Proof: [][]byte{}}
		for _, node := range s.Batch.Proof {
			out.Batch.Proof = append(out.Batch.Proof, node[:])
		}
	}
	return out
}

// envelope puts a signed report together again. Error: fault.Invalid for a signature that is none.
func (r *Result) envelope(keyID string) (dsse.Envelope, error) {
	payload, err := r.statement()
	if err != nil {
		return dsse.Envelope{}, err
	}
	raw, err := json.Marshal(map[string]any{
		"payload": payload, "payloadType": PayloadResult, "signatures": []any{resultSignature{r.Report.Signed.Batch, keyID, r.Report.Signed.Sig}},
	})
	if err != nil {
		return dsse.Envelope{}, err
	}
	return dsse.Decode(raw)
}

type resultSignature struct {
	Batch *work.ResultBatch `json:"batch,omitempty"`
	KeyID string            `json:"keyid"`
	Sig   []byte            `json:"sig"`
}

// CheckResult sees whether a report was signed with a key. check remembers what it found for other reports of the same batch. Errors:
// fault.Invalid, fault.Unverified.
func CheckResult(r Result, key dsse.Key, check dsse.Check) error {
	e, err := r.envelope(key.ID)
	if err != nil {
		return err
	}
	_, _, err = dsse.VerifyMember(e, PayloadResult, []dsse.Key{key}, check)
	return err
}
