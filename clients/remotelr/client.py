"""The client for a custom training loop: `Client` connects to the service, `Run` is one training job.

    with Client("http://127.0.0.1:8000") as client:
        run = client.run("mnist-7", policy={"type": "reduce_on_plateau", "patience": 3}, initial_learning_rate=0.01)
        decision = run.begin(epoch=0)
        while decision.action == "continue" and decision.epoch < 20:
            val_loss = train_one_epoch(decision.learning_rate)
            decision = run.report(decision.epoch, {"val_loss": val_loss})
        run.finish()

Every call returns the service's answer or raises ServiceUnreachable or ServiceRefused; within its time budget it
retries what may succeed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from remotelr._http import requests, responses
from remotelr._http.caller import Service
from remotelr._http.credentials import address, bearer
from remotelr._http.transport import HttpTransport, Transport
from remotelr.errors import ServiceRefused
from remotelr.rules import Policy
from remotelr.rules.run.model import FinalStatus
from remotelr.rules.transitions.lifecycle import describe_difference
from remotelr.run import PAGE, Run, policy_document

__all__ = ["Client", "FinalStatus", "OnConflict", "Run"]

OnConflict = Literal["error", "keep", "replace", "restart"]


class Client:
    """A RemoteLR service.

    >>> from remotelr.testing import InMemoryService
    >>> service = InMemoryService()
    >>> with Client(service.url, transport=service) as client:
    ...     run = client.run("mnist-7", policy={"type": "cosine", "decay_steps": 20}, initial_learning_rate=0.1)
    ...     [each.key for each in client.runs()]
    ['mnist-7']
    >>> client.get_run("mnist-7").decision.learning_rate
    0.1

    url: its address, `http://127.0.0.1:8000`.
    timeout_s: strict budget in seconds of one call with all its tries and pauses, > 0.
    token: sent with every request; by default `REMOTELR_TOKEN`, or the content of the file `REMOTELR_TOKEN_FILE`.
        Over plain http it goes only to this machine, unless `allow_http` (or `REMOTELR_ALLOW_HTTP=1`) says that the
        network is trusted.
    verify: a file or folder of certificates to trust instead of the default ones, or an `ssl.SSLContext`; False
        trusts any server, with a warning.
    headers: sent with every request. proxy, trust_env: as in httpx.
    transport: sends the requests instead of HTTP, for tests.

    A client may be shared between threads. It connects at its first call; as a context manager it closes its
    connections at the end.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        token: str | None = None,
        allow_http: bool = False,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        verify: Any = True,
        trust_env: bool = True,
        transport: Transport | None = None,
    ) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be a number of seconds > 0, got {timeout_s!r}")
        self.url = address(url)
        self.timeout_s = timeout_s
        if transport is None:
            secret = bearer(url, token, allow_http=allow_http)
            if secret and url.startswith("http://"):
                # The token must stay on this machine, so no proxy of the environment may be used.
                trust_env = False
            headers = {**secret, **(headers or {})}
            transport = HttpTransport(url, headers=headers, proxy=proxy, verify=verify, trust_env=trust_env)
        self._service = Service(transport, timeout_s)

    def run(
        self,
        key: str,
        *,
        policy: Policy | Mapping[str, Any] | None = None,
        initial_learning_rate: float | None = None,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
        world_size: int | None = None,
        steps_per_epoch: int | None = None,
        total_epochs: int | None = None,
        on_conflict: OnConflict | None = None,
        timeout_s: float | None = None,
    ) -> Run:
        """The run with that key, created if it does not exist.

        policy: a document (`{"type": "cosine", …}`) or a policy of `remotelr.rules`. By default an existing run keeps
            its policy, and a new one has that of its experiment.
        initial_learning_rate: the trainer's rate; required if the policy names none.
        world_size: ranks of a new run; `begin` changes the number of an existing one.
        steps_per_epoch, total_epochs: lengths, if known.
        on_conflict: if the run exists with another policy: `error` (default), `keep` its own, `replace` it and keep
            the state, or `restart` with a new state.

        Raises ServiceRefused (`invalid_policy`, `policy_conflict`…) and ServiceUnreachable.
        """
        members = {
            "policy": None if policy is None else policy_document(policy),
            "initial_learning_rate": initial_learning_rate,
            "experiment": experiment,
            "tags": tags,
            "world_size": world_size,
            "steps_per_epoch": steps_per_epoch,
            "total_epochs": total_epochs,
            "on_conflict": on_conflict,
        }
        read = responses.of_run(key, responses.read_run)
        try:
            return Run(self._service, self._service.call(requests.put_run(key, members), read, timeout_s))
        except ServiceRefused as error:
            if error.code != "policy_conflict":
                raise
            detail = policy_conflict(key, error.members.get("difference"), error.detail)
            raise ServiceRefused(error.code, detail, error.status, error.members) from None

    def get_run(self, key: str, *, timeout_s: float | None = None) -> Run:
        """The existing run with that key. Raises ServiceRefused (`run_not_found`) and ServiceUnreachable."""
        read = responses.of_run(key, responses.read_run)
        return Run(self._service, self._service.call(requests.get_run(key), read, timeout_s))

    def runs(
        self, *, experiment: str | None = None, status: str | None = None, tag: str | None = None
    ) -> Iterator[Run]:
        """The runs in order of their keys, fetched page by page.

        status: `running`, `completed`, `failed` or `stopped`. tag: `name:value`.
        """
        after: str | None = None
        while True:
            request = requests.list_runs(experiment=experiment, status=status, tag=tag, after=after, limit=PAGE)
            page = self._service.call(request, responses.read_runs)
            for view in page.items:
                yield Run(self._service, view)
            after = page.next
            if after is None:
                return

    def answers(self, key: str, *, timeout_s: float) -> bool:
        """Whether the service answers a single request for the run, a refusal included."""
        return self._service.answers(requests.get_run(key), timeout_s)

    @property
    def transport(self) -> Transport:
        """The transport that sends the requests."""
        return self._service.transport

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        self._service.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def policy_conflict(key: str, difference: object, detail: str) -> str:
    """The text of a policy conflict of the run `key`.

    difference: path to [stored, given]. detail: the text to use if the difference has another form.
    """
    try:
        found = {str(path): [stored, given] for path, (stored, given) in dict(difference).items()}  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return f"run {key!r}: {detail}"
    # The fields of another type of schedule differ all; only the type is a reason.
    types = sorted((path for path in found if path.endswith("schedule.type")), key=len)
    described = responses.shown(describe_difference({path: found[path] for path in types[:1]} or found))
    return (
        f"run {key!r} exists with another policy ({described}); choose another run=, or set on_conflict to keep, "
        f"replace or restart: 'keep' trains with the run's policy, 'replace' goes on with this policy and the run's "
        f"state, 'restart' goes on with this policy and a new state"
    )
