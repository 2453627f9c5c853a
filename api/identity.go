package api

import "encoding/json"

// Me is who a token stands for.
type Me struct {
	Subject string   `json:"subject"`
	Kind    string   `json:"kind"`
	Tenant  string   `json:"tenant,omitempty"` // "" for an administrator of the installation
	Scopes  []string `json:"scopes"`
	TokenID string   `json:"tokenId"`
}

// Tenant is the wall that nothing crosses.
type Tenant struct {
	Name    string `json:"name"`
	Title   string `json:"title,omitempty"`
	Created string `json:"created,omitempty"`
}

// TenantRequest makes a tenant.
type TenantRequest struct {
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
}

// Account is somebody who may hold tokens.
type Account struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"` // user or service
	Roles    []string  `json:"roles,omitempty"`
	Scopes   []string  `json:"scopes,omitempty"`
	Disabled bool      `json:"disabled,omitempty"`
	External *External `json:"external,omitempty"`
	Created  string    `json:"created,omitempty"`
}

// External is who an account is at an identity provider.
type External struct {
	Issuer  string `json:"issuer"`  // as in the claim iss
	Subject string `json:"subject"` // as in the claim sub
}

// LoginOptions are the ways to log in at a server.
type LoginOptions struct {
	Providers []LoginProvider `json:"providers"`
}

// LoginProvider is an identity provider that the server trusts, and the client to log in as.
type LoginProvider struct {
	Name     string   `json:"name"`
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"clientId"`
	Scopes   []string `json:"scopes"`
	Seconds  int64    `json:"expiresIn"` // how long a session at the command line counts
}

// AccountRequest makes or changes an account. The name is in the path of a change.
type AccountRequest struct {
	Name     string    `json:"name,omitempty"`
	Kind     string    `json:"kind,omitempty"`
	Roles    []string  `json:"roles,omitempty"`
	Scopes   []string  `json:"scopes,omitempty"`
	Disabled bool      `json:"disabled,omitempty"`
	External *External `json:"external,omitempty"` // of a new account: whose logins count as it
}

// Bound ties a token to one decision.
type Bound struct {
	RunID    string `json:"pack_run_id"`
	GateID   string `json:"pack_gate_id"`
	PlanHash string `json:"pack_plan_hash"`
}

// TokenRequest makes a token.
type TokenRequest struct {
	Account string   `json:"account,omitempty"` // the caller's without one
	Scopes  []string `json:"scopes"`
	Note    string   `json:"note,omitempty"`
	Bound   *Bound   `json:"bound,omitempty"`
	Seconds int64    `json:"expiresIn,omitempty"` // 90 days without one
}

// Token is what is known of a token.
type Token struct {
	ID      string   `json:"id"`
	Account string   `json:"account"`
	Scopes  []string `json:"scopes"`
	Note    string   `json:"note,omitempty"`
	Bound   *Bound   `json:"bound,omitempty"`
	Created string   `json:"created"`
	Expires string   `json:"expires,omitempty"`
	Revoked string   `json:"revoked,omitempty"`
}

// NewToken is a token with its text, which is never shown again.
type NewToken struct {
	Token
	Text string `json:"token"`
}

// Key is a public key and what it is trusted for.
type Key struct {
	ID        string      `json:"id"`
	Name      string      `json:"name"`
	Usage     []string    `json:"usage"`
	Algorithm string      `json:"algorithm"`
	Public    string      `json:"public"`
	NotBefore string      `json:"notBefore,omitempty"`
	NotAfter  string      `json:"notAfter,omitempty"`
	Revoked   *Revocation `json:"revoked,omitempty"`
}

// Revocation ends the trust in a key.
type Revocation struct {
	At     string `json:"at,omitempty"`
	Reason string `json:"reason"` // superseded or compromised
	Note   string `json:"note,omitempty"`
}

// KeyRequest trusts a public key.
type KeyRequest struct {
	Name   string   `json:"name,omitempty"` // the caller's without one
	Public string   `json:"public"`         // PEM
	Usage  []string `json:"usage"`          // submit, approve, publish, …
	From   string   `json:"from,omitempty"` // from when on it counts, as an administrator may say; RFC 3339, now without
}

// RevokeRequest ends the trust in a key.
type RevokeRequest struct {
	Reason string `json:"reason"`
	Note   string `json:"note,omitempty"`
}

// TrustRoot is a signed trust root that the tenant has published.
type TrustRoot struct {
	Number      int64           `json:"number"`
	PublishedAt string          `json:"publishedAt"`
	ExpiresAt   string          `json:"expiresAt"`
	Signed      json.RawMessage `json:"signed"` // the DSSE envelope
}

// SignedDocument is a DSSE envelope.
type SignedDocument struct {
	PayloadType string              `json:"payloadType"`
	Payload     string              `json:"payload"` // base64
	Signatures  []DocumentSignature `json:"signatures"`
}

// DocumentSignature is one signature of a DSSE envelope.
type DocumentSignature struct {
	KeyID string `json:"keyid,omitempty"`
	Sig   string `json:"sig"` // base64
}

// TrustRootList is a page of them, in their order.
type TrustRootList struct {
	Items         []TrustRoot `json:"items"`
	NextPageToken string      `json:"next_page_token,omitempty"`
}

// Checkpoint is the signed head of the tenant's log.
type Checkpoint struct {
	Origin     string `json:"origin"`
	Size       int64  `json:"size"`
	Checkpoint string `json:"checkpoint"` // a C2SP signed note
}

// InclusionProof shows that a run is in the log.
type InclusionProof struct {
	Checkpoint
	Index int64    `json:"index"`
	Leaf  []byte   `json:"leaf"`
	Proof []string `json:"proof"` // base64
}

// ConsistencyProof shows that the log has only grown.
type ConsistencyProof struct {
	Checkpoint
	From  int64    `json:"from"`
	Proof []string `json:"proof"`
}

// AuditEntry is one entry of the audit stream.
type AuditEntry struct {
	Tenant string          `json:"tenant"`
	Seq    int64           `json:"seq"`
	Time   string          `json:"time"`
	Type   string          `json:"type"` // the operation
	Data   json.RawMessage `json:"data"` // who, why, by which token
	Prev   string          `json:"prev"`
	Hash   string          `json:"hash"`
}

// AuditVerdict is whether the audit stream holds together.
type AuditVerdict struct {
	Valid   bool   `json:"valid"`
	Entries int64  `json:"entries"`
	Head    string `json:"head"`
	Problem string `json:"problem,omitempty"`
}

// More lists.
type (
	// TenantList is a page of tenants by name.
	TenantList struct {
		Items         []Tenant `json:"items"`
		NextPageToken string   `json:"next_page_token,omitempty"`
	}
	// AccountList is a page of accounts by name.
	AccountList struct {
		Items         []Account `json:"items"`
		NextPageToken string    `json:"next_page_token,omitempty"`
	}
	// TokenList is a page of tokens.
	TokenList struct {
		Items         []Token `json:"items"`
		NextPageToken string  `json:"next_page_token,omitempty"`
	}
	// KeyList is the keys that are trusted.
	KeyList struct {
		Items []Key `json:"items"`
	}
	// AuditList is a page of the audit stream.
	AuditList struct {
		Items         []AuditEntry `json:"items"`
		NextPageToken string       `json:"next_page_token,omitempty"`
	}
)
