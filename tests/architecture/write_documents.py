"""Write what documents say of the code by themselves.

python -m tests.architecture.write_documents
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from api.app import create_app
from api.error_codes import markdown_table
from api.metrics import markdown_table as metrics_table
from tests.architecture.test_documents import settings_table
from tests.architecture.test_measured import DOCUMENTS as MEASURED
from tests.benchmarks import documents
from tests.conftest import ROOT
from worker.contract.settings import Settings


def openapi_text() -> str:
    """Return the text of docs/openapi.json."""
    with tempfile.TemporaryDirectory() as folder:
        application = create_app(Settings(data_dir=Path(folder)))
        return json.dumps(application.openapi(), indent=1, ensure_ascii=False) + "\n"


def replace_table(path: Path, table: str) -> None:
    """Put a table in the place of a document's first one that begins as it does."""
    head = re.escape(table.partition("|")[0] + "|" + table.split("|")[1] + "|")
    text = path.read_text()
    path.write_text(
        re.sub(rf"^{head}(.*\n)(\|.*\n?)*", lambda _: table + "\n", text, count=1, flags=re.M)
    )


def write_measured() -> None:
    """Write the tables and figures of what was measured."""
    documents.FIGURES.mkdir(exist_ok=True)
    drawn = dict(documents.figures())
    for path in documents.FIGURES.glob("*.svg"):
        if path not in drawn:
            path.unlink()
    for path, text in drawn.items():
        path.write_text(text)
    for path in MEASURED:
        path.write_text(documents.filled(path))


def main() -> None:
    replace_table(ROOT / "docs/settings.md", settings_table())
    replace_table(ROOT / "docs/errors.md", markdown_table())
    replace_table(ROOT / "docs/self-hosting.md", metrics_table())
    (ROOT / "docs/openapi.json").write_text(openapi_text())
    write_measured()


if __name__ == "__main__":
    main()
