-- Which tenants have lately asked a process for something, so that the imports of all of them leave room for others.
ALTER TABLE running_processes ADD COLUMN callers uuid[] NOT NULL DEFAULT '{}';
