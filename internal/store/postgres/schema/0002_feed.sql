-- Events get numbers that grow within each run: the feed of a tenant. A number is taken before its transaction commits, so that readers go
-- by feed.go. What is there already is numbered by time of its runs.
CREATE SEQUENCE events_pos;
ALTER TABLE events ADD COLUMN pos bigint;
UPDATE events SET pos = n.pos FROM (
  SELECT e.tenant, e.run, e.first, row_number() OVER (ORDER BY coalesce(r.created, 0), e.tenant, e.run, e.first) AS pos
  FROM events e LEFT JOIN runs r ON r.tenant = e.tenant AND r.id = e.run
) AS n WHERE events.tenant = n.tenant AND events.run = n.run AND events.first = n.first;
SELECT setval('events_pos', coalesce((SELECT max(pos) FROM events), 0) + 1, false);
ALTER TABLE events ALTER COLUMN pos SET NOT NULL;
CREATE INDEX events_feed ON events (tenant, pos);
