"""Who the other side of a process is: taken from who calls, never from what a message says."""

import dataclasses

from contracts.callbacks import require_callback
from contracts.errors import UnknownProcessError
from contracts.processes import Caller, Counterparty, P


def counterparty_at(caller: Caller, callback_address: str) -> Counterparty:
    """Return the counterparty of a process that the caller begins.

    Raises:
        CallbackRefusedError: the callback address is not the caller's.
        MalformedMessageError: it is no address at all.
    """
    callback = require_callback(caller, callback_address)
    return Counterparty(
        participant_id=caller.participant_id, address=callback, public_key=caller.public_key, roles=caller.roles
    )


def as_last_seen(known: Counterparty, caller: Caller) -> Counterparty:
    """Return the counterparty with the key and the roles of the membership that it calls with now."""
    return dataclasses.replace(
        known, public_key=caller.public_key or known.public_key, roles=caller.roles or known.roles
    )


def require_party(found: P | None, caller: Caller, what: str) -> P:
    """Return a process to its counterparty.

    Raises:
        UnknownProcessError: there is none, or not with this caller; the two look the same on purpose.
    """
    if found is None or found.counterparty.participant_id != caller.participant_id:
        raise UnknownProcessError(f"there is no such {what}")
    return found
