"""Makes the secrets of a fresh installation, once: what is there already stays.

    python make_secrets.py /secrets

    service/momentum_database_url, momentum_broker_url     what the service's processes read
    database/password                                      what PostgreSQL reads
    broker/users.acl                                       what Valkey reads
    service/momentum_metrics_token, prometheus/metrics_token   what lets Prometheus see metrics
    grafana/admin_password                                 what Grafana reads
    service/momentum_store_options, store/s3.json          the object store of the profile `s3`

Each folder is a volume of its own, so that no container sees another's.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

DATABASE_URL = "postgresql+psycopg://momentum:{password}@database:5432/momentum"
STORE_URL = "http://store:8333"
BROKER_URL = "redis://momentum:{password}@broker:6379/0"
# Celery needs no administration (but scripts, for its locks); a health check needs PING alone.
USERS = """user default off
user health on nopass resetchannels -@all +ping
user momentum on >{password} ~* &* +@all -@admin -@dangerous +info
"""


def make(folder: Path) -> None:
    """Make the secrets that a folder does not have yet."""
    _make_for_service(folder)
    _make_for_monitoring(folder)
    _make_for_store(folder)


def _make_for_service(folder: Path) -> None:
    password = folder / "database" / "password"
    if (folder / "service" / "momentum_broker_url").exists():
        return
    database, broker = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    # A database that was made with an earlier password keeps it.
    database = password.read_text() if password.exists() else database
    _write(password, database)
    _write(folder / "broker" / "users.acl", USERS.format(password=broker))
    _write(folder / "service" / "momentum_database_url", DATABASE_URL.format(password=database))
    # The last one: without it, the next start makes all of them anew.
    _write(folder / "service" / "momentum_broker_url", BROKER_URL.format(password=broker))


def _make_for_monitoring(folder: Path) -> None:
    """Each by itself: an installation may be older than these."""
    token = _made_once(folder / "prometheus" / "metrics_token")
    copy = folder / "service" / "momentum_metrics_token"
    if not copy.exists() or copy.read_text() != token:
        _write(copy, token)
    _made_once(folder / "grafana" / "admin_password")


def _make_for_store(folder: Path) -> None:
    key, secret = "momentum", _made_once(folder / "store" / "secret")
    user = {
        "name": key,
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    options = {"endpoint_url": STORE_URL, "key": key, "secret": secret}
    for path, content in (
        (folder / "store" / "s3.json", {"identities": [user]}),
        (folder / "service" / "momentum_store_options", options),
    ):
        if not path.exists():
            _write(path, json.dumps(content))


def _made_once(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(32))
    return path.read_text()


def _write(path: Path, content: str) -> None:
    """Write a file whole or not at all; its volume decides who sees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)  # of a start that was killed; it may not be written to
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with open(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
