"""What a client may ask about the service itself."""

from __future__ import annotations

from importlib.metadata import version


def test_the_version_is_the_packages(client):
    assert client.get("/version").json()["version"] == version("momentum-zoo")


def test_limits_are_the_settings_and_say_what_is_used(client, settings):
    before = client.get("/limits").json()
    assert before["max_upload_bytes"] == settings.max_upload_bytes
    assert before["intake"]["max_tensors"] == settings.limits.max_tensors
    assert before["used"] == {"unfinished_jobs": 0, "stored_bytes": 0}
    client.post("/convert", json={"source": {"zoo": "digits_resnet26"}})
    client.post("/uploads", content=b"12345")
    used = client.get("/limits").json()["used"]
    assert used == {"unfinished_jobs": 1, "stored_bytes": 5}
