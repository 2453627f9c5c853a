package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// everyField: a field that somebody adds to a row and forgets in a driver must not get lost in silence.
func everyField(t *testing.T, d kernel.Driver) {
	var run work.Run
	var step work.Step
	var letter store.DeadLetter
	var cached store.CachedResult
	var session store.Session
	var events [2]work.Event
	var lines [2]work.LogLine
	n := 0
	for _, row := range []any{&run, &step, &letter, &cached, &session, &events, &lines} {
		fill(t, reflect.ValueOf(row).Elem(), &n)
	}
	step.Tenant, step.Run = run.Tenant, run.ID
	letter.Tenant, letter.Run = run.Tenant, run.ID
	for i := range events {
		events[i].Tenant, events[i].Run, events[i].Seq = run.Tenant, run.ID, int64(i+1)
		lines[i].Run, lines[i].Seq = run.ID, int64(i+1)
	}
	mustUpdate(t, d, func(tx kernel.Tx) error {
		return errors.Join(
			tx.PutRun(&run), tx.PutStep(&step), tx.PutDeadLetter(letter), tx.PutCached(run.Tenant, digestOf('a'), cached), tx.PutSession(session),
			tx.AppendEvents(run.Tenant, run.ID, events[:]), tx.AppendLines(run.Tenant, run.ID, lines[:]),
		)
	})
	if err := d.View(context.Background(), func(r kernel.Reader) error {
		gotRun, err := r.Run(run.Tenant, run.ID)
		same(t, "run", &run, gotRun, err)
		gotStep, err := r.Step(run.Tenant, run.ID, step.ID)
		same(t, "step", &step, gotStep, err)
		letters, err := r.DeadLetters(run.Tenant, 1)
		same(t, "dead letter", []store.DeadLetter{letter}, letters, err)
		gotCached, err := r.Cached(run.Tenant, digestOf('a'))
		same(t, "cached result", &cached, gotCached, err)
		sessions, err := r.Sessions(session.ID, 0)
		same(t, "session", []store.Session{session}, sessions, err)
		gotEvents, err := r.Events(run.Tenant, run.ID, 1, 0)
		same(t, "events", events[:], gotEvents, err)
		gotLines, err := r.Lines(run.Tenant, run.ID, 1, 0)
		same(t, "lines", lines[:], gotLines, err)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func same[T any](t *testing.T, what string, want, got T, err error) {
	t.Helper()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%s (-put +got): %v\n%s", what, err, diff)
	}
}

// fill gives every field a value that no other one has, as far as its type has so many.
func fill(t *testing.T, v reflect.Value, n *int) {
	*n++
	switch v.Type() {
	case reflect.TypeFor[json.RawMessage]():
		v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), n)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, n)
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	default:
		t.Fatalf("a row has a field of type %s, which this test cannot fill", v.Type())
	}
}
