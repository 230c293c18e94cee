"""Accounts of the server, one line a user: `name:scrypt$n$r$p$salt$hash`, and `:sha256,...` of the API keys.

Passwords are kept as scrypt makes them (RFC 7914), keys as their sha256: a key is 32 random bytes, which no
slow hash protects better. A running server sees a change of the file at the next request.
"""

import getpass
import hashlib
import hmac
import os
import re
import secrets
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from extraction.files import write_atomically
from malmm.chat.user_name import USER_NAME, check_user
from malmm.errors import InputError

COST = (2**14, 8, 1)  # n, r, p: 16 MiB and some 50 ms
SHORTEST = 8  # characters of a password


@dataclass(frozen=True)
class Account:
    """One user: the password's scrypt line and the sha256 of each key."""

    name: str
    password: str
    keys: tuple[str, ...] = ()

    def line(self) -> str:
        """As it stands in the file."""
        return ":".join((self.name, self.password, *filter(None, [",".join(self.keys)])))


class Accounts:
    """The accounts of a file, read anew where it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file is missing or a line is none of an account."""
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._accounts: dict[str, Account] = {}
        self._nobody = hash_password(secrets.token_hex())
        self._read()

    def __contains__(self, name: str) -> bool:
        return name in self._read()

    def __len__(self) -> int:
        return len(self._read())

    def check(self, name: str, password: str) -> bool:
        """Whether the password is the user's; takes as long for a name that is unknown."""
        account = self._read().get(name)
        right = verify_password(password, account.password if account else self._nobody)
        return right and account is not None

    def user_of(self, key: str) -> str | None:
        """Whose API key it is; every key of the file is compared, in constant time."""
        found, digest = None, _digest(key)
        for account in self._read().values():
            for known in account.keys:
                if hmac.compare_digest(known, digest):
                    found = account.name
        return found

    def _read(self) -> dict[str, Account]:
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._accounts, self._seen = read_accounts(self.path), seen
        except OSError as error:
            raise InputError(
                f"there is no file of accounts {self.path}: make one with "
                f"`python -m malmm accounts add NAME --auth {self.path}`"
            ) from error
        return self._accounts


def read_accounts(path: Path) -> dict[str, Account]:
    """Accounts by name; InputError names a line that cannot be read."""
    accounts: dict[str, Account] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        password, _, keys = rest.partition(":")
        if not USER_NAME.fullmatch(name) or not re.fullmatch(r"scrypt(\$\d+){3}(\$[0-9a-f]+){2}", password):
            raise InputError(
                f"{path}, line {number} is no account: "
                f"make it with `python -m malmm accounts add NAME --auth {path}`"
            )
        if name in accounts:
            raise InputError(f"{path}, line {number}: {name} has an account above, so remove one of the two")
        accounts[name] = Account(name, password, tuple(filter(None, keys.split(","))))
    return accounts


def write_accounts(path: Path, accounts: dict[str, Account]) -> None:
    """Write them so that only the file's owner can read it."""

    def write(file: BinaryIO) -> None:
        os.fchmod(file.fileno(), 0o600)
        file.write("".join(f"{account.line()}\n" for account in accounts.values()).encode())

    try:
        write_atomically(path, write)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): name another file") from error


def hash_password(password: str) -> str:
    """`scrypt$n$r$p$salt$hash`, salt and hash in hexadecimal."""
    salt = secrets.token_bytes(16)
    n, r, p = COST
    return f"scrypt${n}${r}${p}${salt.hex()}${_scrypt(password, salt, n, r, p).hex()}"


def verify_password(password: str, line: str) -> bool:
    """Whether `hash_password` made the line from this password."""
    _, n, r, p, salt, expected = line.split("$")
    found = _scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, bytes.fromhex(expected))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    text = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


# -- the commands of `python -m malmm accounts` ------------------------------------------------------


def add_account(path: Path, name: str) -> str:
    """Make an account, or give it another password; the password is asked for. -> what was done."""
    check_user(name)
    accounts = read_accounts(path) if path.exists() else {}
    password = _ask_password()
    old = accounts.get(name)
    accounts[name] = (
        replace(old, password=hash_password(password)) if old else Account(name, hash_password(password))
    )
    write_accounts(path, accounts)
    return f"{name} has {'another password' if old else 'an account'} in {path}"


def add_key(path: Path, name: str) -> str:
    """Make an API key for a user -> the key, which is stored nowhere."""
    account, accounts = _account(path, name)
    key = f"malmm-{secrets.token_urlsafe(32)}"
    accounts[name] = replace(account, keys=(*account.keys, _digest(key)))
    write_accounts(path, accounts)
    return key


def remove_account(path: Path, name: str) -> str:
    """Remove an account with its keys; what the user's memory holds stays in the store."""
    _, accounts = _account(path, name)
    del accounts[name]
    write_accounts(path, accounts)
    return f"{name} has no account in {path} any more; the memories stay in the store"


def _account(path: Path, name: str) -> tuple[Account, dict[str, Account]]:
    accounts = read_accounts(path) if path.exists() else {}
    if name not in accounts:
        raise InputError(f"{path} has no account {name}: add it with `python -m malmm accounts add {name}`")
    return accounts[name], accounts


def _ask_password() -> str:
    """From the terminal, typed twice, or else the first line of the standard input."""
    if sys.stdin.isatty():
        password = getpass.getpass("password: ")
        if getpass.getpass("the same again: ") != password:
            raise InputError("the two passwords differ: try again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < SHORTEST:
        raise InputError(f"the password has {len(password)} characters: take at least {SHORTEST}")
    return password
