-- Rows of runs and steps, the narrow tables they are found by, what is appended to them, documents and the log of ended runs.
--
-- The tenant comes first in every key. Times are microseconds since 1970, 0 for none. Texts that are keys are compared bytewise.
-- A body is the rest of a row in the form of encode.go; columns beside it are what somebody looks for. A row of runs or steps changes
-- with every transition, so that no index may hold what changes with it: then PostgreSQL updates the row where it is (HOT). What is
-- looked for while a step is ready, leased or timed stands in a small table of its own, whose rows only come and go.

CREATE TABLE store (
  one         int PRIMARY KEY CHECK (one = 1),
  incarnation bigint NOT NULL
);
INSERT INTO store VALUES (1, 1);

CREATE TABLE runs (
  tenant    text COLLATE "C" NOT NULL,
  id        text COLLATE "C" NOT NULL,
  name      text COLLATE "C" NOT NULL,
  token     text COLLATE "C" NOT NULL,
  plan_hash bytea NOT NULL,
  pack      text COLLATE "C" NOT NULL,
  created   bigint NOT NULL,
  identity  bytea NOT NULL,           -- what it was created with and no column has
  state     text COLLATE "C" NOT NULL,
  open      boolean NOT NULL,         -- until it has ended and its submitter has seen that
  body      bytea NOT NULL,
  PRIMARY KEY (tenant, id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX runs_name    ON runs (tenant, name);
CREATE UNIQUE INDEX runs_token   ON runs (tenant, token) WHERE token <> '';
CREATE INDEX        runs_created ON runs (tenant, created, id);
CREATE INDEX        runs_open    ON runs (tenant, created, id) WHERE open;

CREATE TABLE steps (
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  id     text COLLATE "C" NOT NULL,
  state  text COLLATE "C" NOT NULL,
  live   boolean NOT NULL,            -- it may still go on by itself
  held   boolean NOT NULL,            -- queued, without a slot of the run
  body   bytea NOT NULL,
  PRIMARY KEY (tenant, run, id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX steps_live ON steps (tenant, run, id) WHERE live;
CREATE INDEX steps_held ON steps (tenant, run, id) WHERE held;

-- Long values of containers, so that a change of the row beside them costs the same whatever their size.
CREATE TABLE step_values (
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  step   text COLLATE "C" NOT NULL,
  kind   text COLLATE "C" NOT NULL,   -- items or inputs
  value  bytea NOT NULL,
  PRIMARY KEY (tenant, run, step, kind)
);

-- Steps that may be claimed, in the order of the queue; rank is the priority turned round.
CREATE TABLE ready (
  tenant    text COLLATE "C" NOT NULL,
  runner    text COLLATE "C" NOT NULL,
  rank      bigint NOT NULL,
  queued    bigint NOT NULL,
  run       text COLLATE "C" NOT NULL,
  step      text COLLATE "C" NOT NULL,
  key       bytea NOT NULL,           -- concurrency key, '' for none
  max_leases bigint NOT NULL,
  PRIMARY KEY (tenant, runner, rank, queued, run, step)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

CREATE TABLE leases (
  tenant  text COLLATE "C" NOT NULL,
  session text COLLATE "C" NOT NULL,
  run     text COLLATE "C" NOT NULL,
  step    text COLLATE "C" NOT NULL,
  key     bytea NOT NULL,
  PRIMARY KEY (session, tenant, run, step)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX leases_key ON leases (tenant, key) WHERE key <> '';

-- When somebody has to look: at a step, or at a run where step is ''.
CREATE TABLE timers (
  at     bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  step   text COLLATE "C" NOT NULL,
  PRIMARY KEY (at, tenant, run, step)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

-- Runs that have not ended and share a concurrency key.
CREATE TABLE keyed_runs (
  tenant  text COLLATE "C" NOT NULL,
  key     bytea NOT NULL,
  waiting boolean NOT NULL,           -- for the key; else they have it
  created bigint NOT NULL,
  run     text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant, key, waiting, created, run)
);

-- Runs that have ended and are not in the log.
CREATE TABLE unsealed (
  tenant text COLLATE "C" NOT NULL,
  ended  bigint NOT NULL,
  run    text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant, ended, run)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

CREATE TABLE sessions (
  id      text COLLATE "C" PRIMARY KEY,
  tenant  text COLLATE "C" NOT NULL,
  worker  bytea NOT NULL,
  expires bigint NOT NULL,            -- in no index: a heartbeat must cost little, and there are few sessions
  local   boolean NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- Several events or lines a row; first is the number of the first. See package chunk for the body.
CREATE TABLE events (
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  first  bigint NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (tenant, run, first)
);

CREATE TABLE lines (
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  first  bigint NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (tenant, run, first)
);

CREATE TABLE plans (
  tenant text COLLATE "C" NOT NULL,
  hash   bytea NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (tenant, hash)
);

CREATE TABLE documents (
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  kind   text COLLATE "C" NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (tenant, run, kind)
);

CREATE TABLE results (
  tenant text COLLATE "C" NOT NULL,
  key    bytea NOT NULL,
  body   bytea NOT NULL,
  PRIMARY KEY (tenant, key)
);

CREATE TABLE dead_letters (
  tenant   text COLLATE "C" NOT NULL,
  run      text COLLATE "C" NOT NULL,
  step     text COLLATE "C" NOT NULL,
  at       bigint NOT NULL,
  body     bytea NOT NULL,
  resolved bytea,                     -- who dealt with it
  PRIMARY KEY (tenant, run, step)
);
CREATE INDEX dead_letters_open ON dead_letters (tenant, at, run, step) WHERE resolved IS NULL;

CREATE TABLE logs (
  tenant     text COLLATE "C" PRIMARY KEY,
  size       bigint NOT NULL,
  hashes     bigint NOT NULL,
  checkpoint bytea
);

CREATE TABLE log_hashes (
  tenant text COLLATE "C" NOT NULL,
  idx    bigint NOT NULL,
  hash   bytea NOT NULL,
  PRIMARY KEY (tenant, idx)
);

CREATE TABLE leaves (
  tenant text COLLATE "C" NOT NULL,
  idx    bigint NOT NULL,
  run    text COLLATE "C" NOT NULL,
  leaf   bytea NOT NULL,
  PRIMARY KEY (tenant, idx),
  UNIQUE (tenant, run)
);

-- Documents of services: accounts, tokens, answers that may be asked for again, the ends of audit streams.
CREATE TABLE records (
  tenant  text COLLATE "C" NOT NULL,
  kind    text COLLATE "C" NOT NULL,
  id      text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  expires bigint NOT NULL,
  doc     bytea NOT NULL,
  PRIMARY KEY (tenant, kind, id)
);
CREATE INDEX records_expires ON records (expires, tenant, kind, id) WHERE expires <> 0;
