"""API keys in the record: only whoever has the secret has the key."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select, update

from worker.contract.database import database_now, open_database
from worker.contract.key_store import PREFIX, KeyStore, Scope
from worker.contract.tables import api_keys


@pytest.fixture
def keys(engine) -> KeyStore:
    return KeyStore(engine)


def make(keys, **options):
    wanted = {"tenant": "a", "name": "n", "scopes": [Scope.READ]} | options
    return keys.create(**wanted)


def test_a_key_is_found_by_its_secret_only(keys):
    key, secret = make(keys, scopes=[Scope.WRITE, Scope.READ])
    other, other_secret = make(keys)
    assert secret.startswith(PREFIX)
    assert len(secret) > 40
    assert secret != other_secret
    assert keys.find(secret) == key
    assert key.scopes == {Scope.READ, Scope.WRITE}
    for wrong in ("", PREFIX, secret[:-1], secret.upper(), key.id):
        assert keys.find(wrong) is None
    assert {one.id for one in keys.all()} == {key.id, other.id}


def test_no_secret_is_in_the_record(engine, keys):
    _, secret = make(keys)
    with engine.connect() as connection:
        rows = connection.execute(select(api_keys)).all()
    assert secret not in repr(rows)
    assert secret.removeprefix(PREFIX) not in repr(rows)


def test_a_revoked_key_holds_no_more_and_the_time_stays(keys):
    key, secret = make(keys)
    keys.revoke(key.id)
    assert keys.find(secret) is None
    [revoked] = keys.all()
    keys.revoke(key.id)
    assert keys.all() == [revoked]
    assert revoked.revoked_at is not None
    with pytest.raises(LookupError):
        keys.revoke("0" * 32)


def test_a_key_holds_until_it_expires_by_the_databases_clock(engine, keys):
    key, secret = make(keys, lifetime_seconds=1000)
    assert key.expires_at == pytest.approx(key.created_at + 1000)
    assert keys.find(secret) is not None
    with engine.begin() as connection:
        connection.execute(update(api_keys).values(expires_at=database_now() - 1))
    assert keys.find(secret) is None


def test_of_many_processes_that_start_at_once_one_makes_the_first_key(database_url):
    made: list[str] = []

    def start() -> None:
        engine = open_database(database_url)
        KeyStore(engine).create_first(tenant="default", keep=made.append)
        engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [secret] = made
    engine = open_database(database_url)
    key = KeyStore(engine).find(secret)
    assert key is not None
    assert key.scopes == {Scope.ADMIN}
    engine.dispose()


def test_a_first_key_that_could_not_be_kept_is_no_key(engine):
    keys = KeyStore(engine)

    def fail(_: str) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        keys.create_first(tenant="default", keep=fail)
    assert keys.all() == []
    kept: list[str] = []
    assert keys.create_first(tenant="default", keep=kept.append)
    assert keys.find(kept[0]) is not None
