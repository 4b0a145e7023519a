"""The memory of who is who: claims that were given out, keys of devices, certificates.

Every call is one transaction. What is asked twice, because an answer was lost on the way,
is answered twice: a claim that was used is good again for the same key of the same device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from wherry.identity.authority import Issued
from wherry_contract.errors import IdentityError, RolloutError

from . import database as db
from .engines import insert

_NUMBER: Final = "revocations"


@dataclass(frozen=True)
class Claim:
    """What a claim code stands for.

    Attributes:
        digest: of its secret.
        device: the id that it is for; "" leaves it to the device.
        again: whether a device that is enrolled may be enrolled anew, with another key.
        made_at: Unix seconds.
        expires: likewise; after it nobody new gets in by it.
        used_by: which device did; "" for none.
        fingerprint: of that device's key.
    """

    digest: str
    device: str
    family: str
    labels: Mapping[str, str]
    again: bool
    made_at: float
    expires: float
    used_by: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Identity:
    """Whose key is which.

    Attributes:
        fingerprint: SHA-256 of the public key (SubjectPublicKeyInfo, DER), hexadecimal.
        not_after: end of the newest certificate, Unix seconds.
        revoked_at: Unix seconds; 0 while it is good.
    """

    device: str
    fingerprint: str
    not_after: float
    revoked_at: float


@dataclass(frozen=True)
class Revoked:
    """What is no longer good.

    Attributes:
        serials: of certificates, hexadecimal.
        devices: ids whose identity was revoked.
        number: grows with each change.
    """

    serials: tuple[str, ...]
    devices: tuple[str, ...]
    number: int


class Registry:
    """Reads and writes it."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    def add_claims(self, claims: Iterable[Claim]) -> None:
        """Note claims whose codes are about to be given out."""
        rows = [claim.__dict__ | {"labels": dict(claim.labels)} for claim in claims]
        with self._database.writing() as connection:
            connection.execute(db.claim.insert(), rows)

    def claims(self) -> list[Claim]:
        """Every claim, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(db.claim).order_by(db.claim.c.made_at)).all()
        return [Claim(**row._asdict()) for row in rows]

    def use(self, digest: str, device: str, fingerprint: str, now: float) -> Claim:
        """Use a claim for a device's key; the same again changes nothing.

        Args:
            digest: of the claim's secret.
            device: the id that is asked for; "" for the one that the claim names.
            fingerprint: of the key.
            now: Unix seconds.

        Returns:
            The claim, with `used_by` and `fingerprint` set.

        Raises:
            IdentityError: I02, it cannot be used, or not for this.
            RolloutError: R08, the device is enrolled already.
        """
        which = db.claim.c.digest == digest
        with self._database.writing() as connection:
            row = connection.execute(sa.select(db.claim).where(which)).first()
            if row is None:
                raise IdentityError("I02", "the server does not know it")
            claim = Claim(**row._asdict())
            name = _name(claim, device)
            if claim.used_by:
                if (claim.used_by, claim.fingerprint) != (name, fingerprint):
                    raise IdentityError("I02", "another device or key has used it")
                return claim
            if now > claim.expires:
                raise IdentityError("I02", "it has expired")
            if not claim.again and _is_taken(connection, name):
                raise RolloutError("R08", name, cure="choose another id, or claim it with --again")
            values = {"used_by": name, "fingerprint": fingerprint}
            connection.execute(sa.update(db.claim).where(which).values(**values))
            return Claim(**(row._asdict() | values))

    def note(self, device: str, issued: Issued, now: float) -> bool:
        """Note a certificate; whatever the device had for another key is revoked.

        Returns:
            Whether anything was revoked, or a revoked device came back.
        """
        values = {
            "device": device,
            "fingerprint": issued.fingerprint,
            "not_after": issued.not_after,
            "revoked_at": 0.0,
        }
        others = (
            (db.certificate.c.device == device)
            & (db.certificate.c.fingerprint != issued.fingerprint)
            & (db.certificate.c.revoked_at == 0.0)
        )
        with self._database.writing() as connection:
            before = sa.select(db.identity).where(db.identity.c.device == device)
            known = connection.execute(before).first()
            gone = connection.execute(
                sa.update(db.certificate).where(others).values(revoked_at=now)
            ).rowcount
            connection.execute(
                insert(connection, db.identity)
                .values(**values)
                .on_conflict_do_update(index_elements=["device"], set_=values)
            )
            connection.execute(
                db.certificate.insert().values(serial=issued.serial, issued_at=now, **values)
            )
            changed = bool(gone or (known and known.revoked_at))
            if changed:
                _count(connection)
        return changed

    def revoke(self, device: str, now: float) -> Identity:
        """Revoke a device's identity and every certificate of it.

        Raises:
            RolloutError: R07, there is no such device or it has no identity.
        """
        held = sa.select(db.identity).where(db.identity.c.device == device)
        with self._database.writing() as connection:
            if connection.execute(held).first() is None:
                raise RolloutError("R07", f"{device} has no identity")
            for table in (db.identity, db.certificate):
                which = (table.c.device == device) & (table.c.revoked_at == 0.0)
                connection.execute(sa.update(table).where(which).values(revoked_at=now))
            _count(connection)
            return Identity(**connection.execute(held).one()._asdict())

    def identity(self, device: str) -> Identity | None:
        """A device's identity."""
        which = sa.select(db.identity).where(db.identity.c.device == device)
        with self._database.reading() as connection:
            row = connection.execute(which).first()
        return Identity(**row._asdict()) if row else None

    def identities(self) -> dict[str, Identity]:
        """Every identity, by device."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(db.identity)).all()
        return {row.device: Identity(**row._asdict()) for row in rows}

    def admits(self, device: str, serial: str) -> bool:
        """Whether a certificate was issued to a device here and is still good, dates apart."""
        column = db.certificate.c
        which = sa.select(column.revoked_at).where(
            (column.serial == serial) & (column.device == device)
        )
        with self._database.reading() as connection:
            return connection.scalar(which) == 0.0

    def revoked(self) -> Revoked:
        """Everything that is no longer good."""
        gone = sa.select(db.certificate.c.serial).where(db.certificate.c.revoked_at > 0)
        who = sa.select(db.identity.c.device).where(db.identity.c.revoked_at > 0)
        count = sa.select(db.meta.c.value).where(db.meta.c.name == _NUMBER)
        with self._database.reading() as connection:
            return Revoked(
                tuple(connection.scalars(gone.order_by(db.certificate.c.serial))),
                tuple(connection.scalars(who.order_by(db.identity.c.device))),
                int(connection.scalar(count) or 0),
            )


def _name(claim: Claim, device: str) -> str:
    if claim.device and device not in ("", claim.device):
        raise IdentityError("I02", f"it is for {claim.device}")
    name = claim.device or device
    if not name:
        cure = "say --device ID"
        raise IdentityError("I02", "neither the claim nor the device says an id", cure=cure)
    return name


def _is_taken(connection: Any, name: str) -> bool:
    """Whether a device is enrolled, or another claim is being used for its id right now."""
    known = sa.select(db.device.c.id).where(db.device.c.id == name)
    used = sa.select(db.claim.c.digest).where(db.claim.c.used_by == name)
    return bool(connection.scalar(known) or connection.scalar(used))


def _count(connection: Any) -> None:
    row = insert(connection, db.meta).values(name=_NUMBER, value="1")
    more = {"value": sa.cast(sa.cast(db.meta.c.value, sa.Integer) + 1, sa.String)}
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=more))
