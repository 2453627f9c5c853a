package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/ledger"
	"orrery.example/orrery/internal/work"
)

func (s *service) proofRoutes() []httpapi.Route {
	const read = access.PacksRead
	evidence := get(runs+"/{runId}/evidence", "getEvidence", "evidence", "Download the evidence of an ended run: one tar that anybody can verify offline", read, nil, s.getEvidence)
	evidence.Stream = "application/x-tar"
	return []httpapi.Route{
		evidence,
		get(runs+"/{runId}/proof", "getInclusionProof", "evidence", "Prove that a run is in the tenant's log", read, api.InclusionProof{}, s.getInclusion),
		get("/api/v1/ledger/checkpoint", "getCheckpoint", "evidence", "Read the newest signed checkpoint of the tenant's log", read, api.Checkpoint{}, s.getCheckpoint),
		get("/api/v1/ledger/consistency", "getConsistencyProof", "evidence", "Prove that the log has only grown since it had some leaves", read, api.ConsistencyProof{}, s.getConsistency,
			httpapi.Param{Name: "from", Type: "integer", Summary: "How many leaves it had", Example: "1", Required: true}),
		get("/api/v1/trust-root", "getTrustRoot", "keys", "Read the keys that verifiers elsewhere pin, as one document", read, keyring.Trust{}, s.getTrust),
		get("/api/v1/trust-roots", "listTrustRoots", "keys", "List the signed trust roots that were published, in their order", read, api.TrustRootList{}, s.listRoots, httpapi.PageParams()...),
		post("/api/v1/trust-roots", "publishTrustRoot", "keys", "Publish the next signed trust root: a DSSE envelope", access.Admin, http.StatusCreated, api.SignedDocument{}, api.TrustRoot{}, s.publishRoot),
		get("/api/v1/keys", "listKeys", "keys", "List the keys that are trusted", read, api.KeyList{}, s.listKeys),
		post("/api/v1/keys", "trustKey", "keys", "Trust a public key: one's own, or as an administrator anybody's", read, http.StatusCreated, api.KeyRequest{}, api.Key{}, s.trustKey),
		post("/api/v1/keys/{keyId}/revoke", "revokeKey", "keys", "End the trust in a key: one's own, or as an administrator anybody's", read, 0, api.RevokeRequest{}, api.Key{}, s.revokeKey),
	}
}

func (s *service) getEvidence(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	if !run.State.Terminal() {
		return fault.New(fault.Conflict, "run %s has not ended; evidence is made at the end", run.Name)
	}
	var out bytes.Buffer
	if err := sp.Attest.Export(r.Context(), run, s.Keeper, &out); err != nil {
		return err
	}
	return download(w, r, "application/x-tar", string(run.Head), &out, int64(out.Len()))
}

func (s *service) getInclusion(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	run, sp, err := s.runIn(r, c)
	if err != nil {
		return err
	}
	leaf, seal, err := sp.Attest.Prove(r.Context(), run)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, api.InclusionProof{
		Checkpoint: api.Checkpoint{Origin: seal.Position.Origin, Size: seal.Position.Size, Checkpoint: string(seal.Checkpoint)},
		Index:      seal.Position.Index, Leaf: leaf, Proof: nodes(seal.Position.Proof),
	})
}

func nodes(proof []ledger.Node) []string {
	out := make([]string, len(proof))
	for i, n := range proof {
		out[i] = base64.StdEncoding.EncodeToString(n[:])
	}
	return out
}

func (s *service) getCheckpoint(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	size, note, err := s.Store.LogSize(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, api.Checkpoint{Origin: ledger.Origin(c.Tenant), Size: size, Checkpoint: string(note)})
}

func (s *service) getConsistency(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	from, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		return fault.New(fault.Invalid, "from is how many leaves the log had")
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	size, note, proof, err := sp.Attest.Growth(r.Context(), c.Tenant, from)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, api.ConsistencyProof{
		Checkpoint: api.Checkpoint{Origin: ledger.Origin(c.Tenant), Size: size, Checkpoint: string(note)}, From: from, Proof: nodes(proof),
	})
}

func (s *service) getTrust(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	trust, err := s.trust(r, c)
	if err != nil {
		return err
	}
	raw, err := trust.Encode()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(raw, '\n')) // a client that is gone does not mind
	return nil
}

func (s *service) trust(r *http.Request, c *httpapi.Call) (keyring.Trust, error) {
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return keyring.Trust{}, err
	}
	return sp.Keys.Trust()
}

func (s *service) listRoots(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "trust-roots")
	if err != nil {
		return err
	}
	var after int64
	if page.After != "" {
		if after, err = strconv.ParseInt(page.After, 10, 64); err != nil {
			return fault.New(fault.Invalid, "page_token is not from this list")
		}
	}
	roots, err := s.Identity.Roots(r.Context(), c.Tenant, after, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.TrustRootList
	if len(roots) > page.Limit {
		roots = roots[:page.Limit]
		out.NextPageToken = page.Next(strconv.FormatInt(roots[page.Limit-1].Number, 10))
	}
	if out.Items, err = recastAll[api.TrustRoot](roots); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) publishRoot(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var signed json.RawMessage
	if err := httpapi.Read(r, &signed); err != nil {
		return err
	}
	root, err := s.Identity.PublishRoot(r.Context(), c.Tenant, signed)
	if err != nil {
		return err
	}
	return replyAs[api.TrustRoot](w, http.StatusCreated, root)
}

func (s *service) listKeys(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	trust, err := s.trust(r, c)
	if err != nil {
		return err
	}
	var out api.KeyList
	if out.Items, err = recastAll[api.Key](trust.Keys); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// mayUse says which right a caller needs to have a key of his own for a use; other uses are the administrator's.
func mayUse(c *httpapi.Call, u keyring.Usage) bool {
	switch u {
	case keyring.Submit:
		return access.Covers(c.Principal.Scopes, access.PacksRun)
	case keyring.Publish:
		return access.Covers(c.Principal.Scopes, access.PacksWrite)
	case keyring.Approve:
		return access.Covers(c.Principal.Scopes, access.PacksApprove)
	default:
		return access.Covers(c.Principal.Scopes, access.Admin)
	}
}

func (s *service) trustKey(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.KeyRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if q.Name == "" {
		q.Name = c.Principal.Subject
	}
	if q.Name != c.Principal.Subject && !access.Covers(c.Principal.Scopes, access.Admin) || c.Principal.Bound != nil {
		return fault.New(fault.Denied, "only an administrator trusts the key of somebody else")
	}
	usage := make([]keyring.Usage, len(q.Usage))
	for i, u := range q.Usage {
		usage[i] = keyring.Usage(u)
		if !mayUse(c, usage[i]) {
			return fault.New(fault.Denied, "%s lacks the right to have a key for the use %q", c.Principal.Subject, u)
		}
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	from, err := s.since(c, q.From)
	if err != nil {
		return err
	}
	key, err := sp.Keys.Import(q.Name, []byte(q.Public), usage, from)
	if err != nil {
		return err
	}
	return replyAs[api.Key](w, http.StatusCreated, key)
}

// since is from when on a key counts. Nobody but an administrator says that what was signed before today counts.
func (s *service) since(c *httpapi.Call, from string) (work.Time, error) {
	if from == "" {
		return s.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, from)
	if err != nil {
		return 0, fault.New(fault.Invalid, "%q is no time", from).WithHint("write it like 2026-01-31T12:00:00Z")
	}
	if !access.Covers(c.Principal.Scopes, access.Admin) {
		return 0, fault.New(fault.Denied, "only an administrator says from when on a key counts")
	}
	return work.At(at), nil
}

func (s *service) revokeKey(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	trust, err := s.trust(r, c)
	if err != nil {
		return err
	}
	key, ok := trust.Find(r.PathValue("keyId"))
	if !ok || key.Name != c.Principal.Subject && !access.Covers(c.Principal.Scopes, access.Admin) {
		return fault.New(fault.NotFound, "there is no key %s of %s", r.PathValue("keyId"), c.Principal.Subject)
	}
	var q api.RevokeRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	sp, err := s.Space(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	end := keyring.Revocation{At: s.Now(), Reason: keyring.RevocationReason(q.Reason), Note: q.Note}
	if err := sp.Keys.Revoke(key.ID, end); err != nil {
		return err
	}
	key.Revoked = &end
	return replyAs[api.Key](w, http.StatusOK, key)
}
