package live

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"orrery.example/orrery/internal/stream"
)

// Protocol is the subprotocol of streams: every message of the server is one frame as JSON text, and the client sends none.
const Protocol = "orrery.stream.v1"

// socket carries frames over a WebSocket.
type socket struct {
	ctx  context.Context // ends with the connection
	conn *websocket.Conn
}

// openSocket takes the connection over. A page of another origin is refused: the library compares Origin and Host. It returns nil when the
// refusal has been written.
func openSocket(ctx context.Context, w http.ResponseWriter, r *http.Request) (*socket, error) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Protocol}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, nil
	}
	return &socket{ctx: conn.CloseRead(context.WithoutCancel(ctx)), conn: conn}, nil
}

func (s *socket) frame(_, _ string, raw []byte) error {
	ctx, stop := context.WithTimeout(s.ctx, writeTimeout)
	defer stop()
	return s.conn.Write(ctx, websocket.MessageText, raw)
}

func (s *socket) flush() error { return nil }

func (s *socket) beat() error {
	ctx, stop := context.WithTimeout(s.ctx, writeTimeout)
	defer stop()
	return s.conn.Ping(ctx)
}

func (s *socket) close(last *stream.Frame) {
	code := websocket.StatusNormalClosure
	switch {
	case last == nil:
		_ = s.conn.CloseNow() // nobody is there
		return
	case last.Type == stream.Closing:
		code = websocket.StatusServiceRestart
	case last.Type == stream.Resync:
		code = websocket.StatusTryAgainLater
	}
	_ = s.conn.Close(code, last.Type) // a client that is gone does not mind
}
