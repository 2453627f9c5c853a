package rest

import (
	"encoding/json"
	"net/http"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/work"
)

func (s *service) admissionRoutes() []httpapi.Route {
	const signatures = "/api/v1/packs/{digest}/signatures"
	return []httpapi.Route{
		get(signatures, "listPackSignatures", "packs", "List what authors have signed of a pack", access.PacksRead, api.PackSignatureList{}, s.listSignatures),
		post(signatures, "signPack", "packs", "Keep what an author has signed of a pack: a DSSE envelope", access.PacksWrite, http.StatusCreated, api.SignedDocument{}, api.PackSignature{}, s.addSignature),
		get("/api/v1/run-rules", "getRunRules", "packs", "Read the rules about whose signatures may run what", access.PacksRead, api.RunRules{}, s.getRules),
		{
			Method: http.MethodPut, Path: "/api/v1/run-rules", Name: "setRunRules", Tag: "packs", Scope: access.Admin,
			Summary: "Replace the rules about whose signatures may run what", Body: api.RunRules{}, Reply: api.RunRules{}, Handle: s.setRules,
		},
	}
}

func (s *service) listSignatures(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	p, err := s.pack(r.Context(), c.Tenant, r.PathValue("digest"))
	if err != nil {
		return err
	}
	found, err := s.Admission.Signatures(r.Context(), c.Tenant, work.Digest(p.Digest))
	if err != nil {
		return err
	}
	var out api.PackSignatureList
	if out.Items, err = recastAll[api.PackSignature](found); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) addSignature(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	p, err := s.pack(r.Context(), c.Tenant, r.PathValue("digest"))
	if err != nil {
		return err
	}
	var signed json.RawMessage
	if err := httpapi.Read(r, &signed); err != nil {
		return err
	}
	trust, err := s.trust(r, c)
	if err != nil {
		return err
	}
	made, err := s.Admission.AddSignature(r.Context(), c.Tenant, work.Digest(p.Digest), signed, trust)
	if err != nil {
		return err
	}
	out, err := recast[api.PackSignature](made)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusCreated, out)
}

func (s *service) getRules(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	rules, err := s.Admission.Rules(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	out, err := recast[api.RunRules](rules)
	if err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) setRules(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.RunRules
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	rules, err := recastAll[access.Rule](q.Rules)
	if err != nil {
		return err
	}
	set, err := s.Admission.SetRules(r.Context(), c.Tenant, rules)
	if err != nil {
		return err
	}
	out, err := recast[api.RunRules](set)
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusOK, out)
}
