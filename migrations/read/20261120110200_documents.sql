-- Resources that are the state of one stream; each is declared in projections/src/documents.
SELECT document_table('tenancy_tenants', 'status text');
SELECT document_table('identity_api_keys', 'status text');
SELECT document_table('commerce_customers', 'country text', 'status text');
SELECT document_table('commerce_orders', 'customer_id uuid', 'status text', 'currency text');
SELECT document_table('privacy_requests', 'customer_id uuid', 'status text');
