package httpapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"orrery.example/orrery/internal/access"
	"orrery.example/orrery/internal/httpapi"
	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/work"
)

// manager may change limits and start backfills.
type manager struct{ somebody }

func (m manager) Principal(ctx context.Context, token string, found store.Found) (access.Principal, error) {
	p, err := m.somebody.Principal(ctx, token, found)
	p.Scopes = []access.Scope{access.OrchQuota, access.OrchBackfill, access.OrchOperate}
	return p, err
}

// Limits and backfills demand a reason and a ticket, in either spelling of the headers and of bounded length; both are in the audit stream, and
// without them nothing is done.
func TestJ5_ReasonAndTicket(t *testing.T) {
	_, s, _ := newServer(t)
	done := 0
	route := func(path string, scope access.Scope) httpapi.Route {
		return httpapi.Route{Method: http.MethodPost, Path: path, Name: strings.Trim(path, "/"), Scope: scope, Handle: func(w http.ResponseWriter, _ *http.Request, _ *httpapi.Call) error {
			done++
			return httpapi.Reply(w, http.StatusOK, map[string]any{})
		}}
	}
	server, err := httpapi.New(httpapi.Config{
		Routes:   []httpapi.Route{route("/quota", access.OrchQuota), route("/backfill", access.OrchBackfill), route("/operate", access.OrchOperate)},
		Identity: manager{somebody{s}}, Records: s, Now: func() work.Time { return 1_000_000 },
	})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 257)
	tests := []struct {
		path, reason, ticket string
		headers              [2]string
		want                 int
	}{
		{"/quota", "", "", [2]string{}, 400},
		{"/quota", "more tenants", "", [2]string{"X-Orrery-Reason", ""}, 400},
		{"/quota", "", "OPS-1", [2]string{"", "X-Orrery-Ticket"}, 400},
		{"/quota", long, "OPS-1", [2]string{"X-Orrery-Reason", "X-Orrery-Ticket"}, 400},
		{"/quota", "more tenants", long[:129], [2]string{"X-Orrery-Reason", "X-Orrery-Ticket"}, 400},
		{"/quota", "more tenants", "OPS-1", [2]string{"X-Orrery-Reason", "X-Orrery-Ticket"}, 200},
		{"/backfill", "", "", [2]string{}, 400},
		{"/backfill", "a lost day", "", [2]string{"X-Orrery-Reason", ""}, 400},
		{"/backfill", "a lost day", "OPS-2", [2]string{"X-Stella-Operator-Reason", "X-Stella-Operator-Ticket"}, 200},
		{"/operate", "", "", [2]string{}, 200},
	}
	want := 0
	for _, tt := range tests {
		r := httptest.NewRequest(http.MethodPost, tt.path, strings.NewReader("{}"))
		r.Header = http.Header{"Authorization": {"Bearer t"}, httpapi.TenantHeader: {"acme"}}
		for i, value := range []string{tt.reason, tt.ticket} {
			if tt.headers[i] != "" {
				r.Header.Set(tt.headers[i], value)
			}
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s with reason %.20q and ticket %.20q: %d %s", tt.path, tt.reason, tt.ticket, w.Code, w.Body)
		}
		if tt.want != 200 {
			continue
		}
		want++
		events, err := s.Events(t.Context(), "acme", store.AuditStream, int64(want), 10)
		if err != nil || len(events) != 1 || !strings.Contains(string(events[0].Data), `"reason":"`+tt.reason+`"`) && tt.reason != "" ||
			!strings.Contains(string(events[0].Data), `"ticket":"`+tt.ticket+`"`) && tt.ticket != "" {
			t.Errorf("the audit stream of %s: %v, %v", tt.path, events, err)
		}
	}
	if done != want {
		t.Errorf("%d operations were done, not %d", done, want)
	}
}
