package manifest

import (
	"bytes"
	_ "embed"
)

//go:embed pack.schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of a manifest, for editors and for checks outside of this program. It is
// the file spec/pack.schema.json. It describes the form; what the parts say about one another only Parse and package plan check.
func Schema() []byte { return bytes.Clone(schema) }
