package vault

import "time"

// Age lets a client think that most of the time of its login is over.
func (c *Client) Age() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renewal = time.Now()
}

// Forget lets a client lose its login.
func (c *Client) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.login = ""
}
