-- The logins of Annals: one for each job, so that each has its own pool, its own grants and its own policies.
-- None is a superuser and none bypasses row-level security. The migrations, run as annals_owner, grant the rest.
--
-- For psql, as a superuser, as often as one likes. Passwords come from the environment, or as psql variables:
--   ANNALS_OWNER_PASSWORD=… ANNALS_API_PASSWORD=… … psql -f roles.sql
\set QUIET on
\getenv owner_password ANNALS_OWNER_PASSWORD
\getenv api_password ANNALS_API_PASSWORD
\getenv writer_password ANNALS_WRITER_PASSWORD
\getenv reader_password ANNALS_READER_PASSWORD
\getenv projector_password ANNALS_PROJECTOR_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['annals_owner', 'annals_api', 'annals_writer', 'annals_reader', 'annals_projector']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

BEGIN;
-- Migrations. CREATEDB is for the tests, which make databases of their own.
ALTER ROLE annals_owner WITH LOGIN CREATEDB NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner_password';
-- Requests: one tenant at a time.
ALTER ROLE annals_api WITH LOGIN NOCREATEDB NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'api_password';
-- The log: append only.
ALTER ROLE annals_writer WITH LOGIN NOCREATEDB NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'writer_password';
-- Relay, indexer and rebuilds: read the log.
ALTER ROLE annals_reader WITH LOGIN NOCREATEDB NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'reader_password';
-- Read models.
ALTER ROLE annals_projector WITH LOGIN NOCREATEDB NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'projector_password';
COMMIT;
