-- Operators of a tenant see which of its streams wait, for what, and who is at them.
GRANT SELECT ON process_work TO annals_api;
