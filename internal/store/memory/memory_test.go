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
