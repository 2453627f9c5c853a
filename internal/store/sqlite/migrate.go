package sqlite

import (
	"embed"
	"fmt"
	"io/fs"

	"orrery.example/orrery/internal/fault"
)

//go:embed schema/*.sql
var schema embed.FS

// application marks the file as Orrery's ("Orry"), so that another program's is not taken for one.
const application = 0x4f727279

// migrations returns the texts of schema/ in order; a store's version is how many of them it has had.
func migrations() ([]string, error) {
	entries, err := fs.ReadDir(schema, "schema")
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(entries))
	for i, e := range entries {
		text, err := schema.ReadFile("schema/" + e.Name())
		if err != nil {
			return nil, err
		}
		texts[i] = string(text)
	}
	return texts, nil
}

// versions returns the version of a store and the one this program brings.
func versions(c *conn) (has, wants int, texts []string, err error) {
	if texts, err = migrations(); err != nil {
		return 0, 0, nil, err
	}
	var mark int64
	if _, err = c.one(`SELECT user_version, application_id FROM pragma_user_version, pragma_application_id`, func(v values) {
		has, mark = int(v.number(0)), v.number(1)
	}); err != nil {
		return 0, 0, nil, err
	}
	if mark != application && (mark != 0 || has != 0) {
		return 0, 0, nil, fault.New(fault.Conflict, "%s belongs to another program", fileName)
	}
	if has > len(texts) {
		return 0, 0, nil, fault.New(fault.Conflict, "the store has schema version %d, this Orrery knows %d at most", has, len(texts)).
			WithHint("use the Orrery that wrote it, or a newer one")
	}
	return has, len(texts), texts, nil
}

// migrate brings a store to the version of this program, one transaction a step.
func migrate(c *conn) error {
	has, wants, texts, err := versions(c)
	if err != nil {
		return err
	}
	for version := has; version < wants; version++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nPRAGMA application_id = %d;\nCOMMIT;",
			texts[version], version+1, application)
		if err := c.script(script); err != nil {
			_ = c.script("ROLLBACK") // there may be nothing to roll back
			return fault.Wrap(fault.Internal, err, "the store could not be brought to schema version %d", version+1)
		}
	}
	return nil
}

// checkSchema refuses a store that only a writer could bring up to date.
func checkSchema(c *conn) error {
	has, wants, _, err := versions(c)
	if err == nil && has < wants {
		return fault.New(fault.Conflict, "the store has schema version %d and needs %d", has, wants).
			WithHint("open it once for writing, for example with: orrery doctor")
	}
	return err
}
