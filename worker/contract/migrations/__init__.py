"""Migrations of the job record, applied by `worker.contract.schema.upgrade_schema`."""
