package httpapi

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"orrery.example/orrery/internal/fault"
)

// Sizes of pages.
const (
	DefaultPage = 50
	MaxPage     = 500
)

// Page is the part of a list that a request asks for.
type Page struct {
	After string // what the page before ended with, "" for the first
	Limit int
	list  string
}

// PageParams are the parameters of every list.
func PageParams(more ...Param) []Param {
	return append([]Param{
		{Name: "page_size", Type: "integer", Summary: "How many at most: 1 to 500, 50 without; also called limit", Example: "50"},
		{Name: "page_token", Type: "string", Summary: "next_page_token of the page before; also called continuationToken", Example: "djE6cnVuczoy"},
	}, more...)
}

// ReadPage reads which page of a list is asked for. A token of another list is refused. Error: fault.Invalid.
func ReadPage(r *http.Request, list string) (Page, error) {
	p := Page{Limit: DefaultPage, list: list}
	q := r.URL.Query()
	if size := firstOf(q.Get("page_size"), q.Get("limit")); size != "" {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 || n > MaxPage {
			return p, fault.New(fault.Invalid, "page_size is a number from 1 to %d", MaxPage)
		}
		p.Limit = n
	}
	token := firstOf(q.Get("page_token"), q.Get("continuationToken"))
	if token == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(raw), "v1:"+list+":")
	if err != nil || !ok || !utf8.Valid(raw) {
		return p, fault.New(fault.Invalid, "page_token is not from this list").WithHint("send next_page_token of the page before as it is")
	}
	p.After = after
	return p, nil
}

// Next returns the token of the page that begins after the given entry.
func (p Page) Next(after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("v1:" + p.list + ":" + after))
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
