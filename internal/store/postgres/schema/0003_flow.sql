-- Queues: where a step waits and where a lease was claimed from, '' for the default queue. Labels of runs, to find runs by.

ALTER TABLE ready ADD COLUMN queue text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE ready DROP CONSTRAINT ready_pkey;
ALTER TABLE ready ADD PRIMARY KEY (tenant, queue, runner, rank, queued, run, step);

ALTER TABLE leases ADD COLUMN queue text COLLATE "C" NOT NULL DEFAULT '';

-- One row for each label of a run; its project is a label with an empty key.
CREATE TABLE run_labels (
  tenant  text COLLATE "C" NOT NULL,
  key     text COLLATE "C" NOT NULL,
  value   text COLLATE "C" NOT NULL,
  created bigint NOT NULL,
  run     text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant, key, value, created, run)
);
