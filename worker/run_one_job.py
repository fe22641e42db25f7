"""`python -m worker.run_one_job JOB`: does one job of the record, without broker and relay.

`momentum convert --local` starts it.
"""

from __future__ import annotations

import logging
import os
import sys

from momentum_core.errors import MomentumError
from worker.contract.settings import Settings
from worker.run_job import create_services, run_job


def main(job_id: str) -> int:
    """Do a job; return the process's exit code, which says nothing of how the job ended."""
    logging.basicConfig(level=logging.INFO)
    try:
        services = create_services(Settings(), worker=f"local:{os.getpid()}")
        run_job(job_id, services, is_only_worker=True)
    except MomentumError as error:  # the device, say: no job can be done
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
