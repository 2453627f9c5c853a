package cli

import (
	"net"
	"os"
)

// notify tells the service manager what has become of this process, as sd_notify(3) says: READY=1, STOPPING=1. Without a manager that wants
// to hear it, and when it does not listen, nothing happens.
func notify(state string) {
	at := os.Getenv("NOTIFY_SOCKET")
	if at == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // the manager's timeout says it otherwise
}
