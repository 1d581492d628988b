-- Notes about customers.
SELECT document_table('crm_notes', 'customer_id uuid', 'status text');
