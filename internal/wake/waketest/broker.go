package waketest

import (
	"crypto/rand"
	"strings"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/wake"
)

// RunBroker tests a carrier that goes over a broker. Open returns the hints of one server of those that announce under a topic.
func RunBroker(t *testing.T, start func() (*testservice.Broker, error), open func(url, topic string) (wake.Hints, error)) {
	b, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	members := func(t *testing.T, servers int) (out []wake.Hints) {
		t.Helper()
		topic := "test." + rand.Text()
		for range servers {
			h, err := open(b.URL, topic)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = h.Close() })
			out = append(out, h)
		}
		return out
	}
	Run(t, members)
	t.Run("BrokerKilled", func(t *testing.T) { killed(t, b, members) })
	t.Run("InvalidURL", func(t *testing.T) {
		scheme, _, _ := strings.Cut(b.URL, ":")
		if _, err := open(scheme+"://%zz", "test"); fault.CodeOf(err) != fault.Invalid {
			t.Error(err)
		}
	})
}

// killed: a broker that is killed takes hints with it and nothing else; when it is back, so are they. One that is not there yet is no error.
func killed(t *testing.T, b *testservice.Broker, members func(t *testing.T, servers int) []wake.Hints) {
	hints := members(t, 2)
	heard := hints[1].Listen(t.Context())
	Reaches(t, hints[0], heard)
	b.Kill()
	for range 1000 {
		hints[0].Announce()
	}
	late := members(t, 2)
	later := late[1].Listen(t.Context())
	late[0].Announce()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	Reaches(t, hints[0], heard)
	Reaches(t, hints[0], heard)
	Reaches(t, late[0], later)
}
