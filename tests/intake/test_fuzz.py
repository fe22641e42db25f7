"""Mutated files: each is taken or refused properly, soon, and as torch and numpy would.

`python -m tests.intake.fuzzing` does 100,000 of each format.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.corpus.case import MARKER
from tests.corpus.image_files import small_folder
from tests.intake.conftest import measured_service
from tests.intake.fuzz_bases import bases, write_bases
from tests.intake.fuzzing import CODES, KINDS, Report, fuzz
from tests.intake.mutants import Series

NUM_MUTANTS = 20_000
NUM_OVER_HTTP = 200
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda kind: fuzz(kind, NUM_MUTANTS), KINDS)
        return dict(zip(KINDS, found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_read_properly(kind, reports):
    report = reports[kind]
    assert report.is_good, report
    assert sum(report.codes.values()) == NUM_MUTANTS


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_get_past_the_outer_checks(kind, reports):
    """Or else the test above would prove little: many are taken, and the refusals are many."""
    codes = reports[kind].codes
    assert codes["accepted"] > NUM_MUTANTS // 25
    assert len(codes) >= (3 if kind in ("png", "jpeg", "webp") else 6)
    assert reports[kind].compared == codes["accepted"]


def test_mutants_are_the_same_everywhere(tmp_path):
    for kind in KINDS:
        write_bases(tmp_path, kind)
        first, second = (Series.of(tmp_path, kind, 7) for _ in range(2))
        assert bases(kind) == bases(kind)
        assert [first[number] for number in range(50)] == [second[number] for number in range(50)]
        assert len({first[number] for number in range(50)}) > 30


def test_mutants_over_http_leave_the_service_as_it_was(tmp_path):
    """Two clients at once: what one sends must not reach the other."""
    write = tmp_path / "bases"
    write.mkdir()
    for kind in KINDS:
        write_bases(write, kind)
    mutants = [
        (kind, Series.of(write, kind, 1)[number])
        for number in range(NUM_OVER_HTTP // len(KINDS) + 1)
        for kind in KINDS
    ][:NUM_OVER_HTTP]
    with measured_service(tmp_path) as service:

        def send(mutant: tuple[str, bytes]) -> tuple[int, str]:
            kind, content = mutant
            is_checkpoint = kind in ("torch_zip", "torch_legacy", "safetensors")
            if kind in ("png", "jpeg", "webp"):
                content = small_folder(content)
            request = {} if is_checkpoint else {"source": {"zoo": "digits_resnet26"}}
            part = "checkpoint" if is_checkpoint else "data"
            files = {part: ("x", content), "request": ("", json.dumps(request).encode())}
            answer = service.client.post("/convert", files=files)
            return answer.status_code, answer.json().get("code", "accepted")

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(send, mutants))
        assert service.process.poll() is None
        assert service.client.get("/healthz").status_code == 200
        assert service.files()[0] == set()
    assert len(answers) == NUM_OVER_HTTP
    assert {status for status, _ in answers} <= {202, 413, 415, 422}
    assert {code for _, code in answers} <= CODES | {"architecture_mismatch"}
    assert not MARKER.exists()
    assert service.notes["written_elsewhere"] == []
