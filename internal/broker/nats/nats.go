// Package nats publishes events to subjects of NATS that a stream of JetStream keeps.
package nats

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"orrery.example/orrery/internal/broker"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Target publishes to one NATS server or cluster.
type Target struct {
	address string // for the connection
	name    string
	subject string // events are below it
	stream  string // made when it is missing
	max     int64  // messages that a stream which is made keeps

	conn *nats.Conn
	js   jetstream.JetStream
}

var _ broker.Target = (*Target)(nil)

const (
	dialTimeout = 3 * time.Second
	duplicates  = 10 * time.Minute // how long a stream that is made remembers what it has
	defaultMax  = 1_000_000
)

// Open returns the target that a URL names: nats://[USER:PASSWORD@]HOST[:PORT][?subject=…&stream=…&max=…], tls://… for TLS. It does not connect
// yet. Error: fault.Invalid.
func Open(address string) (*Target, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.Invalid, "the address of a NATS server looks like nats://HOST:4222")
	}
	q := u.Query()
	t := &Target{subject: cmp.Or(q.Get("subject"), "orrery.events"), stream: cmp.Or(q.Get("stream"), "ORRERY"), max: defaultMax}
	if text := q.Get("max"); text != "" {
		if t.max, err = strconv.ParseInt(text, 10, 64); err != nil || t.max < 1 {
			return nil, fault.New(fault.Invalid, "max is how many messages a stream keeps, not %q", text)
		}
	}
	if strings.ContainsAny(t.subject, " *>\t\r\n") || strings.ContainsAny(t.stream, " .*>/\\\t\r\n") {
		return nil, fault.New(fault.Invalid, "a subject has no wildcards, the name of a stream neither these nor dots")
	}
	for key := range q {
		if key != "subject" && key != "stream" && key != "max" {
			return nil, fault.New(fault.Invalid, "%q is nothing that can be said of a NATS server", key).WithHint("use subject, stream, max")
		}
	}
	u.RawQuery = ""
	t.address, t.name = u.String(), u.Scheme+"://"+u.Host+"/"+t.stream+"/"+t.subject
	return t, nil
}

// Name implements broker.Target.
func (t *Target) Name() string { return t.name }

// Publish implements broker.Target. One message follows when the one before is acknowledged: were several under way, one of them could
// fail and those behind it not, and the order were lost.
func (t *Target) Publish(ctx context.Context, tenant work.Tenant, messages []broker.Message) (int, error) {
	if err := t.connect(ctx); err != nil {
		return 0, err
	}
	for i := range messages {
		m := &messages[i]
		msg := &nats.Msg{Subject: t.subject + "." + string(tenant) + "." + m.Type, Data: m.Body, Header: nats.Header{}}
		// The run is in it, too: another installation may have the same positions.
		_, err := t.js.PublishMsg(ctx, msg, jetstream.WithMsgID(m.ID+"/"+string(m.Run)), jetstream.WithExpectStream(t.stream), jetstream.WithRetryAttempts(0))
		if errors.Is(err, nats.ErrMaxPayload) {
			return i, fault.New(fault.Exhausted, "an event of run %s has %d bytes, and the NATS server takes %d", m.Run, len(m.Body), t.conn.MaxPayload()).
				WithHint("raise max_payload of the NATS server")
		}
		if err != nil {
			_ = t.Close() // the next time begins anew: the stream may be gone
			return i, fault.New(fault.Unavailable, "publish to NATS: %w", err)
		}
	}
	return len(messages), nil
}

// connect makes a connection where there is none, and the stream where it is missing.
func (t *Target) connect(ctx context.Context) error {
	if t.conn != nil && t.conn.IsConnected() {
		return nil
	}
	_ = t.Close()
	conn, err := nats.Connect(t.address, nats.Name("orrery"), nats.Timeout(dialTimeout), nats.NoReconnect())
	if err != nil {
		return fault.New(fault.Unavailable, "connect to NATS: %w", err)
	}
	js, err := jetstream.New(conn)
	if err == nil {
		err = t.keep(ctx, js)
	}
	if err != nil {
		conn.Close()
		return fault.New(fault.Unavailable, "the stream %s of NATS: %w", t.stream, err).WithHint("events are kept by JetStream, which has to be enabled")
	}
	t.conn, t.js = conn, js
	return nil
}

func (t *Target) keep(ctx context.Context, js jetstream.JetStream) error {
	_, err := js.Stream(ctx, t.stream)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err // what somebody has set up is left as it is
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: t.stream, Subjects: []string{t.subject + ".>"}, MaxMsgs: t.max, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage, Duplicates: duplicates,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // by another server, just now
		return nil
	}
	return err
}

// Close implements broker.Target.
func (t *Target) Close() error {
	if t.conn != nil {
		t.conn.Close()
		t.conn, t.js = nil, nil
	}
	return nil
}
