-- A name is found by one index alone, and a stream's names by another: where the planner's figures are old, it takes all
-- indexes that begin with the tenant for equally good.
DROP INDEX unique_claims_by_stream;
CREATE INDEX unique_claims_by_stream ON unique_claims (stream_id);
