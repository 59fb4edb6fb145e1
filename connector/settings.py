"""One participant's configuration: ``orchard.toml`` in its folder, read once, frozen.

Paths and SQLite files are relative to the file. Any key can be overridden by an environment variable
``ORCHARD_<SECTION>__<KEY>`` (for secrets such as ``ORCHARD_STORAGE__DATABASE_URL``). Unknown sections and keys are
refused, and everything wrong is said at once. This module is the only reader of the environment.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

FILE_NAME = "orchard.toml"
_ENVIRONMENT = re.compile(r"ORCHARD_([A-Z]+)__([A-Z_]+)")
_SQLITE_FILE = "sqlite:///"


class SettingsError(Exception):
    """The configuration cannot be used; the operator's to mend. ``problems`` holds one sentence each."""

    code = "configuration"

    def __init__(self, problems: Iterable[str]) -> None:
        """Collect everything that is wrong."""
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    return Path(folder, path)


def _sqlite_beside_the_file(url: str, info: ValidationInfo) -> str:
    if url.startswith(_SQLITE_FILE) and url != _SQLITE_FILE + ":memory:":
        return _SQLITE_FILE + str(_beside_the_file(Path(url.removeprefix(_SQLITE_FILE)), info))
    return url


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http or https URL without query")
    return url.rstrip("/")


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment:
        raise ValueError("must be an http or https URL")
    return url


LocalPath = Annotated[Path, AfterValidator(_beside_the_file)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
DatabaseUrl = Annotated[str, AfterValidator(_sqlite_beside_the_file)]
Text = Annotated[str, Field(min_length=1, max_length=500)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        secret = {name for name, field in type(self).model_fields.items() if _is_secret(field.json_schema_extra)}
        for name, value in super().__repr_args__():
            yield name, "***" if name in secret and value else value


def _is_secret(extra: object) -> bool:
    return isinstance(extra, Mapping) and bool(extra.get("secret"))


def _secret(default: str) -> Any:
    return Field(default, json_schema_extra={"secret": True})


class Participant(_Section):
    """Who this participant is, as its membership credential says."""

    id: Text
    name: Text
    organisation: Text
    role: Literal["ai-provider", "data-provider"]


class Server(_Section):
    """Where the API process listens, and under which URL others reach it."""

    host: Text = "127.0.0.1"
    port: int = Field(ge=0, le=65535)
    public_url: BaseUrl
    log: Literal["console", "json"] = "console"
    certificate: LocalPath | None = None
    certificate_key: LocalPath | None = None


class Storage(_Section):
    """The database and the folder of blobs."""

    database_url: DatabaseUrl = _secret("sqlite:///orchard.sqlite")
    blobs: LocalPath = Path("blobs")


class Broker(_Section):
    """The doorbell of learning work; negotiations do without. Without a URL no worker runs."""

    url: str = _secret("")
    prefix: str = Field("orchard", pattern=r"^[A-Za-z0-9_.:\-]{1,100}$")


class Identity(_Section):
    """The participant's key, its membership credential and the data space's authority."""

    key: LocalPath = Path("identity.key")
    membership: LocalPath = Path("membership.jwt")
    authority: LocalPath = Path("authority.json")


class SignIn(_Section):
    """An OIDC issuer with its keys; with a client id and the two endpoints, people sign in to the pages there too.

    The issuer sends browsers back to ``{public_url}/my/signed-in`` (learners) or ``{public_url}/operate/signed-in``.
    Without ``client_secret_file`` we are a public client. Nothing is discovered: all of it is typed by the operator.
    """

    issuer: str | None = None
    jwks: LocalPath | None = None
    client_id: Text | None = None
    client_secret_file: LocalPath | None = None
    authorization_endpoint: EndpointUrl | None = None
    token_endpoint: EndpointUrl | None = None
    sign_in_scope: Text = "openid profile"

    @property
    def missing_for_sign_in(self) -> tuple[str, ...]:
        """The keys that pages need beside those that are given; all of them when people do not sign in here."""
        wanted = ("issuer", "jwks", "client_id", "authorization_endpoint", "token_endpoint")
        return tuple(name for name in wanted if getattr(self, name) is None)


class Management(SignIn):
    """Who operates: the token in ``token_file`` and, if named, an OIDC issuer with its keys."""

    token_file: LocalPath = Path("operator.token")


class Consent(SignIn):
    """Whose tokens speak for learners, where they sign in, and the secret behind their pseudonyms.

    ``service`` is another consent service (Prometheus-X consent manager) that is asked about the consents it keeps;
    ``service_key`` its public key (PEM), for exchanges that it drives below ``/prometheus-x``.
    """

    pseudonym_key: LocalPath = Path("pseudonym.key")
    service: BaseUrl | None = None
    service_token_file: LocalPath | None = None
    service_key: LocalPath | None = None


class Catalog(_Section):
    """The folder of dataset files (view, policy and notice of each), and how often peers' catalogs are read."""

    datasets: LocalPath = Path("datasets")
    crawl_seconds: float = Field(300.0, ge=1.0)


class Negotiations(_Section):
    """Who agrees to what a peer asks for: the rules (what equals a published offer), or an operator each time."""

    approval: Literal["automatic", "manual"] = "automatic"


class Sandbox(_Section):
    """How a training step is shut in. ``require``: refuse to train where a rung of the ladder is missing."""

    require: bool = True
    socket: LocalPath | None = None
    memory_mb: int = Field(4096, ge=64)
    seconds: float = Field(600.0, gt=0)


class Learning(_Section):
    """Who approves a training plan, and where seats are served when not by this participant's own API."""

    approval: Literal["automatic", "manual"] = "manual"
    seat_addresses: tuple[BaseUrl, ...] = ()


class Peers(_Section):
    """Participants to know from the start, by address, and how to reach any of them."""

    addresses: tuple[BaseUrl, ...] = ()
    ca_file: LocalPath | None = None
    connect_seconds: float = Field(5.0, gt=0)
    read_seconds: float = Field(30.0, gt=0)


class Settings(_Section):
    """The whole configuration of one participant."""

    participant: Participant
    server: Server
    storage: Storage = Storage()
    broker: Broker = Broker()
    identity: Identity = Identity()
    management: Management = Management()
    consent: Consent = Consent()
    catalog: Catalog = Catalog()
    negotiations: Negotiations = Negotiations()
    sandbox: Sandbox = Sandbox()
    learning: Learning = Learning()
    peers: Peers = Peers()
    file: Path = Field(exclude=True)

    @property
    def folder(self) -> Path:
        """The participant's folder."""
        return self.file.parent

    @classmethod
    def load(cls, path: Path, environment: Mapping[str, str] | None = None) -> Self:
        """Read the configuration at ``path``: the file or the folder that holds ``orchard.toml``.

        Args:
            path: file or folder.
            environment: overrides; the process's own environment when not given.

        Raises:
            SettingsError: unreadable, not TOML, or with any unknown, missing or wrong key.
        """
        file = Path(path, FILE_NAME).absolute() if path.is_dir() else path.absolute()
        text = _read(file)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError([f"{file}: is not TOML: {error}"]) from error
        _override(document, os.environ if environment is None else environment)
        for section in set(cls.model_fields) - {"file"}:
            document.setdefault(section, {})
        if "file" in document:
            raise SettingsError([f"{file}{_line(text, '', 'file')}: unknown section or key 'file'"])
        try:
            return cls.model_validate(document | {"file": file}, context={"folder": file.parent})
        except ValidationError as error:
            raise SettingsError(_sentence(one, file, text) for one in error.errors()) from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError([f"{file}: does not exist; make a participant with: orchard init {file.parent}"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file}: cannot be read"]) from error


def _override(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        found = _ENVIRONMENT.fullmatch(name)
        if found is None:
            continue
        section = document.setdefault(found[1].lower(), {})
        if isinstance(section, dict):
            section[found[2].lower()] = value


def _sentence(error: ErrorDetails, file: Path, text: str) -> str:
    section = str(error["loc"][0])
    key = str(error["loc"][1]) if len(error["loc"]) > 1 else ""
    where = f"{file}{_line(text, section, key)}"
    if error["type"] == "extra_forbidden":
        return f"{where}: {_unknown(section, key)}"
    if error["type"] == "missing":
        return f"{where}: [{section}] needs the key '{key}'"
    problem = error["msg"].removeprefix("Value error, ")
    return f"{where}: [{section}] {key}: {problem[:1].lower()}{problem[1:]}"


def _unknown(section: str, key: str) -> str:
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "file"}
    if not key:
        return f"unknown section [{section}]{_nearest(section, sections)}"
    own = getattr(sections.get(section), "model_fields", {})
    hint = _nearest(key, own)
    if not hint:
        elsewhere = [name for name, model in sections.items() if key in getattr(model, "model_fields", {})]
        hint = f"; it belongs in [{elsewhere[0]}]" if elsewhere else f"; [{section}] has: {', '.join(own)}"
    return f"unknown key '{key}' in [{section}]{hint}"


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def _line(text: str, section: str, key: str) -> str:
    current, start = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([\w\-]+)\s*\]", line)
        if header:
            current = header[1]
            start = number if current == section and start is None else start
        if key and current == section and re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*=", line):
            return f":{number}"
        if not key and not current and re.match(rf"\s*{re.escape(section)}\s*[=.]", line):
            return f":{number}"
    return f":{start}" if start is not None else ""
