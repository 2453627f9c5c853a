-- What the worker of a session can run, as JSON, so that whoever asks why a step waits is told what no worker offers.

ALTER TABLE sessions ADD COLUMN offer TEXT NOT NULL DEFAULT '{}';
