"""The queue: one at a time, in order, interruptible, and never stopped by a job that fails."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest

from lora_eval.errors import Interrupted, LoraFileError
from lora_eval.host.protocol import Job
from lora_eval.service.jobs import FAILED, FINISHED, INTERRUPTED, PAUSED, QUEUED, RUNNING, Handle, JobQueue

LONG = 30.0


class Gate:
    """A job that says when it runs and ends when it is let go."""

    def __init__(self) -> None:
        self.running, self.go = threading.Event(), threading.Event()

    def __call__(self, handle: Handle) -> dict[str, str]:
        self.running.set()
        assert self.go.wait(LONG)
        return {"lora": "a.safetensors"}


def test_result_and_times_are_kept() -> None:
    queue = JobQueue()
    id = queue.submit("train", "cat", lambda handle: {"steps": 3})
    state = queue.wait(id, LONG)
    assert state is not None
    assert (state.kind, state.title, state.status, state.result, state.error) == (
        "train",
        "cat",
        FINISHED,
        {"steps": 3},
        "",
    )
    assert state.started is not None and state.ended is not None
    assert state.submitted <= state.started <= state.ended


def test_one_runs_and_the_others_wait_in_order() -> None:
    queue, gates, order = JobQueue(), [Gate(), Gate(), Gate()], []

    def job(number: int):  # type: ignore[no-untyped-def]
        def run(handle: Handle) -> None:
            order.append(number)
            gates[number](handle)

        return run

    ids = [queue.submit("score", str(number), job(number)) for number in range(3)]
    assert gates[0].running.wait(LONG)
    states = {state.title: state for state in queue.list()}
    assert [states[title].status for title in "012"] == [RUNNING, QUEUED, QUEUED]
    assert [states[title].position for title in "012"] == [0, 1, 2]
    assert not gates[1].running.is_set() and not gates[2].running.is_set()
    for gate in gates:
        gate.go.set()
    assert [queue.wait(id, LONG).status for id in ids] == [FINISHED] * 3  # type: ignore[union-attr]
    assert order == [0, 1, 2]


def test_list_is_newest_first_and_by_kind() -> None:
    queue = JobQueue()
    for kind, title in (("train", "a"), ("score", "b"), ("train", "c")):
        queue.wait(queue.submit(kind, title, lambda handle: None), LONG)
    assert [state.title for state in queue.list()] == ["c", "b", "a"]
    assert [state.title for state in queue.list("train")] == ["c", "a"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LoraFileError("x.safetensors: key k is\n  missing"), "x.safetensors: key k is missing"),
        (ValueError("bad\nvalue"), "unexpected ValueError: bad value"),
        (SystemExit(3), "unexpected SystemExit: 3"),
        (RuntimeError(), "unexpected RuntimeError: no message"),
    ],
)
def test_errors_are_one_line_and_the_next_job_runs(
    error: BaseException, line: str, capsys: pytest.CaptureFixture
) -> None:
    def fail(handle: Handle) -> None:
        raise error

    queue = JobQueue()
    state = queue.wait(queue.submit("train", "cat", fail), LONG)
    assert state is not None and (state.status, state.error) == (FAILED, line)
    assert queue.wait(queue.submit("train", "dog", lambda handle: None), LONG).status == FINISHED  # type: ignore[union-attr]


def test_interrupt_reaches_the_followed_job_and_keeps_its_result() -> None:
    queue, running = JobQueue(), threading.Event()

    def run(handle: Handle) -> None:
        job = handle.follow(Job("training", 10))
        job.advance(4, "step 4/10")
        handle.result = {"steps": 4}
        running.set()
        while True:
            job.check()

    id = queue.submit("train", "cat", run)
    assert running.wait(LONG)
    assert queue.interrupt(id)
    state = queue.wait(id, LONG)
    assert state is not None
    assert (state.status, state.done, state.total, state.text) == (INTERRUPTED, 4, 10, "step 4/10")
    assert state.result == {"steps": 4} and state.error == ""


def test_interrupt_before_the_function_has_a_job() -> None:
    queue, started, asked = JobQueue(), threading.Event(), threading.Event()

    def run(handle: Handle) -> None:
        started.set()
        assert asked.wait(LONG)
        handle.follow(Job("training", 10)).check()
        raise AssertionError("the stop was lost")

    id = queue.submit("train", "cat", run)
    assert started.wait(LONG)
    queue.interrupt(id)
    asked.set()
    assert queue.wait(id, LONG).status == INTERRUPTED  # type: ignore[union-attr]


def test_interrupting_a_waiting_job_takes_it_out() -> None:
    queue, gate, ran = JobQueue(), Gate(), []
    first = queue.submit("train", "a", gate)
    second = queue.submit("train", "b", lambda handle: ran.append("b"))  # type: ignore[func-returns-value]
    assert gate.running.wait(LONG)
    assert queue.interrupt(second)
    gate.go.set()
    assert queue.wait(first, LONG).status == FINISHED  # type: ignore[union-attr]
    assert queue.get(second).status == INTERRUPTED and ran == []  # type: ignore[union-attr]


def test_interrupting_what_is_over_or_unknown_does_nothing() -> None:
    queue = JobQueue()
    id = queue.submit("train", "a", lambda handle: None)
    queue.wait(id, LONG)
    assert not queue.interrupt(id) and not queue.interrupt("nothing")
    assert queue.get(id).status == FINISHED and queue.get("nothing") is None  # type: ignore[union-attr]


def test_history_is_bounded_and_the_oldest_go() -> None:
    queue = JobQueue(keep=3)
    for number in range(7):
        queue.wait(queue.submit("train", str(number), lambda handle: None), LONG)
    assert [state.title for state in queue.list()] == ["6", "5", "4"]


def test_eta_is_that_of_the_job_and_only_while_it_runs() -> None:
    queue, running, go = JobQueue(), threading.Event(), threading.Event()
    now = [0.0]

    def run(handle: Handle) -> None:
        job = handle.follow(Job("training", 10, clock=lambda: now[0]))
        now[0] = 8.0
        job.advance(4)
        running.set()
        assert go.wait(LONG)

    id = queue.submit("train", "cat", run)
    assert running.wait(LONG)
    assert queue.get(id).eta == pytest.approx(12.0)  # type: ignore[union-attr]
    go.set()
    assert queue.wait(id, LONG).eta is None  # type: ignore[union-attr]


def test_function_that_raises_interrupted_itself() -> None:
    def run(handle: Handle) -> None:
        raise Interrupted("stopped in the WebUI")

    queue = JobQueue()
    assert queue.wait(queue.submit("train", "cat", run), LONG).status == INTERRUPTED  # type: ignore[union-attr]


# -- paused and gone on with ---------------------------------------------------------------------------


class Work:
    """Ten steps; stopped once after the fourth in the way given, and gone on with from there."""

    def __init__(self, stop: str) -> None:
        self.stop, self.seen = stop, []  # type: ignore[var-annotated]

    def __call__(self, handle: Handle) -> dict[str, int]:
        done = handle.result.get("done", 0) if handle.again else 0
        self.seen.append((handle.again, done))
        with handle.job(nullcontext(Job("work", 10))) as job:
            job.resume_from(done)
            while job.done < 10:
                job.check()
                job.advance()
                handle.result = {"done": job.done}
                if job.done == 4 and not handle.again:
                    if self.stop == FAILED:
                        raise LoraFileError("the disk is full; free some space")
                    job.pause("another model was loaded; load a") if self.stop == PAUSED else handle.interrupt()
        return {"done": 10}


@pytest.mark.parametrize(
    ("stop", "line"),
    [(PAUSED, "another model was loaded; load a"), (INTERRUPTED, ""), (FAILED, "the disk is full; free some space")],
)
def test_a_stopped_job_goes_on_under_its_id_from_where_it_was(stop: str, line: str) -> None:
    queue, work = JobQueue(), Work(stop)
    id = queue.submit("train", "cat", work, resumable=True)
    state = queue.wait(id, LONG)
    assert state is not None
    assert (state.status, state.error, state.done, state.resumable) == (stop, line, 4, True)
    assert queue.resume(id)
    state = queue.wait(id, LONG)
    assert state is not None
    assert (state.status, state.error, state.done, state.result) == (FINISHED, "", 10, {"done": 10})
    assert work.seen == [(False, 0), (True, 4)]
    assert not state.resumable and not queue.resume(id), "what is finished does not go on"


def test_a_resumed_job_waits_behind_those_in_line_and_is_the_newest() -> None:
    queue, gate, work = JobQueue(), Gate(), Work(PAUSED)
    first = queue.submit("train", "first", work, resumable=True)
    assert queue.wait(first, LONG).status == PAUSED  # type: ignore[union-attr]
    second = queue.submit("score", "second", gate)
    assert gate.running.wait(LONG)
    assert queue.resume(first)
    state = queue.get(first)
    assert state is not None and (state.status, state.position) == (QUEUED, 1)
    assert [one.title for one in queue.list()] == ["first", "second"]
    gate.go.set()
    assert queue.wait(first, LONG).status == FINISHED  # type: ignore[union-attr]
    assert queue.get(second).status == FINISHED  # type: ignore[union-attr]


def test_a_job_that_was_not_made_for_it_and_an_unknown_one_do_not_go_on() -> None:
    queue = JobQueue()
    id = queue.submit("check", "cat", Work(FAILED))
    state = queue.wait(id, LONG)
    assert state is not None and (state.status, state.resumable) == (FAILED, False)
    assert not queue.resume(id) and not queue.resume("nothing")
