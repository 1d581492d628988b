CREATE TABLE events
(
    aggregate_id  uuid    NOT NULL,
    sequence      bigint  NOT NULL,
    event_type    text    NOT NULL,
    event_version integer NOT NULL,
    payload       text    NOT NULL,
    metadata      text    NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (aggregate_id, sequence)
);
