"""A trainer group begins, or begins again."""

from dataclasses import replace

from remotelr.rules.errors import AttemptConflict, InvalidReport, ServerBehind
from remotelr.rules.policy.guard import NO_GUARD_STATE, clear_per_epoch
from remotelr.rules.run.command import command_from_payload
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import AttemptRequest, Outcome, Run, spec_from_payload
from remotelr.rules.run.overrides import cancelled_seqs, pending_overrides, with_command
from remotelr.rules.run.state import RunState
from remotelr.rules.transitions.decide import check_last_seq, decide_rate, gap_note, stale_attempt_error
from remotelr.rules.transitions.lifecycle import drop_foreign_state, migrate_schedule_state


def begin_attempt(run: Run, request: AttemptRequest, log: Log) -> Outcome:
    """A new life of the trainer group, with the decision for its first epoch.

    The state is as it was before that epoch was reported: reports from there on are superseded, the
    commands of operators are kept and hold from the epochs they held from. An older attempt is fenced
    off from now on. A finished run is running again.

    Raises StaleAttempt for the key of an attempt a newer one has taken over, AttemptConflict for a
    known key with another epoch, ServerBehind when epochs before it are missing here.
    """
    known = log.keyed("attempt", request.key)
    if known is not None:
        return _same_attempt(run, request, known)
    check_last_seq(run, request.last_seq)
    if request.epoch > run.epoch and not request.gap and log.has_reports():
        raise ServerBehind(
            f"the attempt begins at epoch {request.epoch}, but the newest report here is of epoch {run.epoch - 1}: "
            f'send the missing reports first, or begin with "gap": true to leave them out',
            epoch=run.epoch,
            seq=run.seq,
        )
    snapshot = log.snapshot(request.epoch)
    state = _restored(run, request.epoch, snapshot, log)
    step = _step_at(run, request, snapshot)
    spec = run.spec if request.world_size is None else replace(run.spec, world_size=request.world_size)
    restarted = replace(run, spec=spec, attempt=run.attempt + 1, status="running")
    return decide_rate(
        restarted,
        "attempt",
        epoch=request.epoch,
        step=step,
        state=state,
        reason="start",
        key=request.key,
        event_epoch=request.epoch,
        payload={"step": request.step, "world_size": request.world_size, "gap": request.gap},
        notes=gap_note(run.epoch, request.epoch) if log.has_reports() else {},
    )


def _same_attempt(run: Run, request: AttemptRequest, known: Event) -> Outcome:
    if known.attempt != run.attempt:
        raise stale_attempt_error(run, known.attempt)
    if known.epoch != request.epoch or known.decision is None:
        raise AttemptConflict(
            f"the attempt {request.key!r} began at epoch {known.epoch}, not {request.epoch}: "
            f"a new start needs a new key",
            known=known.epoch,
            given=request.epoch,
        )
    return Outcome(run=run, event=None, answer=replace(known.decision, replayed=True))


def _restored(run: Run, epoch: int, snapshot: Event, log: Log) -> RunState:
    """The state at `snapshot`, from which `epoch` is begun, under the policy and the commands of today."""
    assert snapshot.state is not None
    state = RunState.from_json(snapshot.state)
    commands = log.since("command", snapshot.seq)
    taken_back = cancelled_seqs(commands)
    for event in commands:
        if event.seq not in taken_back:
            state = with_command(state, command_from_payload(event), event.effective_from)
    if taken_back:
        # Orders that were cancelled since may wait in the state of back then.
        cancelled = cancelled_seqs(log.since("command", 0))
        state = replace(state, overrides=pending_overrides(log, cancelled, _undecided_after(snapshot)))
    replaced = log.since("policy", snapshot.seq)
    if replaced:
        old = spec_from_payload(log.policy(snapshot.seq)).bound()
        schedule = migrate_schedule_state(old, run.policy, state.schedule, run.learning_rate)
        if any(event.payload["mode"] == "restart" for event in replaced):
            schedule = run.policy.start(run.spec.first_learning_rate())
            state = replace(state, guard=NO_GUARD_STATE, early_stopping=None, stopped_by=None)
        state = drop_foreign_state(replace(state, schedule=schedule), old, run.policy)
    if _sent_back(run, epoch):
        state = replace(state, guard=clear_per_epoch(run.state.guard))
    return replace(state, stop=run.state.stop, limits=run.state.limits)


def _undecided_after(snapshot: Event) -> int:
    """The first epoch whose orders were not yet carried out then."""
    if snapshot.decision is not None and snapshot.kind != "created":
        return snapshot.decision.epoch + 1
    return (
        snapshot.effective_from
        if snapshot.attempt == 0 and snapshot.effective_from == 0
        else snapshot.effective_from + 1
    )


def _sent_back(run: Run, epoch: int) -> bool:
    """Whether the attempt does as the guard has just said: what the guard has learned since is not gone back over."""
    return run.state.guard.back_to == epoch - 1


def _step_at(run: Run, request: AttemptRequest, snapshot: Event) -> int | None:
    """Optimizer steps made before the attempt's first epoch, where that can be known."""
    if request.step is not None:
        return request.step
    told = snapshot.decision
    if request.epoch == run.epoch and _is_known(run, run.step):
        return run.step
    if told is not None and told.epoch == request.epoch and _is_known(run, told.step):
        return told.step
    if run.spec.steps_per_epoch is not None:
        return request.epoch * run.spec.steps_per_epoch
    if run.policy.unit == "epoch":
        return None
    if request.epoch == 0:
        return 0
    raise InvalidReport(
        f"the policy counts steps: give the `step` at which epoch {request.epoch} begins, or steps_per_epoch "
        f"with the run",
        field="step",
    )


def _is_known(run: Run, step: int | None) -> bool:
    """Whether a place kept by the run says what is to be known; under a policy of epochs nobody has counted steps."""
    return step is not None or run.policy.unit == "epoch"
