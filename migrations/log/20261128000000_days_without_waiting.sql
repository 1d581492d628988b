-- Whoever makes or drops the table of a day waits only a moment for those who read or write the others: behind a waiting
-- lock every keyed command would wait too. Who was refused asks again within a minute.
--
-- The day of a key is that of the log's head, which never goes back: where a clock was ahead for a moment, tables are made
-- around that day too.
CREATE OR REPLACE FUNCTION turn_idempotency_days() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    ahead date := (SELECT (CASE WHEN isfinite(at) THEN greatest(at, clock_timestamp()) ELSE clock_timestamp() END
        AT TIME ZONE 'UTC')::date FROM log_head);
    day date;
    old record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('annals.idempotency_days'));
    FOR day IN SELECT d::date FROM generate_series(today - 1, today + 2, '1 day') d
        UNION SELECT d::date FROM generate_series(ahead - 1, ahead + 2, '1 day') d LOOP
        IF to_regclass('idempotency_keys_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF idempotency_keys FOR VALUES FROM (%L) TO (%L)',
                'idempotency_keys_' || to_char(day, 'YYYYMMDD'), day, day + 1);
        END IF;
    END LOOP;
    FOR old IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'idempotency_keys'::regclass
          AND c.relname < 'idempotency_keys_' || to_char(today - 1, 'YYYYMMDD') LOOP
        EXECUTE format('DROP TABLE %I', old.relname);
    END LOOP;
END $$;

-- Who reads for one tenant looks whether the log is still the one that it knows.
GRANT SELECT (position, epoch) ON log_head TO annals_api;
