"""All that the API and the worker share; free of torch, Celery and FastAPI."""
