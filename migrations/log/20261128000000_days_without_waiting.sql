-- Whoever makes or drops the table of a day waits only a moment for those who read or write the others: behind a waiting
-- lock every keyed command would wait too. Who was refused asks again within a minute.
ALTER FUNCTION turn_idempotency_days() SET lock_timeout = '100ms';
