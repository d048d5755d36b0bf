"""Who may do what in a preference store: names, tokens, roles.

A token is 128 random bits, shown once and kept only as its SHA-256: at that length no salt and no slow hash is needed.
Names without a token belong to whoever says them; that is enough on one's own machine.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from core.errors import UserError
from core.preferences import Store

# What each role may do; each includes the one before it. An annotator labels, a reviewer also sees how labeling goes,
# an admin also changes projects and people and takes labels out.
ROLES = ("annotator", "reviewer", "admin")
MAX_NAME_LENGTH = 60


@dataclass(frozen=True)
class Person:
    """An annotator of the store. `has_token` says that the name alone does not let anybody in."""

    name: str
    role: str
    has_token: bool
    created: float

    def may(self, role: str) -> bool:
        """Whether this person's role includes `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


def check_name(name: str) -> str:
    """An annotator's name, trimmed.

    Raises: UserError for names that are empty, longer than 60 characters, or hold control characters.
    """
    name = " ".join(name.split())
    if not name:
        raise UserError("please give a name; your votes are stored under it")
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise UserError(f"a name has at most {MAX_NAME_LENGTH} printable characters")
    return name


def invite(store: Store, name: str, role: str = "annotator") -> str:
    """Give a new or known annotator a role and a new token; an older token of theirs ends.

    Returns: the token. It is not kept and cannot be shown again.
    Raises: UserError for an unusable name or an unknown role.
    """
    name = check_name(name)
    if role not in ROLES:
        raise UserError(f"role {role!r} is unknown; known: {', '.join(ROLES)}")
    token = secrets.token_urlsafe(16)
    with store.transaction() as connection:
        connection.execute(
            "INSERT INTO annotator (name, created) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, time.time())
        )
        connection.execute("UPDATE annotator SET token_hash = ?, role = ? WHERE name = ?", (_hashed(token), role, name))
        store.log_event("invited", f"role {role}", name)
    return token


def enter(store: Store, name: str, token: str, *, open_to_names: bool) -> Person:
    """The person behind a name and a token.

    Args: open_to_names: let in a name that has no token, known or new, when none is given: a token beside a misspelt
        name shall not make a new person.
    Raises: UserError when the token is wrong or missing. The same words for an unknown name as for a wrong token.
    """
    name = check_name(name)
    with store.snapshot() as connection:
        row = connection.execute("SELECT role, token_hash, created FROM annotator WHERE name = ?", (name,)).fetchone()
    role, token_hash, created = row or ("annotator", None, time.time())
    if token_hash is None:
        if open_to_names and not token:
            return Person(name, "annotator", False, created)
    elif hmac.compare_digest(token_hash, _hashed(token)):
        return Person(name, role, True, created)
    raise UserError(f"name {name!r} and this token do not belong together; use the link you were given")


def people(store: Store) -> list[Person]:
    """Everybody the store knows, by name."""
    with store.snapshot() as connection:
        rows = connection.execute("SELECT name, role, token_hash, created FROM annotator ORDER BY name").fetchall()
    return [Person(name, role, token_hash is not None, created) for name, role, token_hash, created in rows]


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
