package api

import "encoding/json"

// PackSignature is what an author has signed of a pack.
type PackSignature struct {
	Author   string          `json:"author"`
	KeyID    string          `json:"keyId"`
	Pack     PackRef         `json:"pack"`
	SignedAt string          `json:"signedAt"`
	Note     string          `json:"note,omitempty"`
	Signed   json.RawMessage `json:"signed"` // the DSSE envelope
}

// PackSignatureList is what authors have signed of a pack.
type PackSignatureList struct {
	Items []PackSignature `json:"items"`
}

// RunRule says whose signatures may run packs of a name. The first rule that fits decides; where there are rules, what fits none is refused.
type RunRule struct {
	Tenant     string   `json:"tenant,omitempty"`
	Pack       string   `json:"pack"`              // a pattern, * for any text without a slash
	Submitters []string `json:"submitters"`        // names; "*" for all who are trusted to submit
	Authors    []string `json:"authors,omitempty"` // one of them has signed the pack; "*" for anybody trusted to publish
}

// RunRules are the rules of a tenant; none lets everything in.
type RunRules struct {
	Rules   []RunRule `json:"rules"`
	Version int64     `json:"version,omitempty"`
}
