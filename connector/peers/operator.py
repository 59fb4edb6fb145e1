"""An operator's client of a participant's own management API; what the command line and the demo speak."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from connector.peers.client import PeerClient, PeerUnreachableError

_PATIENCE_SECONDS = 60.0
_AGAIN_SECONDS = 0.5


class OperatorError(Exception):
    """The participant said no, or is not there; the message is for the operator."""

    code = "operator"

    def __init__(self, message: str, *, status: int | None = None, problem: str | None = None) -> None:
        """Keep the HTTP ``status`` and the ``problem`` code of the answer, if there was one."""
        super().__init__(message)
        self.status = status
        self.problem = problem


class OperatorClient:
    """Calls one participant's API with a bearer token."""

    def __init__(self, base_url: str, token: str, *, seconds: float = 30.0) -> None:
        """Call ``base_url`` with ``token``; ``seconds`` limit one exchange."""
        self.base_url = base_url.rstrip("/")
        self._token = token
        self._seconds = seconds
        self._client = PeerClient(issuer=_Nobody(), permits=lambda url: url.startswith(self.base_url))

    def get(self, path: str) -> Any:
        """Return the JSON at ``path``.

        Raises:
            OperatorError: no answer, or a refusal.
        """
        return self._json("GET", path, None)

    def post(self, path: str, body: object | None = None) -> Any:
        """Post JSON and return the answer's.

        Raises:
            OperatorError: no answer, or a refusal.
        """
        return self._json("POST", path, {} if body is None else body)

    def get_bytes(self, path: str) -> bytes:
        """Return the raw bytes at ``path`` (up to a gibibyte)."""
        return self._send("GET", path, max_bytes=1 << 30)

    def post_bytes(self, path: str, data: bytes) -> Any:
        """Post raw bytes and return the answer's JSON."""
        return json.loads(self._send("POST", path, content=data) or b"null")

    def follow(self, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the server-sent events of ``path`` as (event, data) until the server ends the stream."""
        headers = {"authorization": f"Bearer {self._token}", "accept": "text/event-stream"}
        buffer = b""
        try:
            with self._client.stream(
                "GET", self.base_url + path, audience=None, headers=headers, timeout=86_400.0
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004
                    raise OperatorError(f"{self.base_url} answered {answer.status}", status=answer.status)
                for chunk in answer.chunks:
                    buffer += chunk
                    while b"\n\n" in buffer:
                        block, buffer = buffer.split(b"\n\n", 1)
                        event = _event(block.decode())
                        if event is not None:
                            yield event
        except PeerUnreachableError as error:
            raise OperatorError(f"{self.base_url} cannot be reached: {error}") from error

    def follow_job(self, job_id: str, patience: float = _PATIENCE_SECONDS) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield a job's events to its ``end``; a participant that goes away is asked again for ``patience`` seconds.

        Raises:
            OperatorError: it stayed away, or refuses.
        """
        seen, deadline = 0, None
        while True:
            try:
                for code, data in self.follow(f"/management/jobs/{job_id}/events?after={seen}"):
                    seen, deadline = max(seen, int(data.get("number", 0))), None
                    yield code, data
                    if code == "end":
                        return
            except OperatorError as error:
                if error.status is not None or (deadline is not None and time.monotonic() > deadline):
                    raise
            deadline = deadline or time.monotonic() + patience
            time.sleep(_AGAIN_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _json(self, method: str, path: str, body: object | None) -> Any:
        return json.loads(self._send(method, path, body=body) or b"null")

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: object | None = None,
        content: bytes | None = None,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> bytes:
        # A body without a type passes for JSON, whose texts are looked at.
        kind = {} if content is None else {"content-type": "application/octet-stream"}
        try:
            answer = self._client.request(
                method,
                self.base_url + path,
                audience=None,
                json=body,
                content=content,
                headers={"authorization": f"Bearer {self._token}", **kind},
                timeout=self._seconds,
                max_bytes=max_bytes,
            )
        except PeerUnreachableError as error:
            raise OperatorError(f"{self.base_url} cannot be reached: {error}") from error
        if answer.status < 300:  # noqa: PLR2004
            return answer.body
        raise _refusal(self.base_url, answer.status, answer.body)


class _Nobody:
    """Signs nothing: an operator's requests carry the operator's own token."""

    def authorization(self, audience: str) -> str:
        raise OperatorError(f"an operator does not call participants ({audience})")


def _refusal(base_url: str, status: int, body: bytes) -> OperatorError:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    detail = problem.get("detail") if isinstance(problem, Mapping) else None
    code = problem.get("code") if isinstance(problem, Mapping) else None
    text = f"{detail}" if detail else f"{base_url} answered {status}"
    errors = problem.get("errors") if isinstance(problem, Mapping) else None
    if errors:
        text += f" ({json.dumps(errors)[:300]})"
    return OperatorError(text, status=status, problem=code)


def _event(block: str) -> tuple[str, Mapping[str, Any]] | None:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
    if "data" not in fields:
        return None
    data = json.loads(fields["data"])
    return fields.get("event", "message"), data | {"number": int(fields["id"])} if "id" in fields else data
