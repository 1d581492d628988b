-- Notes have a kind. Those that were written before are general, as their upcaster says: the table need not be made anew.
ALTER TABLE crm_notes ADD COLUMN kind text DEFAULT 'general';
CREATE INDEX crm_notes_by_kind ON crm_notes (tenant_id, kind, id);
