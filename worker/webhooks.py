"""Sends what webhooks are to be told, by the rules of Standard Webhooks (standardwebhooks.com)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from worker.contract.address_guard import Network, RefusedAddressError, Target, check_url
from worker.contract.job import Job
from worker.contract.job_store import JobStore
from worker.contract.webhook_store import SECRET_PREFIX, Due, WebhookStore

POLL_SECONDS = 0.5
SEND_SECONDS = 15.0
"""That a receiver has, however it spends them."""

NUM_AT_ONCE = 32
"""Receivers that are called at once: only that many slow ones hold up others."""

MAX_PROBLEM_CHARACTERS = 200

logger = logging.getLogger(__name__)


class WebhookSender:
    """Takes messages that are due, and calls their receivers; several may work at once."""

    def __init__(
        self,
        store: WebhookStore,
        jobs: JobStore,
        *,
        networks: Sequence[Network],
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        """Use the record.

        Args:
            store: the messages.
            jobs: what they are about.
            networks: that may be called although they are not public.
            send_seconds: that a receiver has, from the look-up of its name to its answer.
        """
        self._store = store
        self._jobs = jobs
        self._networks = networks
        self._send_seconds = send_seconds

    def run(self, stopped: threading.Event) -> None:
        """Work until `stopped` is set; what is being sent then is sent again by the next one."""
        asyncio.run(self._run(stopped))

    async def _run(self, stopped: threading.Event) -> None:
        sending: set[asyncio.Task[None]] = set()
        try:
            while not stopped.is_set():
                try:
                    # As many as are sent at once: none waits here while another could have it.
                    for due in self._store.take_due(limit=NUM_AT_ONCE - len(sending)):
                        task = asyncio.create_task(self._send(due))
                        sending.add(task)
                        task.add_done_callback(sending.discard)
                except SQLAlchemyError as error:
                    logger.warning("webhooks wait: the record does not answer (%s)", error)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for task in sending:
                task.cancel()

    async def _send(self, due: Due) -> None:
        """Call a receiver once, and record what it said."""
        delivery, status, problem = due.delivery, None, None
        try:
            async with asyncio.timeout(self._send_seconds):
                job = self._jobs.get(delivery.job_id, tenant=due.tenant)
                target = await _resolved(due.url, self._networks)
                status = await _post(target, due, job)
            if not httpx.codes.is_success(status):
                problem = f"the receiver answered {status}; 2xx is taken as received"
        except LookupError:
            problem = "the job was deleted"
        except RefusedAddressError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"the receiver has not answered within {self._send_seconds:g} seconds"
        except Exception as error:
            problem = f"the receiver could not be reached: {type(error).__name__}"
        try:
            if status == HTTPStatus.GONE:
                self._store.disable(delivery.webhook_id)
            self._store.record(
                delivery, status=status, problem=problem and problem[:MAX_PROBLEM_CHARACTERS]
            )
        except SQLAlchemyError:
            logger.warning("webhook %s: its message is sent once more later", delivery.webhook_id)
        if problem is not None:
            logger.info("webhook %s: %s", delivery.webhook_id, problem)


def message_of(due: Due, job: Job) -> dict[str, Any]:
    """Return what a receiver is told: enough to know whether to ask for more."""
    delivery = due.delivery
    return {
        "type": f"job.{delivery.kind}",
        "timestamp": datetime.fromtimestamp(due.happened_at, UTC).isoformat(),
        "data": {
            "id": job.id,
            "name": job.name,
            "tags": job.request.get("tags", []),
            "state": str(job.state),
            "error": job.error and asdict(job.error),
            "url": f"/jobs/{job.id}",
        },
    }


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`.

    Source:
        Standard Webhooks 1.0: HMAC-SHA256 of `id.timestamp.body`, in base64.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


async def _resolved(url: str, networks: Sequence[Network]) -> Target:
    """Check a URL in a thread that nobody waits for.

    A name server may take longer than the receiver has, and than the process may take to end.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Target] = loop.create_future()

    def settle(target: Target | None, error: Exception | None) -> None:
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        elif target is not None:
            answer.set_result(target)

    def look() -> None:
        target, failure = None, None
        try:
            target = check_url(url, networks)
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, target, failure)

    threading.Thread(target=look, name="name-server", daemon=True).start()
    return await answer


async def _post(target: Target, due: Due, job: Job) -> int:
    """Send a message to an address that was checked; return the answer's status."""
    delivery, timestamp = due.delivery, int(time.time())
    body = json.dumps(message_of(due, job), separators=(",", ":")).encode()
    # The same at every attempt, so that a receiver knows a message that it has already.
    message_id = f"{delivery.webhook_id}.{delivery.job_id}.{delivery.event_number}"
    headers = {
        "Host": target.url.netloc,
        "Content-Type": "application/json",
        "User-Agent": "momentum-zoo",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(due.secret, message_id, timestamp, body),
    }
    address = f"[{target.address}]" if ":" in target.address else target.address
    url = target.url._replace(netloc=f"{address}:{target.port}", fragment="").geturl()
    request = httpx.Request(
        "POST",
        url,
        content=body,
        headers=headers,
        # The certificate is for the name, not the address.
        extensions={"sni_hostname": target.host},
    )
    # The transport alone: it follows no redirect, keeps no cookie, and asks no proxy.
    async with httpx.AsyncHTTPTransport(trust_env=False) as transport:
        answer = await transport.handle_async_request(request)
        await answer.aclose()  # whatever it says besides is of no interest
        return answer.status_code
