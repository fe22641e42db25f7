"""`python -m worker.self_check`: what a worker finds here, as JSON, for `momentum doctor`.

It is a process of its own: it imports torch, and may hang where a driver does.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from momentum_core.errors import ConfigError
from worker.broker import create_celery_app
from worker.contract.settings import Settings
from worker.device import choose_device, describe_device

ANSWER_SECONDS = 2.0
"""How long workers may take to answer; one that computes answers, too."""


def main(broker_url: str) -> None:
    """Print what was found.

    Args:
        broker_url: as Celery writes it; empty if there is none to ask.
    """
    found: dict[str, Any] = {"torch": version("torch")}
    try:
        device = choose_device(Settings().device)
        found |= {"device": str(device), "device_name": describe_device(device)}
    except ConfigError as error:
        found["device_error"] = str(error)
    if broker_url:
        try:
            app = create_celery_app(broker_url)
            answers = app.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
            found["workers"] = {
                name: [queue["name"] for queue in queues] for name, queues in answers.items()
            }
        except (KombuError, RedisError, OSError) as error:
            found["workers_error"] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
