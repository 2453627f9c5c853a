package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

// Somebody who asked for no log is told of trouble, once, and of nothing else.
func TestTroubles(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(newTroubles(&out)).With("run", "r").WithGroup("g")
	log.Info("all is well", "error", errors.New("none"))
	for range 3 {
		log.Warn("exchange failed", "step", "s", "error", errors.New("the disk\nis full"))
	}
	log.Error("exchange failed", "error", errors.New("another"))
	if want := "Warning: exchange failed: the disk is full\nWarning: exchange failed: another\n"; out.String() != want {
		t.Errorf("it said %q", out.String())
	}
}
