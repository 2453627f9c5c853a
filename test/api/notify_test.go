package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"orrery.example/orrery/internal/app"
)

// hook is a receiver of webhooks.
type hook struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int // of the next answers; the last stays
	got      []request
}

type request struct {
	header http.Header
	body   []byte
}

func newHook(t testing.TB) *hook {
	h := &hook{statuses: []int{204}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.got = append(h.got, request{r.Header, body})
		status := h.statuses[0]
		h.statuses = h.statuses[min(1, len(h.statuses)-1):]
		if status/100 == 3 {
			w.Header().Set("Location", "http://127.0.0.1:1/")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.Repeat("what the receiver says ", 200))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) answer(statuses ...int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses = statuses
}

func (h *hook) requests() []request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.got
}

func (r *rig) notification(token string, q map[string]any) (id, secret string) {
	r.t.Helper()
	made := r.want(r.ask("POST", "/api/v1/notifications", token, "acme", q), 201)
	secret, _ = made["secret"].(string)
	return made["id"].(string), secret
}

// deliveries returns those of a notification as "type state tries".
func (r *rig) deliveries(token, id string) (short []string, all []map[string]any) {
	r.t.Helper()
	for _, d := range r.want(r.ask("GET", "/api/v1/notifications/"+id+"/deliveries", token, "acme", nil), 200)["items"].([]any) {
		m := d.(map[string]any)
		short = append(short, m["type"].(string)+" "+m["state"].(string)+" "+strconv.Itoa(int(m["tries"].(float64))))
		all = append(all, m)
	}
	return short, all
}

const failing = "name: failing\nversion: 1.0.0\nsteps:\n  - id: a\n    run: exit 3\n"

// Who wants to know of failures is told, signed, once, and again when the receiver was not well; who asks for something else is told that.
func TestB13_Webhooks(t *testing.T) {
	r := start(t, app.ServerOptions{Work: true, Notify: app.NotifyOptions{Allow: []string{"127.0.0.1/32"}}})
	tokens := r.tenant("acme", "operator", "viewer", "admin")
	zenith := r.tenant("zenith", "operator", "viewer")
	failures, approvals, chat := newHook(t), newHook(t), newHook(t)
	failures.answer(503, 200)
	before := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": failing}), 201)["runId"].(string)
	r.finish(tokens["viewer"], "acme", before)
	id, secret := r.notification(tokens["admin"], map[string]any{"name": "failures", "channel": "webhook", "url": failures.URL, "events": []string{"run.ended"}})
	r.notification(tokens["admin"], map[string]any{"name": "approvals", "channel": "webhook", "url": approvals.URL, "events": []string{"approval.needed"}, "packs": []string{"gated"}})
	chatID, none := r.notification(tokens["admin"], map[string]any{"name": "chat", "channel": "chat", "url": chat.URL + "/secret-path", "states": []string{"failed", "succeeded"}})
	if none != "" {
		t.Error("a chat has a secret to show")
	}
	if a := r.ask("GET", "/api/v1/notifications", tokens["viewer"], "acme", nil); strings.Contains(string(a.body), "secret-path") || strings.Contains(string(a.body), "whsec_") {
		t.Errorf("a secret is shown: %s", a.body)
	}
	submit := func(manifest string) string {
		return r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": manifest}), 201)["runId"].(string)
	}
	good, bad, gate := submit(hello), submit(failing), submit(gated)
	r.finish(tokens["viewer"], "acme", good)
	r.finish(tokens["viewer"], "acme", bad)
	theirs := r.want(r.ask("POST", "/api/v1/runs", zenith["operator"], "zenith", map[string]any{"manifest": failing}), 201)["runId"].(string)
	r.finish(zenith["viewer"], "zenith", theirs)
	r.until("the delivery", func() bool {
		short, _ := r.deliveries(tokens["viewer"], id)
		return len(short) == 1 && short[0] == "run.ended delivered 2"
	})
	_, log := r.deliveries(tokens["viewer"], id)
	first := log[0]["attempts"].([]any)[0].(map[string]any)
	if first["status"] != 503.0 || first["error"] == "" || len(first["excerpt"].(string)) != 1024 {
		t.Errorf("the first attempt is logged as %v", first)
	}
	got := failures.requests()
	if len(got) != 2 || got[0].header.Get("Webhook-Id") != got[1].header.Get("Webhook-Id") || got[0].header.Get("Webhook-Id") == "" {
		t.Fatalf("%d requests, ids %q and %q", len(got), got[0].header.Get("Webhook-Id"), got[1].header.Get("Webhook-Id"))
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) < 24 {
		t.Fatalf("the secret is %q: %v", secret, err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(got[1].header.Get("Webhook-Id") + "." + got[1].header.Get("Webhook-Timestamp") + "." + string(got[1].body)))
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); got[1].header.Get("Webhook-Signature") != want {
		t.Errorf("the signature is %q, not %q", got[1].header.Get("Webhook-Signature"), want)
	}
	var told struct {
		Type string
		Data map[string]any
	}
	if err := json.Unmarshal(got[1].body, &told); err != nil || told.Type != "run.ended" || told.Data["runId"] != bad || told.Data["state"] != "failed" ||
		told.Data["tenant"] != "acme" || told.Data["correlationId"] != "4bf92f3577b34da6a3ce929d0e0e4736" || told.Data["reason"] == nil {
		t.Errorf("told was %s: %v", got[1].body, err)
	}
	r.until("the approval", func() bool { return len(approvals.requests()) == 1 })
	if body := string(approvals.requests()[0].body); !strings.Contains(body, gate) || !strings.Contains(body, `"required":1`) {
		t.Errorf("of the gate was told %s", body)
	}
	r.until("the chat", func() bool { return len(chat.requests()) == 3 })
	for _, c := range chat.requests() {
		var text map[string]string
		if json.Unmarshal(c.body, &text) != nil || len(text) != 1 || !strings.Contains(text["text"], "acme") || c.header.Get("Webhook-Signature") != "" {
			t.Errorf("the chat got %s", c.body)
		}
	}
	// Again, on demand; a test; then nothing more.
	r.want(r.ask("POST", "/api/v1/notifications/"+id+"/deliveries/"+log[0]["id"].(string)+"/redeliver", tokens["operator"], "acme", nil), 202)
	r.until("the same again", func() bool { return len(failures.requests()) == 3 })
	if again := failures.requests()[2]; again.header.Get("Webhook-Id") != got[0].header.Get("Webhook-Id") || string(again.body) != string(got[0].body) {
		t.Errorf("what was sent again is %v %s", again.header, again.body)
	}
	failures.answer(302)
	r.want(r.ask("POST", "/api/v1/notifications/"+id+"/test", tokens["operator"], "acme", nil), 202)
	r.until("a redirect", func() bool {
		_, log := r.deliveries(tokens["viewer"], id)
		last := log[len(log)-1]
		return last["type"] == "notify.test" && len(last["attempts"].([]any)) > 0
	})
	r.want(r.ask("DELETE", "/api/v1/notifications/"+chatID, tokens["admin"], "acme", nil), 204)
	r.code(r.ask("GET", "/api/v1/notifications/"+chatID, tokens["viewer"], "acme", nil), 404, "NOT_FOUND")
	r.code(r.ask("POST", "/api/v1/notifications", tokens["operator"], "acme", map[string]any{"name": "x", "channel": "webhook", "url": failures.URL}), 403, "DENIED")
	for what, q := range map[string]map[string]any{
		"no channel": {"name": "x"}, "a file": {"name": "x", "channel": "webhook", "url": "file:///etc/passwd"}, "a password": {"name": "x", "channel": "webhook", "url": "https://a:b@example.org"},
		"an event": {"name": "x", "channel": "webhook", "url": "https://example.org", "events": []string{"nothing"}}, "a state": {"name": "x", "channel": "chat", "url": "https://example.org", "states": []string{"running"}},
	} {
		if a := r.ask("POST", "/api/v1/notifications", tokens["admin"], "acme", q); a.status != 400 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	r.code(r.ask("POST", "/api/v1/notifications", tokens["admin"], "acme", map[string]any{"name": "x", "channel": "mail", "to": []string{"a@example.org"}}), 503, "UNAVAILABLE")
}

// A tenant cannot have the server ask itself, its neighbours or the provider of the machine.
func TestB13_WebhooksStayOutside(t *testing.T) {
	r := start(t, app.ServerOptions{})
	tokens := r.tenant("acme", "viewer", "admin")
	inside := newHook(t)
	port := inside.URL[strings.LastIndex(inside.URL, ":"):]
	for _, to := range []string{inside.URL, "http://localhost" + port, "http://[::1]" + port, "http://[::ffff:127.0.0.1]" + port, "http://169.254.169.254/latest", "http://10.0.0.1/", "http://0.0.0.0" + port} {
		id, _ := r.notification(tokens["admin"], map[string]any{"name": "inside", "channel": "webhook", "url": to})
		r.want(r.ask("POST", "/api/v1/notifications/"+id+"/test", tokens["admin"], "acme", nil), 202)
		var log []map[string]any
		r.until(to, func() bool {
			_, log = r.deliveries(tokens["viewer"], id)
			return len(log[0]["attempts"].([]any)) > 0
		})
		if said := log[0]["attempts"].([]any)[0].(map[string]any)["error"].(string); !strings.Contains(said, "no public address") {
			t.Errorf("%s: %s", to, said)
		}
	}
	if len(inside.requests()) != 0 {
		t.Error("a server inside was asked")
	}
}

// post is a mail server's view of what it gets.
type post struct {
	mu    sync.Mutex
	mails []string
	to    []string
}

// NewSession implements smtp.Backend.
func (p *post) NewSession(*smtp.Conn) (smtp.Session, error) { return &letter{post: p}, nil }

type letter struct {
	post  *post
	known bool
	to    []string
}

func (l *letter) AuthMechanisms() []string { return []string{sasl.Plain} }

func (l *letter) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if user != "orrery" || pass != "p@ss" {
			return errors.New("wrong")
		}
		l.known = true
		return nil
	}), nil
}

func (l *letter) Mail(from string, _ *smtp.MailOptions) error {
	if !l.known || from != "orrery@example.org" {
		return &smtp.SMTPError{Code: 530, Message: "who are you"}
	}
	return nil
}

func (l *letter) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody") {
		return &smtp.SMTPError{Code: 550, Message: "no such mailbox"}
	}
	l.to = append(l.to, to)
	return nil
}

func (l *letter) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	l.post.mu.Lock()
	defer l.post.mu.Unlock()
	l.post.mails, l.post.to = append(l.post.mails, string(raw)), append(l.post.to, l.to...)
	return err
}

func (l *letter) Reset()        {}
func (l *letter) Logout() error { return nil }

// Mail goes to a server with TLS and a password, and says in words what happened.
func TestB13_Mail(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS() // for its certificate
	defer cert.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, scheme := range map[string]string{"STARTTLS": "smtp", "TLS": "smtps"} {
		t.Run(name, func(t *testing.T) {
			p := &post{}
			server := smtp.NewServer(p)
			server.TLSConfig = &tls.Config{Certificates: cert.TLS.Certificates}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := listener.Addr().String()
			if scheme == "smtps" {
				listener = tls.NewListener(listener, server.TLSConfig)
			}
			go func() { _ = server.Serve(listener) }()
			defer server.Shutdown(context.Background())
			r := start(t, app.ServerOptions{Work: true, Notify: app.NotifyOptions{
				MailURL: scheme + "://orrery:p%40ss@" + address + "?ca=" + authority, MailFrom: "Orrery <orrery@example.org>",
			}})
			tokens := r.tenant("acme", "operator", "viewer", "admin")
			id, _ := r.notification(tokens["admin"], map[string]any{"name": "people", "channel": "mail", "to": []string{"ada@example.org", "nobody@example.org"}})
			lost, _ := r.notification(tokens["admin"], map[string]any{"name": "lost", "channel": "mail", "to": []string{"nobody@example.org"}})
			run := r.want(r.ask("POST", "/api/v1/runs", tokens["operator"], "acme", map[string]any{"manifest": failing}), 201)["runId"].(string)
			r.finish(tokens["viewer"], "acme", run)
			var log []map[string]any
			r.until("the mail", func() bool {
				short, l := r.deliveries(tokens["viewer"], id)
				log = l
				return len(short) == 1 && short[0] == "run.ended delivered 1"
			})
			if said := log[0]["attempts"].([]any)[0].(map[string]any); said["status"] != 250.0 || !strings.Contains(said["excerpt"].(string), "no such mailbox") {
				t.Errorf("the attempt is logged as %v", said)
			}
			p.mu.Lock()
			if len(p.mails) != 1 || len(p.to) != 1 || p.to[0] != "ada@example.org" || !strings.Contains(p.mails[0], "Subject: [orrery] run ") || !strings.Contains(p.mails[0], "orrery runs why") ||
				!strings.Contains(p.mails[0], run) || !strings.Contains(p.mails[0], "Message-ID: <") {
				t.Errorf("to %v:\n%s", p.to, p.mails)
			}
			p.mu.Unlock()
			r.until("what nobody takes", func() bool {
				short, _ := r.deliveries(tokens["viewer"], lost)
				return len(short) == 1 && short[0] == "run.ended failed 1"
			})
			if a := r.ask("POST", "/api/v1/notifications", tokens["admin"], "acme", map[string]any{"name": "x", "channel": "mail", "to": []string{"a@example.org\r\nBcc: b@example.org"}}); a.status != 400 {
				t.Errorf("a receiver with a header in it: %d", a.status)
			}
		})
	}
}
