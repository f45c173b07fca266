"""The transition `begin_attempt`: a trainer group begins or rewinds."""

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
    """Begin an attempt and decide its first epoch.

    The state is the one before that epoch was reported. Later reports are superseded; commands stay in force from
    their epochs. Reports of older attempts are rejected from now on. A finished run is running again.

    Raises StaleAttempt for the key of an older attempt, AttemptConflict for a known key with another epoch,
    ServerBehind if epochs before `request.epoch` are missing in the log.
    """
    known = log.keyed("attempt", request.key)
    if known is not None:
        return _same_attempt(run, request, known)
    check_last_seq(run, request.last_seq)
    if request.epoch > run.epoch and not request.gap and log.has_reports():
        raise ServerBehind(
            f"the attempt begins at epoch {request.epoch}, but the newest report is of epoch {run.epoch - 1}; "
            f'send the missing reports first, or set "gap": true to omit them',
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
            f"the attempt {request.key!r} began at epoch {known.epoch}, not {request.epoch}; use a new key",
            known=known.epoch,
            given=request.epoch,
        )
    return Outcome(run=run, event=None, answer=replace(known.decision, replayed=True))


def _restored(run: Run, epoch: int, snapshot: Event, log: Log) -> RunState:
    """The state at `snapshot` for the start of `epoch`, under the present policy and commands."""
    assert snapshot.state is not None
    state = RunState.from_json(snapshot.state)
    commands = log.since("command", snapshot.seq)
    cancelled_since = cancelled_seqs(commands)
    for event in commands:
        if event.seq not in cancelled_since:
            state = with_command(state, command_from_payload(event), event.effective_from)
    if cancelled_since:
        # The snapshot may contain overrides of commands that were cancelled later.
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
    if _follows_rollback(run, epoch):
        state = replace(state, guard=clear_per_epoch(run.state.guard))
    return replace(state, stop=run.state.stop, limits=run.state.limits)


def _undecided_after(snapshot: Event) -> int:
    """The first epoch whose overrides the snapshot has not applied."""
    if snapshot.decision is not None and snapshot.kind != "created":
        return snapshot.decision.epoch + 1
    return (
        snapshot.effective_from
        if snapshot.attempt == 0 and snapshot.effective_from == 0
        else snapshot.effective_from + 1
    )


def _follows_rollback(run: Run, epoch: int) -> bool:
    """Whether the attempt follows a rollback of the guard, whose newer state is then kept."""
    return run.state.guard.back_to == epoch - 1


def _step_at(run: Run, request: AttemptRequest, snapshot: Event) -> int | None:
    """Optimizer steps before the attempt's first epoch, if known."""
    if request.step is not None:
        return request.step
    decision = snapshot.decision
    if request.epoch == run.epoch and _is_known(run, run.step):
        return run.step
    if decision is not None and decision.epoch == request.epoch and _is_known(run, decision.step):
        return decision.step
    if run.spec.steps_per_epoch is not None:
        return request.epoch * run.spec.steps_per_epoch
    if run.policy.unit == "epoch":
        return None
    if request.epoch == 0:
        return 0
    raise InvalidReport(
        f"the policy counts steps; set `step`, at which epoch {request.epoch} begins, or steps_per_epoch of the run",
        field="step",
    )


def _is_known(run: Run, step: int | None) -> bool:
    """Whether a stored step is usable: under a policy that counts epochs, None is."""
    return step is not None or run.policy.unit == "epoch"
