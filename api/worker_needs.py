"""Whether any worker could do a job: one that none has the means for is refused at once.

Workers count that were seen within the last hour: one that was killed may be about to be started
again. Without any, nothing is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from api.problems import Problem
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.request import ConvertRequest
from worker.contract.worker_store import Device, Worker, datasets_at_hand, kind_of

BYTES_PER_PARAMETER = 4
"""Networks are trained in single precision."""


def check_workers(
    request: ConvertRequest, num_parameters: int, *, is_refined: bool, workers: Sequence[Worker]
) -> None:
    """Compare what a job takes at least with what the workers have.

    Args:
        request: what is asked for.
        num_parameters: of its network.
        is_refined: whether its momentum form learns from it.
        workers: all that are known.

    Raises:
        Problem: 422 `no_suitable_worker` or `unknown_dataset`.
    """
    able = [one for one in workers if CONVERT_QUEUE in one.queues]
    devices = [one.device for one in able if one.device is not None]
    if not able or len(devices) < len(able):
        return  # one that has just started does not know its device yet
    _check_dataset(request.dataset_name, able)
    kind = request.worker.device
    name = request.dataset_name
    having = [one for one in devices if name is None or name in one.datasets]
    fitting = [one for one in having if kind in (None, kind_of(one.name))]
    if not fitting:
        raise _unsuitable(
            f"the job asks for a worker on {kind}{_with_dataset(name)}, and there is none",
            having,
            "worker.device",
        )
    largest = max(one.memory_bytes for one in fitting)
    asked = request.worker.memory_bytes or 0
    if asked > largest:
        raise _unsuitable(
            f"the job asks for a worker with {asked:,} bytes of memory, and none has so much",
            fitting,
            "worker.memory_bytes",
        )
    needed = least_bytes(num_parameters, is_refined=is_refined)
    if needed > largest:
        raise _unsuitable(
            f"training a network of {num_parameters:,} parameters takes more than {needed:,} bytes "
            "for weights and gradients alone, and no worker has so much",
            fitting,
            None,
        )


def _check_dataset(name: str | None, workers: Sequence[Worker]) -> None:
    known = list(datasets_at_hand(workers))
    if name is None or name in known:
        return
    there_are = f"there are {', '.join(known[:20])}" if known else "none is registered"
    raise Problem(
        422,
        "unknown_dataset",
        f"no worker has a data set {name!r} ({there_are}; GET /datasets lists them); have the "
        "operator put it into the workers' folder MOMENTUM_DATASETS_DIR, or send the images",
    )


def _with_dataset(name: str | None) -> str:
    return "" if name is None else f" that has the data set {name}"


def least_bytes(num_parameters: int, *, is_refined: bool) -> int:
    """Return what a job's weights and gradients take, without any activation or optimizer state."""
    # A student learns from its teacher, which is there, too.
    copies = 3 if is_refined else 2
    return copies * BYTES_PER_PARAMETER * num_parameters


def _unsuitable(reason: str, devices: Sequence[Device], option: str | None) -> Problem:
    kinds = sorted({(kind_of(one.name), one.memory_bytes) for one in devices})
    there_is = "; ".join(f"{kind} with {size:,} bytes" for kind, size in kinds)
    ask_for_less = "" if option is None else f" ask for less in {option}, or"
    return Problem(
        422,
        "no_suitable_worker",
        f"{reason} (there is {there_is});{ask_for_less} have the operator start such a worker",
    )
