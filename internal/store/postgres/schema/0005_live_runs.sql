-- Runs that have not ended, to count against quotas without passing over those that have and that nobody has acknowledged.
CREATE TABLE live_runs (
  tenant text COLLATE "C" NOT NULL,
  run    text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant, run)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);

INSERT INTO live_runs (tenant, run) SELECT tenant, id FROM runs WHERE open AND state IN ('queued', 'running');
