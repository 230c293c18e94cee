"""The names that users can have."""

import re

from malmm.errors import InputError

USER_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


def check_user(name: str) -> str:
    """The name. Raises InputError for one that is none."""
    if not USER_NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a user: take 1 to 64 letters, digits, and any of . _ - @")
    return name
