package valkey_test

import (
	"testing"

	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/wake"
	"orrery.example/orrery/internal/wake/valkey"
	"orrery.example/orrery/internal/wake/waketest"
)

func TestJ19_Hints(t *testing.T) {
	waketest.RunBroker(t, testservice.StartValkey, func(url, topic string) (wake.Hints, error) {
		return valkey.Open(valkey.Options{URL: url, Channel: topic})
	})
}
