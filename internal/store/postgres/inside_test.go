package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// fill gives every field of a struct, and what it points to, a value of its own, so that one that is left out somewhere is missed.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(fmt.Appendf(nil, `{"n": %d}`, *n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, n)
		fill(e, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	default:
		panic(v.Kind())
	}
}

// Every field of a row is in a column or in a body, those included that are added some day.
func TestBodiesHoldEverything(t *testing.T) {
	n := 0
	var run, gotRun work.Run
	fill(reflect.ValueOf(&run).Elem(), &n)
	gotRun = work.Run{ // the columns
		Tenant: run.Tenant, ID: run.ID, Name: run.Name, RunToken: run.RunToken, PlanHash: run.PlanHash, Created: run.Created, State: run.State,
		Pack: work.PackRef{Name: run.Pack.Name},
	}
	c := cursor{rest: identityOf(&run)}
	c.identity(&gotRun)
	if err := c.end("run", ""); err != nil {
		t.Fatal(err)
	}
	c = cursor{rest: runBody(&run)}
	c.run(&gotRun)
	if err := c.end("run", ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(run, gotRun); diff != "" {
		t.Errorf("run (-put +got):\n%s", diff)
	}
	var step, gotStep work.Step
	fill(reflect.ValueOf(&step).Elem(), &n)
	gotStep = work.Step{Tenant: step.Tenant, Run: step.Run, ID: step.ID, State: step.State}
	body, err := stepBody(&step)
	if err != nil {
		t.Fatal(err)
	}
	c = cursor{rest: body}
	if items, inputs := c.step(&gotStep); items || inputs {
		t.Error("short values are said to be elsewhere")
	}
	if err := c.end("step", ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(step, gotStep); diff != "" {
		t.Errorf("step (-put +got):\n%s", diff)
	}
}

// FuzzBodies: no bytes make a reader panic or allocate without bound.
func FuzzBodies(f *testing.F) {
	n := 0
	var run work.Run
	var step work.Step
	fill(reflect.ValueOf(&run).Elem(), &n)
	fill(reflect.ValueOf(&step).Elem(), &n)
	body, err := stepBody(&step)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{identityOf(&run), runBody(&run), body, {}, {formV1}, {formV1, 0xff, 0xff, 0xff, 0xff, 0x0f}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []func(*cursor){
			func(c *cursor) { c.identity(&work.Run{}) }, func(c *cursor) { c.run(&work.Run{}) }, func(c *cursor) { c.step(&work.Step{}) },
		} {
			c := cursor{rest: b}
			read(&c)
			if err := c.end("row", "1"); err != nil && fault.CodeOf(err) != fault.Internal {
				t.Fatal(err)
			}
		}
	})
}

func TestClassify(t *testing.T) {
	for state, want := range map[string]struct {
		code  fault.Code
		again bool
	}{
		stateUnique: {fault.Conflict, true}, stateSerialization: {fault.Unavailable, true}, stateDeadlock: {fault.Unavailable, true},
		stateLockTimeout: {fault.Unavailable, false}, stateCancelled: {fault.Unavailable, false}, stateShutdown: {fault.Unavailable, true},
		"53100": {fault.Exhausted, false}, "08006": {fault.Unavailable, false}, "22021": {fault.Invalid, false},
		"25006": {fault.Unavailable, false}, "42P01": {fault.Internal, false},
	} {
		err := classify(fmt.Errorf("somewhere: %w", &pgconn.PgError{Code: state, Severity: "ERROR"}))
		if fault.CodeOf(err) != want.code || again(err) != want.again || lost(err) {
			t.Errorf("%s: %s, again %v, lost %v", state, fault.CodeOf(err), again(err), lost(err))
		}
	}
	broken := classify(&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded})
	if fault.CodeOf(broken) != fault.Unavailable || !again(broken) || !lost(broken) {
		t.Errorf("a broken connection: %v", broken)
	}
	if fatal := classify(&pgconn.PgError{Code: stateShutdown, Severity: "FATAL"}); !lost(fatal) {
		t.Error("a server that shuts down has not refused")
	}
	if late := classify(context.DeadlineExceeded); again(late) {
		t.Error("what took too long is tried again")
	}
	if other := errors.New("of the command"); again(other) {
		t.Error("an error of a command is tried to overcome")
	}
}

// Every text in a schema that people compare is compared bytewise, and every table but the ones of the installation has the tenant first
// in its key.
func TestSchemaKeepsTenantsApart(t *testing.T) {
	texts, err := migrations()
	if err != nil || len(texts) == 0 {
		t.Fatal(err)
	}
	installation := map[string]bool{"store": true, "sessions": true}
	tables := 0
	for statement := range strings.SplitSeq(strings.Join(texts, "\n"), ";\n") {
		_, create, ok := strings.Cut(statement, "CREATE TABLE ")
		if !ok {
			continue
		}
		tables++
		name, _, _ := strings.Cut(create, " ")
		for line := range strings.SplitSeq(create, "\n") {
			if strings.Contains(line, " text ") && !strings.Contains(line, `COLLATE "C"`) {
				t.Errorf("%s: %s", name, strings.TrimSpace(line))
			}
		}
		early := map[string]string{"leases": "PRIMARY KEY (session, tenant", "timers": "PRIMARY KEY (at, tenant"}[name]
		if early == "" {
			early = "PRIMARY KEY (tenant"
		}
		if !installation[name] && !strings.Contains(create, early) && !strings.Contains(create, `tenant     text COLLATE "C" PRIMARY KEY`) {
			t.Errorf("the key of %s does not begin with the tenant", name)
		}
	}
	if tables < 15 {
		t.Errorf("only %d tables were looked at", tables)
	}
}
