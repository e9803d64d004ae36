"""Work in a thread: one piece at a time, in order, and no error is lost."""

import threading

import pytest

from nic_ray.training.background import one_at_a_time


@pytest.mark.parametrize("threaded", [False, True])
def test_pieces_are_done_in_their_order_and_all_of_them(threaded):
    done = []
    with one_at_a_time(threaded=threaded) as hand_over:
        for number in range(5):
            hand_over(lambda number=number: done.append((number, threading.current_thread())))
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]
    assert ({thread for _, thread in done} == {threading.main_thread()}) is not threaded


def test_a_piece_runs_beside_its_caller_and_the_next_one_waits_for_it():
    goes_on, seen = threading.Event(), []

    def first() -> None:
        assert goes_on.wait(10)
        seen.append("first")

    with one_at_a_time(threaded=True) as hand_over:
        hand_over(first)
        seen.append("caller")
        goes_on.set()
        hand_over(lambda: seen.append("second"))
        assert seen[:2] == ["caller", "first"]
    assert seen == ["caller", "first", "second"]


def fail(kind: type[BaseException]) -> None:
    raise kind("disk full")


@pytest.mark.parametrize("kind", [OSError, SystemExit])  # Tune ends a training by the latter, where it reports
@pytest.mark.parametrize("further", [0, 1])
def test_an_error_is_raised_where_the_next_piece_is_handed_over_or_at_the_end(kind, further):
    done = []

    def caller() -> None:
        with one_at_a_time(threaded=True) as hand_over:
            hand_over(lambda: fail(kind))
            for _ in range(further):
                hand_over(lambda: done.append(1))

    with pytest.raises(kind, match="disk full"):
        caller()
    assert not done


def test_an_error_of_the_caller_waits_for_the_piece_that_runs():
    done = []

    def caller() -> None:
        with one_at_a_time(threaded=True) as hand_over:
            hand_over(lambda: done.append(1))
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        caller()
    assert done == [1]
