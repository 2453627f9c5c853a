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

// version returns which of the schemas that this program knows a store has.
func version(c *conn, known int) (has int, err error) {
	var mark int64
	if _, err = c.one(`SELECT user_version, application_id FROM pragma_user_version, pragma_application_id`, func(v values) {
		has, mark = int(v.number(0)), v.number(1)
	}); err != nil {
		return 0, err
	}
	if mark != application && (mark != 0 || has != 0) {
		return 0, fault.New(fault.Conflict, "%s belongs to another program", fileName)
	}
	if has > known {
		return 0, fault.New(fault.Conflict, "the store has schema version %d, this Orrery knows %d at most", has, known).
			WithHint("use the Orrery that wrote it, or a newer one")
	}
	return has, nil
}

// migrate brings a store to the version of this program.
func migrate(c *conn) error {
	texts, err := migrations()
	if err != nil {
		return err
	}
	return migrateWith(c, texts)
}

// migrateWith runs what a store has not had yet, one transaction a step.
func migrateWith(c *conn, texts []string) error {
	has, err := version(c, len(texts))
	if err != nil {
		return err
	}
	for ; has < len(texts); has++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE;\n%s;\nPRAGMA user_version = %d;\nPRAGMA application_id = %d;\nCOMMIT;",
			texts[has], has+1, application)
		if err := c.script(script); err != nil {
			_ = c.script("ROLLBACK") // there may be nothing to roll back
			return fault.Wrap(fault.Internal, err, "the store could not be brought to schema version %d", has+1)
		}
	}
	return nil
}

// olderSchema says that a store has had fewer migrations than this program knows.
type olderSchema struct{ has, needs int }

func (o olderSchema) Error() string {
	return fmt.Sprintf("the store has schema version %d and needs %d", o.has, o.needs)
}

// checkSchema refuses a store that only a writer can bring up to date.
func checkSchema(c *conn) error {
	texts, err := migrations()
	if err != nil {
		return err
	}
	has, err := version(c, len(texts))
	if err == nil && has < len(texts) {
		return olderSchema{has, len(texts)}
	}
	return err
}
