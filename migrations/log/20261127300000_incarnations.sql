-- On which server an incarnation of the log was last known to be: the server's identifier and its timeline. Another one
-- means that the log was restored, or that a standby took over.
ALTER TABLE log_incarnations ADD COLUMN server text;
GRANT INSERT, UPDATE (server) ON log_incarnations TO annals_writer;
