-- Queues: where a step waits and where a lease was claimed from, '' for the default queue. Labels of runs, to find runs by.

ALTER TABLE steps ADD COLUMN queue TEXT NOT NULL DEFAULT '';
DROP INDEX steps_ready;
CREATE INDEX steps_ready ON steps (tenant, queue, runner, priority DESC, queued, run, id) WHERE standing = 2;
DROP INDEX steps_session;
CREATE INDEX steps_session ON steps (session, queue) WHERE session IS NOT NULL;

CREATE INDEX runs_live ON runs (tenant) WHERE ended IS NULL;

-- One row for each label of a run; its project is a label with an empty key.
CREATE TABLE run_labels (
  tenant  TEXT NOT NULL,
  key     TEXT NOT NULL,
  value   TEXT NOT NULL,
  created INTEGER NOT NULL,
  run     TEXT NOT NULL,
  PRIMARY KEY (tenant, key, value, created, run)
) STRICT, WITHOUT ROWID;
