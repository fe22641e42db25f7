"""Axes, by hand."""

from __future__ import annotations

import pytest

from worker.figures.axes import linear_axis, log_axis


def ticks(axis) -> list[str]:
    return [label for _, label in axis.ticks]


def test_round_ticks_around_the_values():
    axis = linear_axis([3.0, 9.5], start=0, end=100, label=lambda one: f"{one:g}")
    assert ticks(axis) == ["0", "2.5", "5", "7.5", "10"]
    assert (axis.place(0), axis.place(5), axis.place(10)) == (0, 50, 100)
    assert axis.place(99) == 100  # what lies outside is drawn at the edge


def test_values_that_are_all_alike_have_room():
    axis = linear_axis(
        [100.0, 100.0], start=100, end=0, label=lambda one: f"{one:g} %", from_zero=False
    )
    assert len(set(ticks(axis))) == len(axis.ticks)
    assert ticks(axis)[-1] == "100 %"
    assert axis.high == 100.0
    assert axis.place(100.0) == 0
    nothing = linear_axis([0.0], start=0, end=100, label=lambda one: f"{one:g}")
    assert (nothing.low, nothing.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0, 20.0], ["2", "4", "8", "16", "32"]), ([4.0], ["4", "8"])]
)
def test_powers_of_two(values, expected):
    axis = log_axis(values, start=0, end=100, label=lambda one: f"{one:g}")
    assert ticks(axis) == expected
    assert (axis.place(axis.low), axis.place(axis.high)) == (0, 100)
