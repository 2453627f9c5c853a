package testservice

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

// Browser is a person with a browser at the login pages of a Provider: it follows redirects, keeps cookies, fills in the form it
// is shown and sends it.
type Browser struct {
	User string // whom it logs in as

	http http.Client
}

// NewBrowser returns a browser that has not been anywhere.
func NewBrowser(user string) *Browser {
	jar, _ := cookiejar.New(nil) // never fails without options
	return &Browser{User: user, http: http.Client{Jar: jar}}
}

var (
	formTag  = regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>`)
	inputTag = regexp.MustCompile(`<input[^>]*>`)
	nameAttr = regexp.MustCompile(`name="([^"]*)"`)
	valAttr  = regexp.MustCompile(`value="([^"]*)"`)
	csrfTag  = regexp.MustCompile(`name="xsrf" value="([^"]*)"`)
)

// maxPages is how many pages a login has at most.
const maxPages = 12

// Visit opens an address and goes on until a page has no form, and returns the text of that page.
func (b *Browser) Visit(address string) (string, error) {
	resp, err := b.http.Get(address)
	for range maxPages {
		if err != nil {
			return "", err
		}
		raw, err2 := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err2 != nil {
			return "", err2
		}
		page := string(raw)
		form := formTag.FindStringSubmatch(page)
		if form == nil || resp.StatusCode >= http.StatusBadRequest {
			if resp.StatusCode >= http.StatusBadRequest {
				return page, fmt.Errorf("%s answers %s: %s", resp.Request.URL, resp.Status, page)
			}
			return page, nil
		}
		var to *url.URL
		if to, err = resp.Request.URL.Parse(html.UnescapeString(form[1])); err != nil {
			return "", err
		}
		resp, err = b.http.PostForm(to.String(), b.fill(form[2], page))
	}
	return "", fmt.Errorf("the login at %s has no end", address)
}

// fill answers what a form asks.
func (b *Browser) fill(form, page string) url.Values {
	values := url.Values{}
	for _, tag := range inputTag.FindAllString(form, -1) {
		name := nameAttr.FindStringSubmatch(tag)
		if name == nil {
			continue
		}
		value := ""
		if v := valAttr.FindStringSubmatch(tag); v != nil {
			value = html.UnescapeString(v[1])
		}
		switch name[1] {
		case "login":
			value = b.User
		case "password":
			value = "any"
		case "abort":
			continue
		}
		values.Set(name[1], value)
	}
	if x := csrfTag.FindStringSubmatch(page); x != nil && !values.Has("xsrf") {
		values.Set("xsrf", x[1])
	}
	if strings.Contains(form, `name="confirm"`) {
		values.Set("confirm", "yes")
	}
	return values
}
