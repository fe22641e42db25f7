"""What can be wrong with a service, found out without changing anything: `momentum doctor`.

findings             what a check says
configuration        settings that do not exist, or cannot be used
machine              data folder, disk, database, broker, relay, sandbox
worker_side          torch, device, workers: asked of a process of their own
connection           the service over HTTP
"""
