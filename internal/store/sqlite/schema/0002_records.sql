-- Documents of services: accounts, tokens, answers that may be asked for again, the ends of audit streams.
CREATE TABLE records (
  tenant  TEXT NOT NULL,
  kind    TEXT NOT NULL,
  id      TEXT NOT NULL,
  version INTEGER NOT NULL,
  expires INTEGER,
  doc     TEXT NOT NULL,
  PRIMARY KEY (tenant, kind, id)
) STRICT;
CREATE INDEX records_expires ON records (expires, tenant, kind, id) WHERE expires IS NOT NULL;
