"""No call that can run a stranger's bytes stands in the code, but where this list says so.

ruff's S rules see the common ones; this test also sees those they leave out (`torch.load`,
`extractall`, `load_state_dict_from_url`, `numpy.load`), whatever name they were imported under.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("api", "worker", "momentum_core")

MODULES = frozenset(
    {
        *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
        *("tarfile", "zipfile", "shutil.unpack_archive", "code", "codeop", "imp", "runpy", "pty"),
        *("torch.hub", "torch.package", "xmlrpc", "jsonpickle", "yaml"),
    }
)
"""Importing one of these is enough, or a name out of it."""

CALLS = frozenset(
    {
        *("eval", "exec", "compile", "__import__", "importlib.import_module", "os.system"),
        *("os.popen", "torch.load", "torch.jit.load", "torch.export.load", "torch.serialization"),
        *("numpy.load", "numpy.fromfile", "pandas.read_pickle", "tempfile.mktemp"),
        *("PIL.Image.open", "shutil.unpack_archive", "torch.utils.model_zoo.load_url"),
        *("os.execv", "os.execve", "os.execvp", "os.execvpe", "os.execl", "os.execlp", "os.fork"),
        *("os.posix_spawn", "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput"),
    }
)
"""Calls by their full name."""

METHODS = frozenset(
    {
        *("extractall", "load_state_dict_from_url", "unsafe_load", "full_load", "read_pickle"),
        *("add_safe_globals", "find_class", "set_extension"),
    }
)
"""Calls by their last name, whatever they are called on."""

ALLOWED = {
    ("momentum_core/__init__.py", "importlib.import_module"): "the lazy public names, a fixed list",
    **{
        ("worker/packaging.py", f"zipfile{name}"): "writes a zip, and reads none"
        for name in ("", ".ZipFile", ".ZipInfo", ".ZIP_STORED")
    },
    ("worker/contract/inspector_host.py", "os.fork"): "a fresh inspector for each file",
    **{
        ("worker/train_beside.py", name): "networks that its own worker left in a folder of its own"
        for name in ("torch.load", "weights_only")
    },
    ("worker/contract/lifeline.py", "os.execv"): "becomes the process that the supervisor starts",
}
"""Where one stands, and why it may."""


def findings(source: str) -> set[str]:
    """Return the dangerous names that a source file calls, imports or hands on."""
    tree = ast.parse(source)
    names = {alias: full for node in ast.walk(tree) for alias, full in _imported(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        for _, full in _imported(node):
            if any(full == one or full.startswith(one + ".") for one in MODULES):
                found.add(full)
            if full in CALLS or full.rpartition(".")[2] in METHODS:
                found.add(full)
        full = _full_name(node, names)
        if full in CALLS or any(full.startswith(one + ".") for one in MODULES | CALLS):
            found.add(full)
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            found.add(node.attr)
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else True
            if node.arg in ("shell", "allow_pickle") and value is not False:
                found.add(node.arg)
            if node.arg in ("weights_only", "check_hash") and value is not True:
                found.add(node.arg)
        if isinstance(node, ast.ClassDef):
            bases = {_full_name(base, names).rpartition(".")[2] for base in node.bases}
            found |= bases & {"Unpickler", "_Unpickler"}
    return found


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that an import makes, and what they stand for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (top, top)
            yield alias.name, alias.name
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _full_name(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        front = _full_name(node.value, names)
        return f"{front}.{node.attr}" if front else ""
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_no_dangerous_call_stands_outside_the_list():
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in sources()
        for name in findings(path.read_text())
    }
    assert found == set(ALLOWED)


def test_all_code_is_looked_at():
    assert len(sources()) > 100


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "from torch import load as read\nread(path)",
        "import torch\nread = torch.load",
        "import torch.hub\n",
        "from torch.hub import load_state_dict_from_url",
        "torch.hub.load_state_dict_from_url(url)",
        "from torchvision._internally_replaced_utils import load_state_dict_from_url",
        "import pickle\n",
        "import pickle as p\np.loads(b'')",
        "from pickle import loads",
        "import cloudpickle",
        "import dill",
        "import shelve",
        "from marshal import loads",
        "class Mine(pickle.Unpickler): pass",
        "from somewhere import Unpickler\nclass Mine(Unpickler): pass",
        "archive.extractall(folder)",
        "import tarfile",
        "from zipfile import ZipFile",
        "import yaml\nyaml.load(text)",
        "eval(text)",
        "exec(text)",
        "handlers = {'run': exec}",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "import os\nos.system(command)",
        "from os import popen",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=wanted)",
        "import numpy as np\nnp.load(path)",
        "something.load(path, allow_pickle=True)",
        "something.load(path, weights_only=False)",
        "from PIL import Image\nImage.open(file)",
        "import pandas as pd\npd.read_pickle(path)",
        "import torch\ntorch.serialization.add_safe_globals([x])",
    ],
)
def test_each_form_of_a_dangerous_call_is_seen(source):
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "connection.execute(query)",
        "json.load(file)",
        "subprocess.run(command, shell=False)",
        "import re\nre.compile(text)",
        "from safetensors.torch import load_file",
        "model.load_state_dict(weights)",
    ],
)
def test_harmless_calls_are_not(source):
    assert not findings(source)
