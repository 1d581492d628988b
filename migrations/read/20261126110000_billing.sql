-- Plans, and the customers on them.
SELECT document_table('billing_plans', 'status text');
SELECT document_table('billing_subscriptions', 'customer_id uuid', 'plan_id uuid', 'status text');
