package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"time"

	"orrery.example/orrery/internal/fault"
)

// Mailer speaks to the mail server of the operator.
type Mailer struct {
	host, port string
	implicit   bool // TLS from the first byte
	plain      bool // no TLS at all
	user, pass string
	from       mail.Address
	roots      *x509.CertPool // nil for those of the system
}

// NewMailer reads where mail is sent by: smtps://USER:PASSWORD@HOST for TLS from the start, smtp://… with STARTTLS, which must be offered; smtp://…?tls=none
// only for a server on this machine; ?ca=FILE for an authority of one's own. From is the sender. Errors: fault.Invalid, fault.NotFound.
func NewMailer(text, from string) (*Mailer, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" {
		return nil, fault.New(fault.Invalid, "a mail server is written as smtp://USER:PASSWORD@HOST:PORT or smtps://…")
	}
	sender, err := mail.ParseAddress(from)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the sender of mail is no address: %q", from)
	}
	m := &Mailer{host: u.Hostname(), port: u.Port(), implicit: u.Scheme == "smtps", plain: u.Query().Get("tls") == "none", user: u.User.Username(), from: *sender}
	m.pass, _ = u.User.Password()
	if m.port == "" {
		m.port = map[bool]string{true: "465", false: "587"}[m.implicit]
	}
	if ip := net.ParseIP(m.host); m.plain && m.host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fault.New(fault.Invalid, "mail without TLS is sent to this machine only, not to %s", m.host)
	}
	if file := u.Query().Get("ca"); file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.New(fault.NotFound, "the authority of the mail server: %v", err)
		}
		if m.roots = x509.NewCertPool(); !m.roots.AppendCertsFromPEM(raw) {
			return nil, fault.New(fault.Invalid, "%s holds no certificate", file)
		}
	}
	return m, nil
}

func checkReceivers(to []string) error {
	if len(to) == 0 {
		return fault.New(fault.Invalid, "mail needs receivers")
	}
	for _, one := range to {
		if a, err := mail.ParseAddress(one); err != nil || a.Address != one || strings.ContainsAny(one, "\r\n") {
			return fault.New(fault.Invalid, "%q is no mail address", one)
		}
	}
	return nil
}

// send hands one mail over, to those receivers that the server takes. When it takes none, for good, there is no other attempt.
func (m *Mailer) send(ctx context.Context, to []string, msg *Message, id string, now time.Time) (Attempt, error) {
	refusal, err := m.session(ctx, to, m.text(to, msg, id, now))
	var refused *textproto.Error
	if errors.As(err, &refused) {
		a := Attempt{Status: refused.Code, Excerpt: refused.Msg[:min(len(refused.Msg), maxExcerpt)]}
		code := fault.Unavailable
		if refused.Code == 550 || refused.Code == 551 || refused.Code == 553 { // no such mailbox
			code = fault.Invalid
		}
		return a, fault.New(code, "the mail server answered %d", refused.Code)
	}
	if err != nil {
		return Attempt{}, fault.New(fault.Unavailable, "the mail server: %v", err)
	}
	return Attempt{Status: 250, Excerpt: refusal}, nil
}

// session is one mail. It returns what the server said of receivers that it did not take.
func (m *Mailer) session(ctx context.Context, to []string, text []byte) (refusal string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(m.host, m.port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return "", err
		}
	}
	config := &tls.Config{ServerName: m.host, MinVersion: tls.VersionTLS12, RootCAs: m.roots}
	if m.implicit {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, m.host)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if !m.implicit && !m.plain {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return "", errors.New("it offers no STARTTLS, and mail is not sent in the clear")
		}
		if err := c.StartTLS(config); err != nil {
			return "", err
		}
	}
	if m.user != "" {
		if err := c.Auth(smtp.PlainAuth("", m.user, m.pass, m.host)); err != nil {
			return "", err
		}
	}
	if err := c.Mail(m.from.Address); err != nil {
		return "", err
	}
	taken := 0
	for _, one := range to {
		if e := c.Rcpt(one); e != nil {
			err = e
			refusal += plain(one+": "+e.Error()) + "\n"
			continue
		}
		taken++
	}
	if taken == 0 {
		return "", err
	}
	w, err := c.Data()
	if err != nil {
		return "", err
	}
	if _, err := w.Write(text); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	_ = c.Quit() // the mail is with the server
	return refusal[:min(len(refusal), maxExcerpt)], nil
}

// text is the mail itself.
func (m *Mailer) text(to []string, msg *Message, id string, now time.Time) []byte {
	var b bytes.Buffer
	_, domain, _ := strings.Cut(m.from.Address, "@")
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s@%s>\r\n", m.from.String(), strings.Join(to, ", "),
		mime.QEncoding.Encode("utf-8", "[orrery] "+plain(msg.line())), now.Format(time.RFC1123Z), id, domain)
	b.WriteString("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	q := quotedprintable.NewWriter(&b)
	fmt.Fprintf(q, "%s\r\n", plain(msg.line()))
	if next := msg.next(); next != "" {
		fmt.Fprintf(q, "\r\n    %s\r\n", plain(next))
	}
	d := &msg.Data
	for _, row := range [][2]string{{"tenant", string(d.Tenant)}, {"project", d.Project}, {"run", string(d.Run)}, {"step", string(d.Step)}, {"plan", string(d.PlanHash)}, {"trace", d.CorrelationID}} {
		if row[1] != "" {
			fmt.Fprintf(q, "\r\n%-8s %s", row[0], plain(row[1]))
		}
	}
	fmt.Fprint(q, "\r\n")
	_ = q.Close() // into memory
	return b.Bytes()
}
