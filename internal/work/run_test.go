package work_test

import (
	"testing"

	"orrery.example/orrery/internal/work"
)

// A step that is set aside stands in its queue all the same, however often it happens, and is left out with its pack or as its lane only.
func TestSetAside(t *testing.T) {
	for _, queue := range []string{"", "exports", "shop/default"} {
		q := work.QueueEntry{Queue: queue}
		for range 2 {
			q.SetAside("nightly")
			if q.Name() != queue {
				t.Errorf("%q stands in %q", queue, q.Name())
			}
		}
		for _, c := range []struct {
			out  []string
			left bool
		}{
			{nil, false}, {[]string{queue}, false}, {[]string{work.LanesAside("night")}, false}, {[]string{work.LanesAside("nightly")}, true},
			{[]string{"other", q.Queue}, true},
		} {
			if got := work.Left(c.out, q.Queue); got != c.left {
				t.Errorf("%q is left out by %q: %t", q.Queue, c.out, got)
			}
		}
		if work.Left([]string{work.LanesAside("nightly")}, queue) || !work.Left([]string{queue}, queue) {
			t.Errorf("%q in its own lane", queue)
		}
	}
}
