"""Accounts: what stands in the file, and what is refused."""

import io
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.__main__ import main
from malmm.chat.accounts import Accounts, hash_password, verify_password
from malmm.errors import InputError

# RFC 7914, section 12: scrypt("pleaseletmein", "SodiumChloride", 16384, 8, 1), its first 32 bytes.
RFC_7914 = f"scrypt$16384$8$1${b'SodiumChloride'.hex()}$" + (
    "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "accounts.txt"
    for name in ("ana", "bob"):
        run(monkeypatch, path, "add", name, password=f"the password of {name}")
    return path


def run(monkeypatch: pytest.MonkeyPatch, file: Path, command: str, name: str, password: str = "") -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    with pytest.raises(SystemExit) as end:
        main(["accounts", command, name, "--auth", str(file)])
    assert end.value.code == 0


def test_a_known_value_of_scrypt() -> None:
    assert verify_password("pleaseletmein", RFC_7914)
    assert not verify_password("pleaseletmeout", RFC_7914)


@settings(max_examples=5)
@given(st.text(), st.text())
def test_a_password_fits_its_own_line_only(password: str, other: str) -> None:
    line = hash_password(password)
    assert verify_password(password, line)
    assert verify_password(other, line) == (other == password)
    assert hash_password(password) != line  # another salt


def test_who_is_let_in(file: Path) -> None:
    accounts = Accounts(file)
    assert accounts.check("ana", "the password of ana")
    assert not accounts.check("ana", "the password of bob")
    assert not accounts.check("eve", "the password of ana")
    assert "ana" in accounts and "eve" not in accounts


def test_the_file_holds_no_password_and_is_its_owners(file: Path) -> None:
    assert "password" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [line.split(":")[0] for line in file.read_text().splitlines()] == ["ana", "bob"]


def test_keys(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    accounts = Accounts(file)  # a running server
    keys = []
    for name in ("ana", "bob", "ana"):
        run(monkeypatch, file, "key", name)
        keys.append(capsys.readouterr().out.splitlines()[-1])
    assert [accounts.user_of(key) for key in keys] == ["ana", "bob", "ana"]
    assert len({*keys}) == 3 and not any(key in file.read_text() for key in keys)
    assert accounts.user_of(keys[0][:-1]) is None and accounts.user_of("") is None
    assert accounts.check("ana", "the password of ana")


def test_a_change_is_seen_without_a_restart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Accounts(file)
    run(monkeypatch, file, "add", "ana", password="another password")
    assert accounts.check("ana", "another password") and not accounts.check("ana", "the password of ana")
    run(monkeypatch, file, "remove", "ana")
    assert "ana" not in accounts and not accounts.check("ana", "another password")
    assert accounts.check("bob", "the password of bob")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ana:plain", "line 3 is no account"),
        ("a b:scrypt$16384$8$1$00$00", "line 3 is no account"),
        ("bob:scrypt$16384$8$1$00$00", "line 3: bob has an account above"),
    ],
)
def test_a_line_that_is_none_is_named(file: Path, line: str, words: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(InputError, match=words):
        Accounts(file)


@pytest.mark.parametrize(
    ("arguments", "password", "words"),
    [
        (["add", "eve"], "short", "has 5 characters"),
        (["add", "eve/.."], "long enough", "no name of a user"),
        (["key", "eve"], "", "has no account eve"),
        (["remove", "eve"], "", "has no account eve"),
    ],
)
def test_what_the_commands_refuse(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    password: str,
    words: str,
) -> None:
    before = file.read_bytes()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    with pytest.raises(SystemExit) as end:
        main(["accounts", *arguments, "--auth", str(file)])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert file.read_bytes() == before
