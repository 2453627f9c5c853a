-- Rows of runs and steps, what is appended to them, documents and the log of ended runs.
--
-- The tenant comes first in every key. Times are microseconds since 1970. Columns are what is searched, ordered or changed at
-- every transition; doc is a JSON object of the rest, '' for none. Digests are 32 bytes, or text when they are something else.
-- Tables with long rows have a rowid: in a WITHOUT ROWID table a long row makes a thin tree.

CREATE TABLE store (
  one         INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation INTEGER NOT NULL
) STRICT;
INSERT INTO store VALUES (1, 1);

CREATE TABLE runs (
  tenant      TEXT NOT NULL,
  id          TEXT NOT NULL,
  -- What never changes.
  name        TEXT NOT NULL,
  run_token   TEXT,
  plan_hash   ANY  NOT NULL,
  pack        TEXT NOT NULL,
  concurrency TEXT,
  created     INTEGER NOT NULL,
  identity    TEXT NOT NULL,
  -- What changes with every transition.
  state       TEXT NOT NULL,
  phase       TEXT NOT NULL,
  started     INTEGER,
  updated     INTEGER NOT NULL,
  due         INTEGER,
  seq         INTEGER NOT NULL,
  head        ANY,
  log_seq     INTEGER NOT NULL,
  next_root   INTEGER NOT NULL,
  left_over   INTEGER NOT NULL,
  active      INTEGER NOT NULL,
  slots       INTEGER NOT NULL,
  held        INTEGER NOT NULL,
  doc         TEXT NOT NULL,
  -- What changes with the end.
  ended       INTEGER,
  outputs     TEXT,
  open        INTEGER,          -- 1 until it has ended and its submitter has seen that
  sealed      INTEGER,          -- index of its leaf in the tenant's log
  PRIMARY KEY (tenant, id)
) STRICT;
CREATE UNIQUE INDEX runs_name     ON runs (tenant, name);
CREATE UNIQUE INDEX runs_token    ON runs (tenant, run_token) WHERE run_token IS NOT NULL;
CREATE INDEX        runs_created  ON runs (tenant, created, id);
CREATE INDEX        runs_open     ON runs (tenant, created, id) WHERE open = 1;
CREATE INDEX        runs_keyed    ON runs (tenant, concurrency, phase, created, id) WHERE concurrency IS NOT NULL AND phase <> 'ended';
CREATE INDEX        runs_due      ON runs (due, tenant, id) WHERE due IS NOT NULL;
CREATE INDEX        runs_unsealed ON runs (tenant, ended, id) WHERE ended IS NOT NULL AND sealed IS NULL;

CREATE TABLE steps (
  tenant    TEXT NOT NULL,
  run       TEXT NOT NULL,
  id        TEXT NOT NULL,
  state     TEXT NOT NULL,
  standing  INTEGER,            -- 1 held, 2 ready to be claimed, 3 live in another way; NULL for neither
  runner    TEXT,               -- with priority and queued: its place in the queue
  priority  INTEGER,
  queued    INTEGER,
  session   TEXT,               -- of its lease
  lease_key TEXT,
  timer     INTEGER,
  epoch     INTEGER NOT NULL,
  attempt   INTEGER NOT NULL,
  created   INTEGER NOT NULL,
  started   INTEGER,
  ended     INTEGER,
  outputs   TEXT,
  items     TEXT,               -- of a map, '' when they are in step_values
  inputs    TEXT,               -- of a sub-pack, likewise
  doc       TEXT NOT NULL,
  PRIMARY KEY (tenant, run, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX steps_ready   ON steps (tenant, runner, priority DESC, queued, run, id) WHERE standing = 2;
CREATE INDEX steps_live    ON steps (tenant, run, standing, id) WHERE standing IS NOT NULL;
CREATE INDEX steps_session ON steps (session) WHERE session IS NOT NULL;
CREATE INDEX steps_key     ON steps (tenant, lease_key) WHERE lease_key IS NOT NULL;
CREATE INDEX steps_timer   ON steps (timer) WHERE timer IS NOT NULL;

-- Long values of containers, so that a change of the row beside them costs the same whatever their size.
CREATE TABLE step_values (
  tenant TEXT NOT NULL,
  run    TEXT NOT NULL,
  step   TEXT NOT NULL,
  kind   TEXT NOT NULL,         -- items or inputs
  value  TEXT NOT NULL,
  PRIMARY KEY (tenant, run, step, kind)
) STRICT;

-- Several events or lines a row; first is the number of the first. See package chunk for the body.
CREATE TABLE events (
  tenant TEXT NOT NULL,
  run    TEXT NOT NULL,
  first  INTEGER NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, run, first)
) STRICT;

CREATE TABLE lines (
  tenant TEXT NOT NULL,
  run    TEXT NOT NULL,
  first  INTEGER NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, run, first)
) STRICT;

CREATE TABLE sessions (
  id      TEXT PRIMARY KEY,
  tenant  TEXT NOT NULL,
  worker  TEXT NOT NULL,
  expires INTEGER NOT NULL,
  local   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_expires ON sessions (expires);

CREATE TABLE plans (
  tenant TEXT NOT NULL,
  hash   ANY  NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, hash)
) STRICT;

CREATE TABLE documents (
  tenant TEXT NOT NULL,
  run    TEXT NOT NULL,
  kind   TEXT NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (tenant, run, kind)
) STRICT;

CREATE TABLE results (
  tenant  TEXT NOT NULL,
  key     ANY  NOT NULL,
  outputs TEXT,
  doc     TEXT NOT NULL,
  PRIMARY KEY (tenant, key)
) STRICT;

CREATE TABLE dead_letters (
  tenant   TEXT NOT NULL,
  run      TEXT NOT NULL,
  step     TEXT NOT NULL,
  at       INTEGER NOT NULL,
  doc      TEXT NOT NULL,
  resolved TEXT,                -- who dealt with it
  PRIMARY KEY (tenant, run, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_letters_open ON dead_letters (tenant, at, run, step) WHERE resolved IS NULL;

CREATE TABLE logs (
  tenant     TEXT PRIMARY KEY,
  size       INTEGER NOT NULL,
  checkpoint BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE log_hashes (
  tenant TEXT NOT NULL,
  idx    INTEGER NOT NULL,
  hash   BLOB NOT NULL,
  PRIMARY KEY (tenant, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE leaves (
  tenant TEXT NOT NULL,
  idx    INTEGER NOT NULL,
  run    TEXT NOT NULL,
  leaf   BLOB NOT NULL,
  PRIMARY KEY (tenant, idx),
  UNIQUE (tenant, run)
) STRICT;
