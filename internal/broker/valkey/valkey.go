// Package valkey publishes events to streams of Valkey or Redis, one for each tenant.
package valkey

import (
	"cmp"
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/valkey-io/valkey-go"

	"orrery.example/orrery/internal/broker"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/work"
)

// Target publishes to one server.
type Target struct {
	config valkey.ClientOption
	name   string
	key    string
	max    int64
	client valkey.Client
}

var _ broker.Target = (*Target)(nil)

const defaultMax = 100_000

// Open returns the target that a URL names: valkey://[USER:PASSWORD@]HOST[:PORT][/DB][?key=…&max=…], also redis://… and, with TLS, valkeys://… and
// rediss://…. It does not connect yet. Error: fault.Invalid.
func Open(address string) (*Target, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.Invalid, "the address of a Valkey server looks like valkey://HOST:6379")
	}
	q := u.Query()
	t := &Target{key: cmp.Or(q.Get("key"), "orrery:events"), max: defaultMax}
	if text := q.Get("max"); text != "" {
		if t.max, err = strconv.ParseInt(text, 10, 64); err != nil || t.max < 1000 {
			return nil, fault.New(fault.Invalid, "max is how many events of a tenant are kept, at least 1000, not %q", text)
		}
	}
	for key := range q {
		if key != "key" && key != "max" {
			return nil, fault.New(fault.Invalid, "%q is nothing that can be said of a Valkey server", key).WithHint("use key, max")
		}
	}
	u.RawQuery = ""
	if t.config, err = valkey.ParseURL(u.String()); err != nil {
		return nil, fault.New(fault.Invalid, "the Valkey server: %w", err)
	}
	t.config.DisableCache, t.config.DisableRetry, t.config.ForceSingleClient = true, true, true
	t.name = u.Scheme + "://" + u.Host + u.Path + "/" + t.key
	return t, nil
}

// Name implements broker.Target.
func (t *Target) Name() string { return t.name }

// Publish implements broker.Target. The id of an entry is the position of the event, which Valkey takes in rising order only: nothing
// gets there twice or too late, whoever sends it. All are added in one transaction, or none.
func (t *Target) Publish(ctx context.Context, tenant work.Tenant, messages []broker.Message) (int, error) {
	if t.client == nil {
		client, err := valkey.NewClient(t.config)
		if err != nil {
			return 0, fault.New(fault.Unavailable, "connect to Valkey: %w", err)
		}
		t.client = client
	}
	key := t.key + ":" + string(tenant)
	var refused []int
	err := t.client.Dedicated(func(c valkey.DedicatedClient) error {
		commands := valkey.Commands{c.B().Multi().Build()}
		for i := range messages {
			m := &messages[i]
			commands = append(commands, c.B().Xadd().Key(key).Maxlen().Almost().Threshold(strconv.FormatInt(t.max, 10)).Id(m.ID).
				FieldValue().FieldValue("eventType", m.Type).FieldValue("runId", string(m.Run)).FieldValue("frame", valkey.BinaryString(m.Body)).Build())
		}
		replies := c.DoMulti(ctx, append(commands, c.B().Exec().Build())...)
		added, err := replies[len(replies)-1].ToArray()
		if err != nil {
			return err
		}
		for i := range added {
			if err := added[i].Error(); err != nil && strings.Contains(err.Error(), "equal or smaller") {
				refused = append(refused, i)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = t.Close()
		return 0, fault.New(fault.Unavailable, "publish to Valkey: %w", err)
	}
	for _, i := range refused {
		if err := t.has(ctx, key, &messages[i]); err != nil {
			return 0, err
		}
	}
	return len(messages), nil
}

// has checks that what was refused is there already.
func (t *Target) has(ctx context.Context, key string, m *broker.Message) error {
	found, err := t.client.Do(ctx, t.client.B().Xrange().Key(key).Start(m.ID).End(m.ID).Build()).AsXRange()
	if err != nil {
		return fault.New(fault.Unavailable, "publish to Valkey: %w", err)
	}
	if len(found) == 0 || found[0].FieldValues["runId"] != string(m.Run) {
		return fault.New(fault.Conflict, "the stream %s of Valkey has entries behind %s that are of another installation", key, m.ID).
			WithHint("give each installation a key of its own (?key=…), or delete the stream when it is not needed")
	}
	return nil
}

// Close implements broker.Target.
func (t *Target) Close() error {
	if t.client != nil {
		t.client.Close()
		t.client = nil
	}
	return nil
}
