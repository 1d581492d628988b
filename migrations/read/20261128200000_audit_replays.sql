-- Replays of the history.
SELECT document_table('audit_replays', 'format text', 'status text');
