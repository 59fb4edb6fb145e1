"""The one call that a sign-in makes: the code for tokens, at the endpoint that the operator typed."""

from collections.abc import Callable, Mapping

from connector.peers.client import PeerClient, PeerUnreachableError

_MAX_ANSWER = 256 * 1024
_SECONDS = 10.0


class _Unsigned:
    """A sign-in service is no participant: it gets the client's own credentials."""

    def authorization(self, audience: str) -> str:
        """Refuse to make a participant's header."""
        raise PeerUnreachableError("ours", f"a sign-in service is not called as a participant for {audience}")


def token_exchange(
    token_endpoints: frozenset[str],
) -> tuple[Callable[[str, Mapping[str, str], bytes], tuple[int, bytes]], Callable[[], None]]:
    """Return a function that posts a form to one of these endpoints and to nothing else, and one that closes it.

    What does not end in an answer counts as status 0, so that the person is told to try again.
    """
    client = PeerClient(issuer=_Unsigned(), permits=token_endpoints.__contains__)

    def exchange(url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            answer = client.request(
                "POST", url, audience=None, content=body, headers=headers, timeout=_SECONDS, max_bytes=_MAX_ANSWER
            )
        except PeerUnreachableError:
            return 0, b"{}"
        return answer.status, answer.body

    return exchange, client.close
