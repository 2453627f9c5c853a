// Package testservice starts real servers for tests and benchmarks: PostgreSQL, pgbouncer, an S3 server, an OpenID provider and a policy engine, each on a free port of the
// loopback with its files in a temporary folder, as an ordinary user where the server refuses to be root.
//
// Programs that Debian does not have, the S3 server and gVisor among them, are built from the module proxy, once for a machine.
//
// A server that is not installed is an error that names what to install, never a test that is passed over. Servers are bound to the
// life of the process that started them: they end with it, in whatever way it ends.
package testservice
