package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"hash/crc32"
	"slices"
	"strings"
	"sync"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// A token is "orr_", an id of 12 letters, a secret of 40 and a checksum of 7. Scanners of leaked secrets find it by its form, and a
// mistyped one is refused without a look into the store.
const (
	prefix     = "orr_"
	idLength   = 12
	secretSize = 25 // bytes: 40 letters
	sumLength  = 7
)

func letters(raw []byte) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw))
}

func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	return letters([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

func newToken() (id, token string) {
	id = strings.ToLower(rand.Text()[:idLength])
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails, by its documentation
	token = prefix + id + letters(secret)
	return id, token + checksum(token)
}

// wellFormed returns the id of a token, "" for what is none.
func wellFormed(token string) string {
	rest, ok := strings.CutPrefix(token, prefix)
	if !ok || len(rest) != idLength+secretSize*8/5+sumLength {
		return ""
	}
	body := token[:len(token)-sumLength]
	if checksum(body) != token[len(token)-sumLength:] {
		return ""
	}
	return rest[:idLength]
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Token is what is known of a token once it has been shown.
type Token struct {
	ID      string         `json:"id"`
	Tenant  work.Tenant    `json:"tenant,omitempty"`
	Account string         `json:"account"`
	Scopes  []access.Scope `json:"scopes"`
	Note    string         `json:"note,omitempty"`
	Bound   *access.Bound  `json:"bound,omitempty"`
	Created work.Time      `json:"created"`
	Expires work.Time      `json:"expires,omitzero"`
	Revoked work.Time      `json:"revoked,omitzero"`
}

// kept is a token as it is stored.
type kept struct {
	Token
	Hash string `json:"hash"`
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Tenant  work.Tenant
	Account string
	Scopes  []access.Scope
	Note    string
	Bound   *access.Bound
	Expires work.Time // zero for never
}

// IssueToken makes a token of an account and returns its text, which is never shown again. Errors: fault.NotFound for the account, fault.Denied
// for scopes that the account or by does not have, fault.Invalid.
func (s *Service) IssueToken(ctx context.Context, by access.Principal, q TokenRequest) (Token, string, error) {
	a, _, err := s.account(ctx, q.Tenant, q.Account, nil)
	if err != nil {
		return Token{}, "", err
	}
	has, err := a.rights()
	if err != nil {
		return Token{}, "", err
	}
	if by.Subject != a.Name && !slices.Contains(by.Scopes, access.Admin) {
		return Token{}, "", fault.New(fault.Denied, "only %s and administrators make tokens of %s", a.Name, a.Name)
	}
	if by.Bound != nil {
		return Token{}, "", fault.New(fault.Denied, "a token for one decision makes no others")
	}
	if len(q.Scopes) == 0 {
		return Token{}, "", fault.New(fault.Invalid, "a token needs scopes")
	}
	for _, scope := range q.Scopes {
		if !access.Covers(has, scope) || !access.Covers(by.Scopes, scope) {
			return Token{}, "", fault.New(fault.Denied, "%s does not have the scope %s to hand on", a.Name, scope)
		}
	}
	now := s.Now()
	if q.Expires != 0 && q.Expires <= now {
		return Token{}, "", fault.New(fault.Invalid, "the token would expire before it is made")
	}
	id, text := newToken()
	store.About(ctx, a.Name+"/"+id)
	t := Token{
		ID: id, Tenant: a.Tenant, Account: a.Name, Scopes: slices.Compact(slices.Sorted(slices.Values(q.Scopes))), Note: q.Note,
		Bound: q.Bound, Created: now, Expires: q.Expires,
	}
	token, err := put(store.Record{Tenant: store.Installation, Kind: kindToken, ID: id}, kept{t, hashOf(text)})
	if err != nil {
		return Token{}, "", err
	}
	held, err := put(store.Record{Tenant: a.home(), Kind: kindHeld, ID: a.Name + "/" + id}, struct{}{})
	if err != nil {
		return Token{}, "", err
	}
	return t, text, s.Records.Change(ctx, token, held)
}

// Tokens returns the tokens of an account, or of all accounts of a tenant with "", those after "account/id".
func (s *Service) Tokens(ctx context.Context, tenant work.Tenant, account, after string, limit int) ([]Token, error) {
	if account != "" {
		account += "/"
	}
	rows, err := s.Records.Records(ctx, (Account{Tenant: tenant}).home(), kindHeld, account, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Token, 0, len(rows))
	for _, r := range rows {
		_, id, _ := strings.Cut(r.ID, "/")
		k, _, err := s.kept(ctx, id, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, k.Token)
	}
	return out, nil
}

func tokenRef(id string) store.RecordRef {
	return store.RecordRef{Tenant: store.Installation, Kind: kindToken, ID: id}
}

func (s *Service) kept(ctx context.Context, id string, found store.Found) (k kept, version int64, err error) {
	r, err := found.Record(ctx, s.Records, tokenRef(id))
	if err != nil {
		return k, 0, err
	}
	return k, r.Version, decode(r, &k)
}

// Revoke ends a token at once. Revoking it again is no error. Errors: fault.NotFound, also for a token of somebody else unless by is an
// administrator of the tenant.
func (s *Service) Revoke(ctx context.Context, by access.Principal, tenant work.Tenant, id string) error {
	k, version, err := s.kept(ctx, id, nil)
	if err != nil {
		return err
	}
	mine := k.Account == by.Subject && k.Tenant == by.Tenant
	if !mine && (k.Tenant != tenant || !slices.Contains(by.Scopes, access.Admin)) {
		return fault.New(fault.NotFound, "there is no token %s", id)
	}
	if k.Revoked != 0 {
		return nil
	}
	k.Revoked = s.Now()
	change, err := put(store.Record{Tenant: store.Installation, Kind: kindToken, ID: id, Version: version}, k)
	if err != nil {
		return err
	}
	return s.Records.Change(ctx, change)
}

// holders remembers whose a token is, which never changes. Whether it counts, and what for, is never remembered.
type holders struct {
	mu sync.Mutex
	m  map[string]holder // by the id of the token
}

type holder struct {
	tenant  work.Tenant
	account string
}

const maxHolders = 10_000

func (h *holders) get(id string) (holder, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	who, known := h.m[id]
	return who, known
}

func (h *holders) put(id string, who holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil || len(h.m) >= maxHolders {
		h.m = map[string]holder{}
	}
	h.m[id] = who
}

// Expect returns what Principal and KnowTenant will want to know, so that it can be looked up at once, and the account that the token is of,
// "" until it was here before. It says nothing about whether the token counts.
func (s *Service) Expect(token string, tenant work.Tenant) (account string, refs []store.RecordRef) {
	id := wellFormed(token)
	if id == "" {
		return "", nil
	}
	refs = append(refs, tokenRef(id))
	if tenant != "" {
		refs = append(refs, tenantRef(tenant))
	}
	who, known := s.holders.get(id)
	if known {
		refs = append(refs, accountRef(who.tenant, who.account))
	}
	return who.account, refs
}

// Principal returns who a token stands for. Found is what was looked up for this request, nil for nothing. Error: fault.Unauthenticated, the
// same for every cause.
func (s *Service) Principal(ctx context.Context, token string, found store.Found) (access.Principal, error) {
	refused := fault.New(fault.Unauthenticated, "the token is not known, has expired or was revoked").WithHint("orrery login, or ask for a new token")
	id := wellFormed(token)
	if id == "" {
		return access.Principal{}, refused
	}
	k, _, err := s.kept(ctx, id, found)
	if fault.CodeOf(err) == fault.NotFound {
		return access.Principal{}, refused
	}
	if err != nil {
		return access.Principal{}, err
	}
	now := s.Now()
	if subtle.ConstantTimeCompare([]byte(k.Hash), []byte(hashOf(token))) != 1 || k.Revoked != 0 || k.Expires != 0 && k.Expires <= now {
		return access.Principal{}, refused
	}
	a, _, err := s.account(ctx, k.Tenant, k.Account, found)
	if fault.CodeOf(err) == fault.NotFound || err == nil && a.Disabled {
		return access.Principal{}, refused
	}
	if err != nil {
		return access.Principal{}, err
	}
	s.holders.put(k.ID, holder{k.Tenant, k.Account})
	has, err := a.rights()
	if err != nil {
		return access.Principal{}, err
	}
	p := access.Principal{Subject: a.Name, Kind: a.Kind, Tenant: k.Tenant, TokenID: k.ID, Bound: k.Bound}
	for _, scope := range k.Scopes {
		if access.Covers(has, scope) { // a role that was taken away is gone for its tokens, too
			p.Scopes = append(p.Scopes, scope)
		}
	}
	return p, nil
}

// Bootstrap makes the first administrator of a fresh installation, its first tenant, and a token. It returns "" when there is one already.
func (s *Service) Bootstrap(ctx context.Context, tenant work.Tenant) (string, error) {
	const name = "admin"
	root := access.Principal{Subject: "bootstrap", Kind: "service", Scopes: []access.Scope{access.Admin}}
	if _, err := s.CreateTenant(ctx, Tenant{Name: tenant}); err != nil && fault.CodeOf(err) != fault.Conflict {
		return "", err
	}
	if _, err := s.CreateAccount(ctx, root, Account{Name: name, Kind: "user", Roles: []string{"admin"}}); err != nil {
		if fault.CodeOf(err) != fault.Conflict {
			return "", err
		}
		// A start that was interrupted may have made the account and no token.
		if had, err := s.Tokens(ctx, "", name, "", 1); err != nil || len(had) > 0 {
			return "", err
		}
	}
	_, token, err := s.IssueToken(ctx, root, TokenRequest{Account: name, Scopes: []access.Scope{access.Admin, access.Worker}, Note: "made at the first start"})
	return token, err
}
