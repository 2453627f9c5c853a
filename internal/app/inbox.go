package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/dsse"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/work"
)

// The inbox is a folder into which other processes drop signed decisions and orders while one process holds the data
// folder. A file counts by its signature, not by who could write it; so the same files can come from another machine.

const (
	inboxFolder   = "inbox"
	refusedFolder = "inbox/refused"
	inboxEvery    = 300 * time.Millisecond
	maxInboxFile  = 1 << 20
)

// PayloadOrder is the type of a signed order about a run.
const PayloadOrder = "application/vnd.orrery.order+json"

// Order asks for a run to be cancelled, paused or resumed.
type Order struct {
	Version string      `json:"v"`
	Tenant  work.Tenant `json:"tenant"`
	Run     work.RunID  `json:"run"`
	Verb    string      `json:"verb"`
	Reason  string      `json:"reason,omitempty"`
	Actor   string      `json:"actor"`
	At      work.Time   `json:"at"`
	Nonce   string      `json:"nonce"`
}

const (
	orderVersion = "orrery.order/v1"
	orderLife    = 24 * time.Hour // an old order is not carried out when it turns up again
)

// SignOrder makes a signed order.
func SignOrder(ctx context.Context, run *work.Run, verb, reason string, by keyring.Signer) (dsse.Envelope, error) {
	raw, err := canonical.Marshal(Order{
		Version: orderVersion, Tenant: run.Tenant, Run: run.ID, Verb: verb, Reason: reason, Actor: by.Name(), At: Now(), Nonce: rand.Text(),
	})
	if err != nil {
		return dsse.Envelope{}, err
	}
	return by.Sign(ctx, PayloadOrder, raw)
}

// Drop puts a signed document into the inbox of a data folder and returns the name of its file. The file appears whole or not at all.
func Drop(dir string, e dsse.Envelope) (string, error) {
	box := filepath.Join(dir, inboxFolder)
	if err := os.MkdirAll(box, 0o700); err != nil {
		return "", fault.Wrap(fault.Internal, err, "inbox")
	}
	name := filepath.Join(box, rand.Text()+".dsse.json")
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, e.Encode(), 0o600); err != nil {
		return "", fault.Wrap(fault.Internal, err, "inbox")
	}
	return name, fault.Wrap(fault.Internal, os.Rename(tmp, name), "inbox")
}

// Outcome returns what became of a dropped document: nil and true when it was taken, its refusal and true when it was refused, false
// while it waits.
func Outcome(name string) (refusal error, done bool) {
	if _, err := os.Stat(name); err == nil {
		return nil, false
	}
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(name), "refused", filepath.Base(name)+".error"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true
	}
	if err != nil {
		return fault.Wrap(fault.Internal, err, "inbox"), true
	}
	var e struct {
		Code    fault.Code `json:"code"`
		Message string     `json:"message"`
		Hint    string     `json:"hint"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return fault.Wrap(fault.Internal, err, "inbox"), true
	}
	return &fault.Error{Code: e.Code, Message: e.Message, Hint: e.Hint}, true
}

func (f *Folder) inbox(ctx context.Context) {
	t := time.NewTicker(inboxEvery)
	defer t.Stop()
	for {
		f.Collect(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Collect carries out what lies in the inbox. What is refused is kept with its reason, for the sender to read. What could not be
// carried out, because the process ends or the disk is full, stays for later.
func (f *Folder) Collect(ctx context.Context) {
	box := filepath.Join(f.Dir, inboxFolder)
	entries, err := os.ReadDir(box)
	if err != nil {
		return // there is none yet
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".dsse.json") || !e.Type().IsRegular() {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		name := filepath.Join(box, e.Name())
		err := f.take(context.WithoutCancel(ctx), name)
		if passing(err) {
			f.Log.Error("inbox: not yet", "file", e.Name(), "error", err)
			return
		}
		if err != nil {
			f.Log.Warn("inbox: refused", "file", e.Name(), "error", err)
			if err := f.refuse(name, err); err != nil {
				f.Log.Error("inbox", "error", err)
			}
		}
		if err := os.Remove(name); err != nil {
			f.Log.Error("inbox", "error", err)
			return
		}
	}
}

// passing reports whether a document was not taken for a reason that has nothing to do with it.
func passing(err error) bool { return fault.Passing(err) || fault.CodeOf(err) == fault.Internal }

func (f *Folder) take(ctx context.Context, name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "inbox")
	}
	if info.Size() > maxInboxFile {
		return fault.New(fault.Invalid, "the document is larger than %d bytes", maxInboxFile)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "inbox")
	}
	envelope, err := dsse.Decode(raw)
	if err != nil {
		return err
	}
	if envelope.Type == PayloadOrder {
		return f.obey(ctx, envelope)
	}
	_, err = f.Control.Decide(ctx, f.Tenant, envelope)
	if fault.CodeOf(err) == fault.Conflict {
		// A process that was killed between taking a document and removing it leaves it here.
		if counted, e := f.Control.Counted(ctx, f.Tenant, envelope); e == nil && counted {
			return nil
		}
	}
	return err
}

// obey carries out a signed order of somebody who may submit runs.
func (f *Folder) obey(ctx context.Context, envelope dsse.Envelope) error {
	trust, err := f.Keys.Trust()
	if err != nil {
		return err
	}
	raw, id, err := dsse.Verify(envelope, PayloadOrder, trust.For(keyring.Submit))
	if err != nil {
		return err
	}
	var o Order
	if err := json.Unmarshal(raw, &o); err != nil {
		return fault.New(fault.Invalid, "the order cannot be read: %v", err)
	}
	key, ok := trust.Find(id)
	switch {
	case !ok || key.Name != o.Actor || !keyring.Judge(key, keyring.Moment{At: o.At}, Now()).Counts():
		return fault.New(fault.Untrusted, "the order is not by %s, or with a key that does not count", o.Actor)
	case o.Version != orderVersion || o.Tenant != f.Tenant:
		return fault.New(fault.Invalid, "the order is for another version or tenant")
	case Now().Sub(o.At).Abs() > orderLife:
		return fault.New(fault.Invalid, "the order is of %s and too old", o.At)
	}
	return f.Control.Control(ctx, f.Tenant, o.Run, o.Verb, work.Actor{Name: o.Actor, Key: id, Reason: o.Reason})
}

func (f *Folder) refuse(name string, why error) error {
	if err := os.MkdirAll(filepath.Join(f.Dir, refusedFolder), 0o700); err != nil {
		return err
	}
	e := fault.Error{Code: fault.CodeOf(why), Message: why.Error()}
	var known *fault.Error
	if errors.As(why, &known) {
		e.Hint = known.Hint
	}
	raw, err := json.Marshal(map[string]any{"code": e.Code, "message": e.Message, "hint": e.Hint})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.Dir, refusedFolder, filepath.Base(name)+".error"), raw, 0o600)
}
