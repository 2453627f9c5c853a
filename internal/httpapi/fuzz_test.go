package httpapi

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"orrery.example/orrery/internal/fault"
)

// A token of a page is the one that was given out, or refused; the next page begins where it says.
func FuzzReadPage(f *testing.F) {
	f.Add("10", "djE6cnVuczphYmM")
	f.Add("0", "")
	f.Add("-1", "=")
	f.Add("99999999999999999999", "djE6cnVuczo")
	f.Fuzz(func(t *testing.T, size, token string) {
		r := httptest.NewRequest(http.MethodGet, "/?"+url.Values{"page_size": {size}, "page_token": {token}}.Encode(), nil)
		p, err := ReadPage(r, "runs")
		if err != nil {
			if fault.CodeOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		if p.Limit < 1 || p.Limit > MaxPage {
			t.Fatalf("a page of %d", p.Limit)
		}
		r = httptest.NewRequest(http.MethodGet, "/?"+url.Values{"page_token": {p.Next(p.After)}}.Encode(), nil)
		if again, err := ReadPage(r, "runs"); err != nil || again.After != p.After {
			t.Fatalf("%q is given out and read as %q, %v", p.After, again.After, err)
		}
		if _, err := ReadPage(r, "packs"); err == nil {
			t.Fatal("the token of another list is taken")
		}
	})
}

// Headers say what they say or are refused as wrong.
func FuzzHeaders(f *testing.F) {
	f.Add("acme", "acme", "because", "T-1", "Bearer orr_x")
	f.Add("acme", "other", "", "", "bearer")
	f.Add(" ", "\x00", "\xff", "", "Basic x")
	f.Fuzz(func(t *testing.T, one, two, why, ticket, auth string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{
			TenantHeader: {one}, "X-Tenant-Id": {two}, "X-Orrery-Reason": {why}, "X-Orrery-Ticket": {ticket}, "Authorization": {auth},
			"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {auth},
		}
		tenant, err := tenantOf(r.Header)
		if err == nil && one != two && len(tenant) > max(len(one), len(two)) {
			t.Fatalf("%q and %q name the tenant %q", one, two, tenant)
		}
		reason, number, err := reasonOf(r.Header)
		if err == nil && (len(reason) > maxReason || len(number) > maxTicket) {
			t.Fatal("a reason without bounds")
		}
		if token, err := bearer(r); err == nil && token == "" {
			t.Fatal("no token for a token")
		}
		ticketOf(r)
	})
}
