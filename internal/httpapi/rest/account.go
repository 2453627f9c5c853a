package rest

import (
	"net/http"
	"time"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/identity"
	"orrery.example/orrery/internal/work"
)

func (s *service) accountRoutes() []httpapi.Route {
	me := get("/api/v1/me", "getMe", "identity", "Say who the token stands for", "", api.Me{}, s.me)
	me.NoTenant = true
	login := get("/api/v1/login", "getLoginOptions", "identity", "Say how people can log in", "", api.LoginOptions{}, s.loginOptions)
	login.Public, login.NoTenant = true, true
	tenants := get("/api/v1/tenants", "listTenants", "identity", "List the tenants that the caller may act in", "", api.TenantList{}, s.listTenants, httpapi.PageParams()...)
	tenants.NoTenant = true
	make := post("/api/v1/tenants", "createTenant", "identity", "Make a tenant, as an administrator of the installation", access.Admin, http.StatusCreated, api.TenantRequest{}, api.Tenant{}, s.createTenant)
	make.NoTenant = true
	checks := get("/api/v1/checks", "listChecks", "server", "Try what runs need of the server: store, files, disk, keys, workers", access.OrchRead, api.CheckList{}, s.listChecks)
	change := httpapi.Route{
		Method: http.MethodPut, Path: "/api/v1/accounts/{name}", Name: "changeAccount", Tag: "identity", Scope: access.Admin,
		Summary: "Change the roles and scopes of an account, or disable it", Body: api.AccountRequest{}, Reply: api.Account{}, Handle: s.changeAccount,
	}
	return []httpapi.Route{
		checks, login, me, tenants, make,
		get("/api/v1/accounts", "listAccounts", "identity", "List the accounts of the tenant by name", access.Admin, api.AccountList{}, s.listAccounts, httpapi.PageParams()...),
		post("/api/v1/accounts", "createAccount", "identity", "Make an account", access.Admin, http.StatusCreated, api.AccountRequest{}, api.Account{}, s.createAccount),
		get("/api/v1/accounts/{name}", "getAccount", "identity", "Show an account", access.Admin, api.Account{}, s.getAccount),
		change,
		get("/api/v1/tokens", "listTokens", "identity", "List one's own tokens, or as an administrator those of the tenant", "", api.TokenList{}, s.listTokens, httpapi.PageParams(
			httpapi.Param{Name: "account", Type: "string", Summary: "Only tokens of this account", Example: "alice"})...),
		post("/api/v1/tokens", "createToken", "identity", "Make a token; its text is in this answer and nowhere else", "", http.StatusCreated, api.TokenRequest{}, api.NewToken{}, s.createToken),
		{
			Method: http.MethodDelete, Path: "/api/v1/tokens/{tokenId}", Name: "revokeToken", Tag: "identity",
			Summary: "Revoke a token; it counts from the next request on", Status: http.StatusNoContent, Handle: s.revokeToken,
		},
	}
}

func (s *service) listChecks(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	return httpapi.Reply(w, http.StatusOK, api.CheckList{Items: s.Check(r.Context(), c.Tenant)})
}

func (s *service) me(w http.ResponseWriter, _ *http.Request, c *httpapi.Call) error {
	p := c.Principal
	return httpapi.Reply(w, http.StatusOK, api.Me{
		Subject: p.Subject, Kind: p.Kind, Tenant: string(p.Tenant), Scopes: words(p.Scopes), TokenID: p.TokenID,
	})
}

func (s *service) loginOptions(w http.ResponseWriter, _ *http.Request, _ *httpapi.Call) error {
	out := api.LoginOptions{Providers: s.Login}
	if out.Providers == nil {
		out.Providers = []api.LoginProvider{}
	}
	return httpapi.Reply(w, http.StatusOK, out)
}

func (s *service) listTenants(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "tenants")
	if err != nil {
		return err
	}
	if c.Principal.Tenant != "" {
		return httpapi.ReplyTagged(w, r, api.TenantList{Items: []api.Tenant{{Name: string(c.Principal.Tenant)}}})
	}
	found, err := s.Identity.Tenants(r.Context(), page.After, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.TenantList
	if len(found) > page.Limit {
		found = found[:page.Limit]
		out.NextPageToken = page.Next(string(found[page.Limit-1].Name))
	}
	if out.Items, err = recastAll[api.Tenant](found); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

func (s *service) createTenant(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	if c.Principal.Tenant != "" {
		return fault.New(fault.Denied, "only an administrator of the installation makes tenants")
	}
	var q api.TenantRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	t, err := s.Identity.CreateTenant(r.Context(), identity.Tenant{Name: work.Tenant(q.Name), Title: q.Title})
	if err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusCreated, api.Tenant{Name: string(t.Name), Title: t.Title, Created: t.Created.String()})
}

func (s *service) listAccounts(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "accounts")
	if err != nil {
		return err
	}
	found, err := s.Identity.Accounts(r.Context(), c.Tenant, page.After, page.Limit+1)
	if err != nil {
		return err
	}
	var out api.AccountList
	if len(found) > page.Limit {
		found = found[:page.Limit]
		out.NextPageToken = page.Next(found[page.Limit-1].Name)
	}
	if out.Items, err = recastAll[api.Account](found); err != nil {
		return err
	}
	return httpapi.ReplyTagged(w, r, out)
}

// account reads what a request says of an account of the tenant.
func account(c *httpapi.Call, q api.AccountRequest) (identity.Account, error) {
	a := identity.Account{Tenant: c.Tenant, Name: q.Name, Kind: q.Kind, Roles: q.Roles, Disabled: q.Disabled}
	if e := q.External; e != nil {
		a.External = &identity.External{Issuer: e.Issuer, Subject: e.Subject}
	}
	var err error
	a.Scopes, err = scopes(q.Scopes)
	return a, err
}

func scopes(names []string) ([]access.Scope, error) {
	var out []access.Scope
	for _, name := range names {
		meant, err := access.ParseScope(name)
		if err != nil {
			return nil, err
		}
		out = append(out, meant...)
	}
	return out, nil
}

func (s *service) createAccount(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.AccountRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	a, err := account(c, q)
	if err != nil {
		return err
	}
	if a, err = s.Identity.CreateAccount(r.Context(), c.Principal, a); err != nil {
		return err
	}
	return replyAccount(w, http.StatusCreated, a)
}

func replyAccount(w http.ResponseWriter, status int, a identity.Account) error {
	return replyAs[api.Account](w, status, a)
}

func (s *service) getAccount(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	a, err := s.Identity.Account(r.Context(), c.Tenant, r.PathValue("name"))
	if err != nil {
		return err
	}
	return replyAccount(w, http.StatusOK, a)
}

func (s *service) changeAccount(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	if _, err := s.Identity.Account(r.Context(), c.Tenant, r.PathValue("name")); err != nil {
		return err
	}
	var q api.AccountRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	if q.Name != "" && q.Name != r.PathValue("name") {
		return fault.New(fault.Invalid, "an account keeps its name")
	}
	q.Name = r.PathValue("name")
	a, err := account(c, q)
	if err != nil {
		return err
	}
	if a, err = s.Identity.ChangeAccount(r.Context(), c.Principal, a); err != nil {
		return err
	}
	return replyAccount(w, http.StatusOK, a)
}

func (s *service) listTokens(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	page, err := httpapi.ReadPage(r, "tokens")
	if err != nil {
		return err
	}
	of := r.URL.Query().Get("account")
	home := c.Tenant
	if !access.Covers(c.Principal.Scopes, access.Admin) {
		of, home = c.Principal.Subject, c.Principal.Tenant
	}
	found, err := s.Identity.Tokens(r.Context(), home, of, page.After, page.Limit+1)
	if err != nil {
		return err
	}
	out := api.TokenList{Items: []api.Token{}}
	for i, t := range found {
		if i == page.Limit {
			out.NextPageToken = page.Next(found[i-1].Account + "/" + found[i-1].ID)
			break
		}
		token, err := recast[api.Token](t)
		if err != nil {
			return err
		}
		out.Items = append(out.Items, token)
	}
	return httpapi.ReplyTagged(w, r, out)
}

// Lives of tokens.
const (
	defaultLife = 90 * 24 * time.Hour
	longestLife = 366 * 24 * time.Hour
)

func (s *service) createToken(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	var q api.TokenRequest
	if err := httpapi.Read(r, &q); err != nil {
		return err
	}
	life := time.Duration(q.Seconds) * time.Second
	if q.Seconds == 0 {
		life = defaultLife
	}
	if q.Seconds < 0 || q.Seconds > int64(longestLife/time.Second) {
		return fault.New(fault.Invalid, "a token lives for up to %d seconds", int64(longestLife/time.Second))
	}
	want, err := scopes(q.Scopes)
	if err != nil {
		return err
	}
	req := identity.TokenRequest{Tenant: c.Tenant, Account: q.Account, Scopes: want, Note: q.Note, Expires: s.Now().Add(life)}
	if req.Account == "" {
		req.Tenant, req.Account = c.Principal.Tenant, c.Principal.Subject
	}
	if q.Bound != nil {
		req.Bound = &access.Bound{Run: work.RunID(q.Bound.RunID), Gate: work.StepID(q.Bound.GateID), PlanHash: work.Digest(q.Bound.PlanHash)}
	}
	token, text, err := s.Identity.IssueToken(r.Context(), c.Principal, req)
	if err != nil {
		return err
	}
	out := api.NewToken{Text: text}
	if out.Token, err = recast[api.Token](token); err != nil {
		return err
	}
	return httpapi.Reply(w, http.StatusCreated, out)
}

func (s *service) revokeToken(w http.ResponseWriter, r *http.Request, c *httpapi.Call) error {
	if err := s.Identity.Revoke(r.Context(), c.Principal, c.Tenant, r.PathValue("tokenId")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
