"""The worker: runs conversion jobs that the database records and Celery announces."""
