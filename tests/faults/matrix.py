"""The fault matrix: what may go wrong, and what is expected then.

Each row has tests marked `fault(number)`; `python -m tests.faults matrix` runs them all.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A fault."""

    fault: str
    expected: str


MATRIX: dict[int, Row] = {
    1: Row("API killed while it receives a file", "no job, nothing left; the retry succeeds"),
    2: Row("API killed between record and answer", "done once; the retry gets the same job"),
    3: Row("relay killed before a message is sent", "sent after its restart"),
    4: Row("relay killed after a message is sent", "sent twice, done once"),
    5: Row("broker killed, all its data lost", "every queued job is done"),
    6: Row("broker frozen while jobs are sent", "202 at once; done when it goes on"),
    7: Row("broker away while a job runs", "the job goes on, once"),
    8: Row("broker out of memory, or read-only", "202; /readyz says so; done afterwards"),
    9: Row("connections to the broker cut", "made again, nothing lost"),
    10: Row("the same message ten times", "done once"),
    11: Row("worker's child killed at any place", "another attempt, same bits"),
    12: Row("whole worker killed", "another worker goes on, same bits"),
    13: Row("worker asleep beyond its lease", "it writes nothing any more"),
    14: Row("SIGTERM", "ends within 10 s, attempt not counted, same bits"),
    15: Row("SIGTERM, then SIGKILL while a state is written", "the state before is taken"),
    16: Row("disk full", "507, or the job waits for space and goes on by itself"),
    17: Row("no names left on the disk", "refused, nothing left"),
    18: Row("a sync fails", "nothing is published"),
    19: Row("newest state damaged", "told of; the one before is taken"),
    20: Row("both states damaged", "told of; started again from the converted network"),
    21: Row("worker out of host memory", "half the batch, or `out_of_memory` with the figure"),
    22: Row("GPU out of memory", "half the batch once, then `out_of_memory`"),
    23: Row("a job that crashes its worker", "`attempts_exhausted` after three attempts"),
    24: Row("a job that hangs", "its process ends; if its heart stopped, another worker has it"),
    25: Row("a file that takes time or memory to read", "422 within seconds"),
    26: Row("clocks set by an hour", "no lease ends, no job is done twice"),
    27: Row("record locked for long", "503 after seconds; running jobs end well"),
    28: Row("record's file taken away", "503, no 202; /readyz says so"),
    29: Row("two relays", "everything once"),
    30: Row("messages and jobs of a newer version", "left alone, said, no crash"),
    31: Row("event streams that break off and come back", "no event missed"),
    32: Row("cancelled at any place", "within 5 s; never both cancelled and succeeded"),
    33: Row("job deleted during its download", "the download is whole"),
    34: Row("webhook receivers down, slow, redirecting", "tried again; the job is not touched"),
    35: Row("power cut", "all that was acknowledged is there"),
    36: Row("API out of descriptors", "accepts again once there are some"),
    37: Row("no thread can be started", "the job fails, the worker lives"),
    38: Row("slow disk", "no lease is lost"),
    39: Row("disk of the logs full", "the service goes on"),
    40: Row("killed while the record is upgraded", "the next start completes it"),
}
