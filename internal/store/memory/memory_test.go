package memory_test

import (
	"testing"

	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/store/memory"
	"orrery.example/orrery/internal/store/storetest"
)

func TestDriver(t *testing.T) {
	storetest.RunDriver(t, func(testing.TB) kernel.Driver { return memory.New() }, nil)
}

func TestStore(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(map[bool]string{false: "Exclusive", true: "Shared"}[shared], func(t *testing.T) {
			storetest.Run(t, storetest.Harness{
				Open: func(testing.TB) kernel.Driver {
					d := memory.New()
					d.Shared = shared
					return d
				},
				Crash: func(_ testing.TB, d kernel.Driver) kernel.Driver { return d.(*memory.Driver).Clone() },
				Raise: func(t testing.TB, d kernel.Driver) {
					if err := d.(*memory.Driver).RaiseIncarnation(t.Context()); err != nil {
						t.Fatal(err)
					}
				},
			})
		})
	}
}
