package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/manifest"
)

// refusal is an error with a status that its code alone does not give.
type refusal struct {
	status int
	cause  *fault.Error
}

// Error implements error.
func (r *refusal) Error() string { return r.cause.Error() }

// Unwrap returns the error with its code.
func (r *refusal) Unwrap() error { return r.cause }

// Reply writes v as JSON with a status.
func Reply(w http.ResponseWriter, status int, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "encode the answer")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // a client that is gone does not mind
	return nil
}

// Read decodes the JSON body of a request; fields that v does not have are refused. An empty body leaves v as it is. Errors: fault.Invalid.
func Read(r *http.Request, v any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return bodyError(err)
	}
	if len(raw) == 0 {
		return nil
	}
	if !utf8.Valid(raw) {
		return fault.New(fault.Invalid, "the body is not UTF-8")
	}
	return decodeStrictly(raw, v)
}

func bodyError(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &refusal{http.StatusRequestEntityTooLarge, fault.New(fault.Invalid, "the body is larger than %d bytes", large.Limit)}
	}
	return fault.New(fault.Invalid, "the body ended early: %v", err)
}

// statusOf returns the HTTP status of an error.
func statusOf(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return fault.Status(fault.CodeOf(err))
}

// envelope makes the error document. What is not found has one answer, whatever it is and whether it is somebody else's: nobody learns
// from it what exists. What broke inside is for the log, not for the caller.
func envelope(err error, trace string) api.ErrorReply {
	code := fault.CodeOf(err)
	e := api.Error{Code: string(code), Message: err.Error(), TraceID: trace}
	switch {
	case code == fault.NotFound:
		e.Message, e.Hint = "there is no such thing here", "check the id and the tenant"
		return api.ErrorReply{Error: e}
	case statusOf(err) >= http.StatusInternalServerError && code != fault.Unavailable:
		e.Message, e.Hint = "the server could not do it", "look for the trace id in the server's log"
		return api.ErrorReply{Error: e}
	}
	var problems manifest.Problems
	var one *fault.Error
	if errors.As(err, &problems) {
		for _, p := range problems {
			e.Problems = append(e.Problems, api.Problem{Message: p.Message, Where: p.Where, Hint: p.Hint})
		}
		if len(problems) > 0 {
			one = problems[0]
		}
	} else {
		errors.As(err, &one)
	}
	if one != nil {
		e.Hint, e.Where = one.Hint, one.Where
	}
	return api.ErrorReply{Error: e}
}

// Failure is the error of one entry of a batch, in the form of the envelope.
func Failure(err error, c *Call) *api.Error {
	e := envelope(err, c.RequestID).Error
	return &e
}

// ReplyTagged writes v as JSON with an ETag over its bytes, or 304 to a client that has them.
func ReplyTagged(w http.ResponseWriter, r *http.Request, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "encode the answer")
	}
	return replyRaw(w, r, raw)
}

// replyRaw writes JSON with an ETag over its bytes.
func replyRaw(w http.ResponseWriter, r *http.Request, raw []byte) error {
	sum := sha256.Sum256(raw)
	tag := hex.EncodeToString(sum[:16])
	h := w.Header()
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "private, no-cache")
	if Matches(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)+1))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(append(slices.Clip(raw), '\n')) // a client that is gone does not mind
	return nil
}

// Matches reports whether If-None-Match names the tag.
func Matches(r *http.Request, tag string) bool {
	for given := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		given = strings.TrimPrefix(strings.TrimSpace(given), "W/")
		if given == "*" || given == `"`+tag+`"` {
			return true
		}
	}
	return false
}
