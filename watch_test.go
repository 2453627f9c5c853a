package orrery_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	orrery "orrery.example/orrery"
)

// trip answers requests without a network.
type trip func(*http.Request) (*http.Response, error)

func (t trip) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func answer(r *http.Request, kind string, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {kind}}, Body: body, Request: r}
}

// What holds streams back on the way is told from a server that does not answer: the first is an error, the second is waited for.
func TestBlockedStream(t *testing.T) {
	held := func(r *http.Request, kind string) (*http.Response, error) {
		out, in := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = in.CloseWithError(context.Cause(r.Context())) })
		return answer(r, kind, out), nil
	}
	tests := []struct {
		name string
		trip trip
		want string
	}{
		{"another kind of answer", func(r *http.Request) (*http.Response, error) {
			return answer(r, "application/json", io.NopCloser(bytes.NewReader([]byte(`{"items":[]}`)))), nil
		}, "STREAM_BLOCKED"},
		{"the head of an answer only", func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api/v1/me" {
				return answer(r, "application/json", io.NopCloser(bytes.NewReader([]byte(`{}`)))), nil
			}
			return held(r, "text/event-stream")
		}, "STREAM_BLOCKED"},
		{"nothing of an answer", func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api/v1/me" {
				return answer(r, "application/json", io.NopCloser(bytes.NewReader([]byte(`{}`)))), nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, "STREAM_BLOCKED"},
		{"a server that hangs", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				enough, losses := errors.New("enough"), 0
				c, err := orrery.NewClient(orrery.Config{Server: "http://server", HTTP: &http.Client{Transport: tt.trip}, Stream: func(lost error) error {
					if losses++; lost == nil || losses < 3 {
						return nil
					}
					return enough
				}})
				if err != nil {
					t.Fatal(err)
				}
				for _, err := range c.Follow(t.Context(), "run", "") {
					if orrery.Code(err) != tt.want || tt.want == "" && !errors.Is(err, enough) {
						t.Errorf("ended by %v after %d losses", err, losses)
					}
				}
			})
		})
	}
}
