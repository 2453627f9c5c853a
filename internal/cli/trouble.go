package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// troubles is a log for people who did not ask for one: warnings only, each once. A run that waits for a full disk must not look as if
// it was at work.
type troubles struct {
	to io.Writer

	mu   sync.Mutex
	said map[string]bool
}

func newTroubles(to io.Writer) *troubles { return &troubles{to: to, said: map[string]bool{}} }

// Enabled implements slog.Handler.
func (t *troubles) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements slog.Handler.
func (t *troubles) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			text += ": " + strings.Join(strings.Fields(a.Value.String()), " ")
		}
		return true
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said[text] {
		return nil
	}
	t.said[text] = true
	_, err := fmt.Fprintf(t.to, "Warning: %s\n", text)
	return err
}

// WithAttrs implements slog.Handler. What a logger always adds is for those who asked for a log.
func (t *troubles) WithAttrs([]slog.Attr) slog.Handler { return t }

// WithGroup implements slog.Handler.
func (t *troubles) WithGroup(string) slog.Handler { return t }
