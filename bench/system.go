package main

import "context"

// system is something that can be measured.
type system struct {
	name      string
	what      string   // version and shape, for people
	durable   string   // what an answered submission survives
	workloads []string // that it can do, in the order in which it does them
	needs     string   // a program beside Go: postgres, redis-server, temporal
	run       func(ctx context.Context, c *cell) error
}

const (
	full       = "every commit on disk (WAL, synchronous=FULL)"
	pgFull     = "every commit on disk (fsync, synchronous_commit=on)"
	powerLoss  = "survives power loss"
	perhapsOne = "up to 1 s is lost at power loss"
)

// systems are all of them, in the order in which they are measured. Those that need a build tag add themselves.
var systems = []system{
	{
		name: "orrery-embedded", what: "library: store, worker of 100 slots and sealing in one process, SQLite", durable: full + "; " + powerLoss,
		workloads: []string{"W1", "W2", "W3", "W4", "W5", "W8"}, run: embedded,
	},
	{
		name: "orrery-up", what: "`orrery up --slots 100`: API, scheduler and worker in one program, SQLite", durable: full + "; " + powerLoss,
		workloads: []string{"W7", "W1", "W2", "W3", "W4", "W5", "W6"}, run: overHTTP(shape{up: true}),
	},
	{
		name: "orrery-http", what: "`orrery server` on SQLite, one `orrery worker --slots 100` over HTTP", durable: full + "; " + powerLoss,
		workloads: []string{"W1", "W2", "W3", "W4", "W5"}, run: overHTTP(shape{workers: 1}),
	},
	{
		name: "orrery-pg", what: "`orrery server` on PostgreSQL, one `orrery worker --slots 100` over HTTP", durable: pgFull + "; " + powerLoss,
		workloads: []string{"W1", "W2", "W3", "W4", "W5", "W8"}, needs: "postgres", run: overHTTP(shape{postgres: true, workers: 1}),
	},
	{
		name: "orrery-pg-4", what: "the same with four workers of 25 slots", durable: pgFull + "; " + powerLoss,
		workloads: []string{"W1", "W5"}, needs: "postgres", run: overHTTP(shape{postgres: true, workers: 4}),
	},
	{
		name: "orrery-pg-sdk", what: "`orrery server` on PostgreSQL, a worker of 100 slots made with the Go SDK", durable: pgFull + "; " + powerLoss,
		workloads: []string{"W1"}, needs: "postgres", run: overHTTP(shape{postgres: true, sdk: true}),
	},
	{
		name: "river", what: "River, defaults, 100 workers", durable: pgFull + "; ends are written up to 250 ms later, a crash repeats those jobs",
		workloads: []string{"W1", "W2"}, needs: "postgres", run: river(false),
	},
	{
		name: "river-tuned", what: "River, 100 workers, FetchCooldown 1 ms", durable: pgFull + "; ends are written up to 250 ms later, a crash repeats those jobs",
		workloads: []string{"W1", "W2", "W8"}, needs: "postgres", run: river(true),
	},
	{
		name: "asynq-everysec", what: "Asynq, concurrency 100, Redis appendfsync everysec", durable: perhapsOne,
		workloads: []string{"W1", "W2"}, needs: "redis-server", run: asynqOn("everysec"),
	},
	{
		name: "asynq-always", what: "Asynq, concurrency 100, Redis appendfsync always", durable: powerLoss,
		workloads: []string{"W1", "W2"}, needs: "redis-server", run: asynqOn("always"),
	},
	{
		name: "jetstream", what: "NATS JetStream, file store, default sync (every 2 minutes)", durable: "up to 2 min is lost at power loss",
		workloads: []string{"W1", "W2"}, run: jetstreamOn(false),
	},
	{
		name: "jetstream-always", what: "NATS JetStream, file store, sync_interval always", durable: powerLoss,
		workloads: []string{"W1", "W2"}, run: jetstreamOn(true),
	},
	{
		name: "backlite", what: "backlite, 100 workers, SQLite (modernc) in WAL with synchronous=FULL", durable: full + "; " + powerLoss,
		workloads: []string{"W1", "W2"}, run: backliteOn,
	},
}
