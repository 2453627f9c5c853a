-- Events get a number in the order in which they were committed, which is never given again: the feed of a tenant. An index ends with the
-- number of its rows, so that this one is in the order of the feed.
CREATE TABLE numbered (
  pos    INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL,
  run    TEXT NOT NULL,
  first  INTEGER NOT NULL,
  body   BLOB NOT NULL,
  UNIQUE (tenant, run, first)
) STRICT;
INSERT INTO numbered (tenant, run, first, body) SELECT tenant, run, first, body FROM events ORDER BY rowid;
DROP TABLE events;
ALTER TABLE numbered RENAME TO events;
CREATE INDEX events_feed ON events (tenant);
