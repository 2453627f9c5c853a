package live

import (
	"bufio"
	"io"
	"net/http"
	"time"

	"orrery.example/orrery/internal/stream"
)

// events carries frames as server-sent events.
type events struct {
	w    *bufio.Writer
	conn *http.ResponseController
}

func openEvents(w http.ResponseWriter) *events {
	h := w.Header()
	h.Set("Content-Type", SSE)
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	e := &events{w: bufio.NewWriterSize(w, 32<<10), conn: http.NewResponseController(w)}
	e.extend()
	_, _ = e.w.WriteString("retry: 1000\n\n") // into memory
	return e
}

// extend lets the client have its time for what is written next.
func (e *events) extend() {
	_ = e.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // what cannot set one has none
}

func (e *events) frame(kind, id string, raw []byte) error {
	e.extend()
	if id != "" {
		id = "id: " + id + "\n"
	}
	if _, err := io.WriteString(e.w, id+"event: "+kind+"\ndata: "); err != nil {
		return err
	}
	if _, err := e.w.Write(raw); err != nil {
		return err
	}
	_, err := io.WriteString(e.w, "\n\n")
	return err
}

func (e *events) flush() error {
	e.extend()
	if err := e.w.Flush(); err != nil {
		return err
	}
	return e.conn.Flush()
}

func (e *events) beat() error {
	_, err := io.WriteString(e.w, ": still here\n\n")
	return err
}

func (e *events) close(*stream.Frame) {
	_ = e.conn.SetWriteDeadline(time.Time{}) // the connection may be used again
}
