package nats_test

import (
	"crypto/rand"
	"testing"

	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/wake"
	"orrery.example/orrery/internal/wake/nats"
	"orrery.example/orrery/internal/wake/waketest"
)

func server(t *testing.T) *testservice.Broker {
	t.Helper()
	s, err := testservice.StartNATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t *testing.T, url string, servers int) (out []wake.Hints) {
	t.Helper()
	topic := "test." + rand.Text()
	for range servers {
		h, err := nats.Open(nats.Options{URL: url, Subject: topic})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		out = append(out, h)
	}
	return out
}

func TestJ19_Hints(t *testing.T) {
	url := server(t).URL
	waketest.Run(t, func(t *testing.T, servers int) []wake.Hints { return open(t, url, servers) })
}

// A server that is killed takes hints with it and nothing else; when it is back, so are they. One that is not there yet is no error.
func TestJ19_ServerKilled(t *testing.T) {
	s := server(t)
	hints := open(t, s.URL, 2)
	heard := hints[1].Listen(t.Context())
	waketest.Reaches(t, hints[0], heard)
	s.Kill()
	for range 1000 {
		hints[0].Announce()
	}
	late := open(t, s.URL, 1)
	late[0].Announce()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	waketest.Reaches(t, hints[0], heard)
	waketest.Reaches(t, hints[0], heard)
}

func TestInvalidURL(t *testing.T) {
	if _, err := nats.Open(nats.Options{URL: "nats://%zz"}); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}
