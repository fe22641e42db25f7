"""docker-compose.yml and the Dockerfiles, by what they say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
from pydantic import ValidationError

from tests.conftest import ROOT
from tests.end_to_end.test_by_hand import commands
from tests.self_hosting.compose import compose, variables
from worker.contract.settings import SECRETS_DIR_VARIABLE, Settings

FILE = compose()
SERVICES = FILE["services"]
OURS = {name for name, one in SERVICES.items() if "build" in one}
STAYING = {name for name, one in SERVICES.items() if one["restart"] != "no"}
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def unknown(given: Any, kept: Any, path: str = "") -> list[str]:
    """Return what a file says and the specification's model has no place for."""
    if not isinstance(given, dict) or not isinstance(kept, dict):
        return []
    found = []
    for name, value in given.items():
        if name.startswith("x-"):
            continue
        if name not in kept:
            found.append(f"{path}/{name}")
        else:
            found += unknown(value, kept[name], f"{path}/{name}")
    return found


def faults(file: dict[str, Any]) -> list[str]:
    """Return what a file has that the specification does not know; raises where a type is wrong."""
    model = compose_spec.ComposeSpecification.model_validate(file)
    return unknown(file, model.model_dump(by_alias=True, exclude_unset=True))


def test_it_is_valid_by_the_specification():
    assert faults(FILE) == []
    named = {name for one in SERVICES.values() for name in one.get("networks", [])}
    assert named == FILE["networks"].keys()
    volumes = {line.split(":")[0] for one in SERVICES.values() for line in one.get("volumes", [])}
    assert {name for name in volumes if not name.startswith(".")} == FILE["volumes"].keys()


def test_what_the_specification_does_not_know_is_found():
    """Or else the test above would prove nothing."""
    assert faults({"services": {"a": {"image": "x", "imag": 3}}}) == ["/services/a/imag"]
    assert faults({"servces": {}}) == ["/servces"]
    for wrong in ({"cap_drop": 3}, {"ports": 3}, {"healthcheck": {"interval": [1]}}):
        with pytest.raises(ValidationError):
            faults({"services": {"a": {"image": "x"} | wrong}})


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_right_that_it_does_not_need(name):
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])  # nobody is root
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    for word in ("privileged", "pid", "ipc", "devices", "userns_mode"):
        assert word not in service
    # Caddy's program has this capability in its file, and does not start where it is dropped.
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "tls" else [])
    for place in service.get("tmpfs", []):
        assert "size=" in place
        assert "nosuid" in place
        is_compiling = "worker.Dockerfile" in str(service.get("build"))
        assert is_compiling or "noexec" in place
    for volume in service.get("volumes", []):
        assert not volume.startswith("/")
        assert "docker.sock" not in volume


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded(name):
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= limits.keys()
    assert SERVICES[name]["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned(name):
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert tag not in ("", "latest")
    assert name in OURS or re.search(r"\d+\.\d+", tag)


@pytest.mark.parametrize("name", sorted(STAYING - {"relay", "tls"}))
def test_whoever_stays_is_asked_how_it_is(name):
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


def test_only_what_has_a_page_is_reached_from_outside_and_at_first_from_this_machine_alone():
    reached = {name for name, one in SERVICES.items() if "ports" in one}
    assert reached == {"api", "tls", "grafana"}
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert SERVICES["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
    assert SERVICES["tls"]["profiles"] == ["tls"]


def test_what_holds_data_has_no_way_out():
    assert FILE["networks"]["data"] == {"internal": True}
    for name in ("database", "broker", "migrate"):
        assert SERVICES[name]["networks"] == ["data"]
    assert FILE["networks"]["monitoring"] == {"internal": True}
    assert SERVICES["prometheus"]["networks"] == ["monitoring"]
    assert "data" not in SERVICES["grafana"]["networks"]
    assert SERVICES["init"]["network_mode"] == "none"


def test_secrets_are_files_that_others_cannot_see():
    holders = {
        volume: {
            name
            for name, one in SERVICES.items()
            if any(line.startswith(f"{volume}:") for line in one.get("volumes", []))
        }
        for volume in FILE["volumes"]
        if volume.endswith("-secrets")
    }
    assert holders["database-secrets"] == {"init", "database"}
    assert holders["broker-secrets"] == {"init", "broker"}
    assert holders["service-secrets"] == OURS
    assert holders["prometheus-secrets"] == {"init", "prometheus"}
    assert holders["grafana-secrets"] == {"init", "grafana"}
    assert holders["store-secrets"] == {"init", "store"}
    assert len(holders) == 6
    for name, service in SERVICES.items():
        for line in service.get("volumes", []):
            assert "secrets" not in line or line.endswith(":ro") or name == "init"
        for variable in service.get("environment", {}):
            assert not re.search("PASSWORD$|SECRET$|TOKEN$|_URL$", variable) or variable in (
                "MOMENTUM_ZOO_BASE_URL",
                "MOMENTUM_HUB_URL",
                "MOMENTUM_STORE_URL",
            )


def test_what_init_writes_to_belongs_to_who_it_is():
    """A volume takes over whom the folder of the image belongs to."""
    made = (ROOT / "docker" / "api.Dockerfile").read_text()
    for line in SERVICES["init"]["volumes"]:
        assert f" {line.split(':')[1]}" in made, line


def test_a_worker_has_time_to_hand_its_job_back():
    for name in ("worker-cpu", "worker-gpu0"):
        assert int(SERVICES[name]["stop_grace_period"].rstrip("s")) >= 60
        assert SERVICES[name].get("stop_signal", "SIGTERM") == "SIGTERM"
        assert SERVICES[name]["shm_size"]


def test_the_gpu_is_reserved_and_named_alike():
    service = SERVICES["worker-gpu0"]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    # In its container the one GPU is the first one.
    assert service["environment"]["MOMENTUM_DEVICE"] == "cuda:0"
    assert service["profiles"] == ["gpu"]
    assert "/cu" in service["build"]["args"]["TORCH_INDEX"]


def test_everything_that_is_set_is_a_setting_and_everything_asked_for_is_explained():
    known = {f"MOMENTUM_{name.upper()}" for name in Settings.model_fields}
    known |= {SECRETS_DIR_VARIABLE, "MOMENTUM_DOMAIN"}
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert not name.startswith("MOMENTUM_") or name in known
    explained = set(
        re.findall(r"^#((?:MOMENTUM|OTEL)_\w+)=", (ROOT / ".env.example").read_text(), re.M)
    )
    assert explained == variables()


def test_a_host_with_two_cores_is_large_enough():
    for service in SERVICES.values():
        assert float(service["deploy"]["resources"]["limits"]["cpus"]) <= 2


def test_an_empty_environment_leaves_the_settings_as_they_are(monkeypatch):
    for name in SERVICES["api"]["environment"]:
        monkeypatch.delenv(name, raising=False)
    usual = Settings()
    for name, value in SERVICES["api"]["environment"].items():
        if name in (
            *(SECRETS_DIR_VARIABLE, "MOMENTUM_DATA_DIR", "MOMENTUM_REQUIRE_KEYS"),
            "MOMENTUM_DATASETS_DIR",  # empty unless the host's folder is mounted there
            "MOMENTUM_LOG_FORMAT",  # for programs, here
        ):
            continue
        monkeypatch.setenv(name, value)
    assert Settings() == usual


def test_commands_are_those_that_are_tested_by_hand():
    known = [["python", *words] for words in commands(8000)]
    for name in sorted(OURS - {"init", "migrate"}):
        command = SERVICES[name]["command"]
        assert any(command[: len(one)] == one for one in known) or command[:3] == known[0][:3]
    for service in SERVICES.values():
        command = service.get("command", [])
        if command[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(command[2])
        if "--app" in command:
            assert importlib.util.find_spec(command[command.index("--app") + 1])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda one: one.name)
def test_a_dockerfile_is_sound(path):
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = path.read_text()
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert "ADD " not in text
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_what_is_built_or_mounted_is_there():
    for name in OURS:
        assert (ROOT / SERVICES[name]["build"]["dockerfile"]).exists()
    for service in SERVICES.values():
        for line in service.get("volumes", []):
            source = line.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_file(), source


@pytest.mark.timeout(900)
def test_the_apis_packages_are_small_and_have_no_torch(tmp_path):
    """As the Dockerfile installs them, into an environment of their own."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    wanted = re.search(r"'\.\[(.+?)\]'", (ROOT / "docker" / "api.Dockerfile").read_text())[1]
    options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    constraint = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--no-compile",
            *options,
            *constraint,
            f"{ROOT}[{wanted}]",
        ],
        check=True,
        cwd=tmp_path,
    )
    program = (
        "import importlib.util, api.app, api.server, worker.relay\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "from api.web.assets import _assets; assert len(_assets()) > 10"
    )
    subprocess.run([python, "-c", program], check=True, cwd=tmp_path)
    num_bytes = sum(one.stat().st_size for one in environment.rglob("*") if one.is_file())
    assert num_bytes < 350e6
