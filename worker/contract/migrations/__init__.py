"""Migrations of the job record, applied by `worker.contract.database.upgrade_schema`."""
