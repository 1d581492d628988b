-- Which tenants have lately asked a process for something, so that the imports of all of them leave room for others.
-- Behind a waiting lock no process could renew its row; whoever migrates tries again.
SET LOCAL lock_timeout = '2s';
ALTER TABLE running_processes ADD COLUMN callers uuid[] NOT NULL DEFAULT '{}';
