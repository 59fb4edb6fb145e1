"""What an operator must mend before a participant can serve: everything at once, one sentence each."""

import errno
import functools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from connector.foundation import lay_foundation
from connector.identity.errors import IdentityFileError, UnauthorizedError
from connector.identity.files import read_secret
from connector.identity.operators import read_key_set
from connector.settings import Settings
from connector.storage.migrate import DatabaseUnavailableError, SchemaVersionError
from connector.wiring import broker_probe

_OURS = (IdentityFileError, UnauthorizedError, SchemaVersionError, DatabaseUnavailableError)


def problems(settings: Settings) -> list[str]:
    """Return every problem found with the files, keys, database, broker and address that ``settings`` name."""
    return [
        problem
        for check in (_foundation, _secrets, _key_sets, _folders, _broker, _address)
        for problem in check(settings)
    ]


def _foundation(settings: Settings) -> Iterator[str]:
    try:
        lay_foundation(settings).close()
    except UnauthorizedError as error:
        yield f"{settings.identity.membership}: {error}"
    except _OURS as error:
        yield str(error)


def _secrets(settings: Settings) -> Iterator[str]:
    for path in (settings.management.token_file, settings.consent.pseudonym_key):
        yield from _tried(functools.partial(read_secret, path))


def _key_sets(settings: Settings) -> Iterator[str]:
    for section, given in (("management", settings.management), ("consent", settings.consent)):
        if (given.issuer is None) != (given.jwks is None):
            yield f"{settings.file}: [{section}] issuer and jwks are needed together"
        if given.jwks is not None:
            yield from _tried(functools.partial(read_key_set, given.jwks))
        if given.client_id is not None and given.missing_for_sign_in:
            missing = ", ".join(given.missing_for_sign_in)
            yield f"{settings.file}: [{section}] client_id: signing in to the pages also needs {missing}"
        if given.client_secret_file is not None:
            yield from _tried(functools.partial(read_secret, given.client_secret_file))


def _folders(settings: Settings) -> Iterator[str]:
    for path in (settings.storage.blobs, settings.catalog.datasets):
        if not path.is_dir():
            yield f"{path}: is not a folder; make it"
    certificates = (settings.server.certificate, settings.server.certificate_key)
    if certificates.count(None) == 1:
        yield f"{settings.file}: [server] certificate and certificate_key are needed together"
    for file in (*certificates, settings.peers.ca_file):
        if file is not None and not Path(file).is_file():
            yield f"{file}: does not exist"


def _broker(settings: Settings) -> Iterator[str]:
    probe = broker_probe(settings)
    if probe is not None:
        try:
            probe.check()
        except OSError:
            yield "the broker named in [broker] url cannot be reached; start it, or leave url empty where no worker runs"


def _address(settings: Settings) -> Iterator[str]:
    try:
        listen(settings).close()
    except AddressInUseError as error:
        yield str(error)


class AddressInUseError(Exception):
    """The configured host and port cannot be listened on; the operator's to mend."""

    code = "address-in-use"


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket on the configured host and port.

    Raises:
        AddressInUseError: another process has it, or the host is not ours.
    """
    host, port = settings.server.host, settings.server.port
    try:
        return socket.create_server((host, port), backlog=2048, reuse_port=False)
    except OSError as error:
        reason = (
            "is in use by another process" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        )
        raise AddressInUseError(
            f"port {port} on {host} {reason}; stop it or change [server] port in {settings.file}"
        ) from error


def _tried(work: Callable[[], object]) -> Iterator[str]:
    try:
        work()
    except IdentityFileError as error:
        yield str(error)
