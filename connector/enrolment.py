"""Making a participant's folder, and a data-space authority that admits participants."""

import dataclasses
import json
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from connector.identity.errors import IdentityFileError
from connector.identity.files import read_authority, read_signer, read_text, write_authority, write_key, write_secret
from connector.identity.membership import (
    Authority,
    PeerIdentity,
    authority_id,
    did_web,
    issue_membership,
    read_request,
    request_membership,
)
from connector.settings import FILE_NAME
from policies.signing import Signer

AUTHORITY_KEY = "authority.key"
AUTHORITY_FILE = "authority.json"
REQUEST_FILE = "membership-request.jwt"
MEMBERSHIP_FILE = "membership.jwt"
MEMBERSHIP_LASTS = timedelta(days=365)

Role = Literal["ai-provider", "data-provider"]

_TEMPLATE = """\
# One Orchard participant. Paths are relative to this file; `orchard check-config` explains what is wrong.

[participant]
id = {id}
name = {name}
organisation = {organisation}
role = {role}

[server]
host = {host}
port = {port}
public_url = {public_url}

[storage]
# PostgreSQL: "postgresql+psycopg://user@host/name"; a password belongs in ORCHARD_STORAGE__DATABASE_URL.
database_url = {database_url}
blobs = "blobs"

[broker]
# Valkey or Redis, for learning work only; leave empty where no worker runs.
url = {broker_url}
prefix = {prefix}

[identity]
key = "identity.key"
membership = "membership.jwt"
authority = "authority.json"

[management]
token_file = "operator.token"

[consent]
# Whose tokens speak for learners: an OIDC issuer and the file of its keys.
# issuer = "https://lms.example"
# jwks = "lms-keys.json"
# Where learners sign in to their pages (below /my); the issuer must know the URL of /my/signed-in.
# client_id = "orchard"
# client_secret_file = "lms-client.secret"
# authorization_endpoint = "https://lms.example/authorize"
# token_endpoint = "https://lms.example/token"
pseudonym_key = "pseudonym.key"

[catalog]
datasets = "datasets"
# How often the catalogs of the participants we know are read.
crawl_seconds = 300

[negotiations]
# "automatic" agrees to what equals a published offer and its policy allows; "manual" waits for an operator.
approval = "automatic"

[sandbox]
require = true

[learning]
# "automatic" approves every plan that the contract allows; "manual" waits for an operator.
approval = "manual"

[peers]
# Participants to get to know at the start, by public URL.
addresses = []
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What an operator says about a new participant. ``public_url`` is the URL others reach it by."""

    name: str
    organisation: str
    role: Role
    port: int
    host: str = "127.0.0.1"
    public_url: str = ""
    database_url: str = "sqlite:///orchard.sqlite"
    broker_url: str = ""
    broker_prefix: str = ""

    @property
    def address(self) -> str:
        """The public base URL: the one given, or this host and port."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")


def create_participant(folder: Path, enrolment: Enrolment, authority: Path, now: datetime) -> Path:
    """Make a participant's folder: configuration, keys, operator token, authority file; return its membership request.

    Args:
        folder: where; made if missing. A folder that holds a participant is refused.
        enrolment: who the participant is.
        authority: the data space's public authority file, copied into the folder.
        now: the time, noted in the request.

    Raises:
        IdentityFileError: the folder holds a participant already, or the authority file is missing or malformed.
    """
    trusted = read_authority(authority)
    file = folder / FILE_NAME
    if file.exists():
        raise IdentityFileError(f"{file}: exists already; this folder is a participant")
    for part in (folder, folder / "datasets", folder / "blobs"):
        part.mkdir(parents=True, exist_ok=True)
    participant_id = did_web(enrolment.address)
    write_key(folder / "identity.key")
    write_secret(folder / "operator.token", (secrets.token_urlsafe(32) + "\n").encode())
    write_secret(folder / "pseudonym.key", (secrets.token_hex(32) + "\n").encode())
    write_authority(folder / AUTHORITY_FILE, trusted)
    signer = read_signer(folder / "identity.key", participant_id)
    identity = PeerIdentity(
        participant_id=participant_id,
        name=enrolment.name,
        organisation=enrolment.organisation,
        address=enrolment.address,
        public_key=signer.public_key,
        roles=(enrolment.role,),
    )
    request = folder / REQUEST_FILE
    request.write_text(request_membership(signer, identity, now) + "\n", encoding="utf-8")
    # Last, so that a folder with a configuration is a whole one.
    file.write_text(_configuration(enrolment, participant_id), encoding="utf-8")
    return request


def create_authority(folder: Path) -> Authority:
    """Make a data-space authority in ``folder``: its private key, and the public file participants are given.

    Raises:
        IdentityFileError: there is one already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_key(folder / AUTHORITY_KEY)
    public_key = read_signer(folder / AUTHORITY_KEY, "").public_key
    authority = Authority(id=authority_id(public_key), public_key=public_key)
    write_authority(folder / AUTHORITY_FILE, authority)
    return authority


def admit_request(
    authority_folder: Path, request: Path, output: Path, now: datetime, *, valid: timedelta = MEMBERSHIP_LASTS
) -> PeerIdentity:
    """Sign the membership credential that a request asks for, and return whom it admits.

    Raises:
        IdentityFileError: the authority's key or the request cannot be read.
        UnauthorizedError: the asker does not hold the key it wants bound.
    """
    signer = _authority_signer(authority_folder)
    identity = read_request(read_text(request))
    output.write_text(issue_membership(signer, identity, now, valid=valid) + "\n", encoding="utf-8")
    return identity


def _authority_signer(folder: Path) -> Signer:
    return read_signer(folder / AUTHORITY_KEY, read_authority(folder / AUTHORITY_FILE).id)


def _configuration(enrolment: Enrolment, participant_id: str) -> str:
    own_prefix = "orchard." + "".join(letter if letter.isalnum() else "-" for letter in participant_id)[:80]
    values = {
        "id": participant_id,
        "name": enrolment.name,
        "organisation": enrolment.organisation,
        "role": enrolment.role,
        "host": enrolment.host,
        "public_url": enrolment.address,
        "database_url": enrolment.database_url,
        "broker_url": enrolment.broker_url,
        "prefix": enrolment.broker_prefix or own_prefix,
    }
    # A JSON string without escapes beyond JSON's own is a TOML basic string.
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return _TEMPLATE.format(**quoted, port=enrolment.port)
