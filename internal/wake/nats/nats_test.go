package nats_test

import (
	"testing"

	"orrery.example/orrery/internal/testservice"
	"orrery.example/orrery/internal/wake"
	"orrery.example/orrery/internal/wake/nats"
	"orrery.example/orrery/internal/wake/waketest"
)

func TestJ19_Hints(t *testing.T) {
	waketest.RunBroker(t, testservice.StartNATS, func(url, topic string) (wake.Hints, error) { return nats.Open(nats.Options{URL: url, Subject: topic}) })
}
