package store

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Record is a small JSON document that a service keeps: an account, a token, an answer that may be asked for again.
type Record struct {
	Tenant  work.Tenant // Installation for what belongs to no tenant
	Kind    string
	ID      string
	Version int64 // rises by one with every change; 0 means that there is none
	Doc     json.RawMessage
	Expires work.Time // from then on it counts as missing; zero for never
}

// RecordRef names a record.
type RecordRef struct {
	Tenant   work.Tenant
	Kind, ID string
}

// Found is what one look has found: an entry for each record that was looked for, nil for one that is not there.
type Found map[RecordRef]*Record

// Record returns a record that was looked for, or asks for it. Error: fault.NotFound.
func (f Found) Record(ctx context.Context, from Records, ref RecordRef) (Record, error) {
	row, known := f[ref]
	switch {
	case !known:
		return from.Record(ctx, ref.Tenant, ref.Kind, ref.ID)
	case row == nil:
		return Record{}, fault.New(fault.NotFound, "there is no %s %s", ref.Kind, ref.ID)
	default:
		return *row, nil
	}
}

// Installation stands where a tenant does, for records and audit entries of the installation itself. It is no name of a tenant.
const Installation work.Tenant = "*"

// AuditStream stands where a run does, for the history of who did what in a tenant. It is no id of a run.
const AuditStream work.RunID = "audit"

// IncidentStream stands where a run does, for the history of what needed people in a tenant. It is no id of a run. Unlike audit entries its
// events are in the feed.
const IncidentStream work.RunID = "incidents"

// AuditSeal stands where a run does for the leaf of the log that seals the first entries of the audit stream.
func AuditSeal(entries int64) work.RunID {
	return AuditStream + "/" + work.RunID(strconv.FormatInt(entries, 10))
}

// IsAuditSeal reports whether a leaf is one of the audit stream and not of a run.
func IsAuditSeal(id work.RunID) bool { return strings.HasPrefix(string(id), string(AuditStream)+"/") }

// Records keeps small documents of services.
type Records interface {
	// Record returns a record. Errors: fault.NotFound.
	Record(ctx context.Context, tenant work.Tenant, kind, id string) (Record, error)

	// Look returns records as they were committed at one moment, in one question: nil for one that is not there.
	Look(ctx context.Context, refs ...RecordRef) (Found, error)

	// Records returns records of a kind in the bytewise order of their ids: those that begin with prefix and come after the id after.
	Records(ctx context.Context, tenant work.Tenant, kind, prefix, after string, limit int) ([]Record, error)

	// Change makes all changes in one transaction or none, with the audit entry of ctx. Version is that of the record which is replaced or
	// deleted, 0 for one that must not exist. Errors: fault.Conflict when it is another.
	Change(ctx context.Context, changes ...RecordChange) error

	// Announce makes changes as Change does, and appends an event to the tenant's history of incidents, which is part of its feed, in the same
	// transaction. Errors: fault.Conflict as of Change.
	Announce(ctx context.Context, tenant work.Tenant, event work.EventType, data any, changes ...RecordChange) error
	// AuditEnd returns where the audit stream of a tenant ends; zero before its first entry.
	AuditEnd(ctx context.Context, tenant work.Tenant) (AuditEnd, error)

	// Prune deletes at most limit records that have expired, and returns how many.
	Prune(ctx context.Context, limit int) (int, error)
}

// AuditEnd is the end of an audit stream: how many entries it has, and the hash of the last.
type AuditEnd struct {
	Seq  int64       `json:"seq"`
	Head work.Digest `json:"head"`
}

// PackKind is the kind of the records of uploaded packs, by digest. Their documents name the blobs of the files.
const PackKind = "pack"

// LetterKind is the kind of the records of what people say of dead letters, by run/step. They go with the run.
const LetterKind = "letter"

// RecordChange puts a record, or deletes it.
type RecordChange struct {
	Record
	Delete bool
}

// Audit is one entry of the audit stream of a tenant: who did what to what, and why. It never holds a secret.
type Audit struct {
	Tenant  work.Tenant     `json:"-"`
	Action  string          `json:"action"`            // the operation, like submitRun
	Actor   string          `json:"actor"`             // account
	Kind    string          `json:"actorKind"`         // user, service, worker
	Token   string          `json:"token,omitempty"`   // id of the token that was used
	Subject string          `json:"subject,omitempty"` // what it was done to: a run, an account, a token
	Reason  string          `json:"reason,omitempty"`
	Ticket  string          `json:"ticket,omitempty"`
	Scope   string          `json:"scope,omitempty"` // the right it was done by
	Project string          `json:"project,omitempty"`
	Trace   string          `json:"trace,omitempty"`
	Detail  json.RawMessage `json:"detail,omitempty"`

	written bool
}

// Written reports whether the entry is in the stream.
func (a *Audit) Written() bool { return a.written }

// Wrote marks the entry as written. Only a store calls it, after the commit.
func (a *Audit) Wrote() { a.written = true }

type auditKey struct{}

// WithAudit returns a context whose first successful command writes the entry, in its own transaction. So no change is made
// without its entry and no entry without its change. With nil no command does.
func WithAudit(ctx context.Context, a *Audit) context.Context {
	return context.WithValue(ctx, auditKey{}, a)
}

// AuditOf returns the entry that a command of ctx has to write, nil for none.
func AuditOf(ctx context.Context) *Audit {
	if a, ok := ctx.Value(auditKey{}).(*Audit); ok && a != nil && !a.written {
		return a
	}
	return nil
}

// Answer is the answer to a request that may be asked for again. The command of its context that makes runs keeps it as a record, in its own
// transaction: so the runs are there and the answer is, or neither.
type Answer struct {
	Record // what is to be there, but for Doc; Version is that of the record it replaces, 0 for none

	// Render returns the document from what the command has made, nil when it is not to be kept. It may be called more than once.
	Render func([]Submitted) json.RawMessage

	kept bool
}

// Kept reports whether the answer is in the store.
func (a *Answer) Kept() bool { return a.kept }

// Keep marks the answer as kept. Only a store calls it, after the commit.
func (a *Answer) Keep() { a.kept = true }

type answerKey struct{}

// WithAnswer returns a context whose first Submit keeps the answer, unless it makes no run at all. It fails with fault.Conflict, and makes
// nothing, when the record has another version: the request has been answered.
func WithAnswer(ctx context.Context, a *Answer) context.Context {
	return context.WithValue(ctx, answerKey{}, a)
}

// AnswerOf returns the answer that a Submit of ctx has to keep, nil for none.
func AnswerOf(ctx context.Context) *Answer {
	if a, ok := ctx.Value(answerKey{}).(*Answer); ok && !a.kept && a.Render != nil {
		return a
	}
	return nil
}

// About says what the audit entry of ctx is about, where only the command knows: the id of what it makes.
func About(ctx context.Context, subject string) {
	if a := AuditOf(ctx); a != nil && a.Subject == "" {
		a.Subject = subject
	}
}
