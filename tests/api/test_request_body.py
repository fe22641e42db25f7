"""The request's JSON: what is taken as it stands, and how the rest is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.problems import Problem
from api.request_body import parse_request, request_schema
from momentum_core.config import Preprocessing, RefinementGoal
from worker.contract.request import ConvertRequest, Source


def refusal(body: str) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_request(body.encode())
    return caught.value


def test_an_empty_request_takes_every_default():
    assert parse_request(b"") == parse_request(b"{}") == ConvertRequest()


def test_every_part_of_a_request_is_read():
    request = parse_request(
        json.dumps(
            {
                "source": {"zoo": "resnet50"},
                "preprocessing": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
                "conversion": {"gamma": 0.9, "scheme": "paper"},
                "measurement": {"batch_size": 4, "image_size": 64},
                "refinement": {"max_steps": 7, "goal": {"criterion": "relative"}},
                "seed": 3,
                "name": "x",
            }
        ).encode()
    )
    assert request.source == Source(zoo="resnet50")
    assert request.preprocessing == Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert (request.conversion.gamma, request.conversion.scheme) == (0.9, "paper")
    assert (request.measurement.batch_size, request.measurement.image_size) == (4, 64)
    assert (request.refinement.max_steps, request.seed, request.name) == (7, 3, "x")
    assert request.refinement.goal == RefinementGoal(criterion="relative")


@pytest.mark.parametrize(
    ("body", "pointer", "sentence"),
    [
        ('{"conversion": {"gamma": 0}}', "/conversion", "gamma must be a number between 0 and 1"),
        ('{"conversion": {"gamma": 1}}', "/conversion", "try 0.5"),
        ('{"conversion": {"gamma": 1.5}}', "/conversion", "got 1.5"),
        ('{"conversion": {"gamma": "x"}}', "/conversion/gamma", "valid number, got 'x'"),
        ('{"conversion": {"gamma": NaN}}', "/conversion", "got nan"),
        ('{"conversion": {"gamma": true}}', "/conversion/gamma", "got True"),
        (
            '{"conversion": {"gamma": "auto"}, "refinement": null}',
            "",
            "calibration, which is left out here; give a number",
        ),
        (
            '{"conversion": {"tolerance": 2}}',
            "/conversion",
            "tolerance must be a number from 0 to 1",
        ),
        ('{"conversion": {"scheme": "best"}}', "/conversion/scheme", "'compensated' or 'paper'"),
        ('{"conversion": {"gama": 0.5}}', "/conversion/gama", "did you mean conversion.gamma?"),
        ('{"gamma": 0.5}', "/gamma", "did you mean conversion.gamma?"),
        ('{"zoo": "resnet50"}', "/zoo", "did you mean source.zoo?"),
        ('{"refinement": {"lr": 1}}', "/refinement/lr", "refinement.learning_rate"),
        ('{"refinement": {"max_steps": -1}}', "/refinement", "from 1 to 1000000, got -1"),
        ('{"refinement": {"max_steps": 0}}', "/refinement", "set refinement to null"),
        ('{"refinement": {"max_minutes": 0}}', "/refinement", "max_minutes must be above 0"),
        (
            '{"refinement": {"goal": {"tolerable_loss": -1}}}',
            "/refinement/goal",
            "tolerable_loss must be a number from 0 to 100, got -1",
        ),
        ('{"preprocessing": {"mean": [0.5]}}', "/preprocessing/std", "required"),
        ('{"preprocessing": {"mean": [5], "std": [1]}}', "/preprocessing", "pixels in 0..1"),
        ('{"seed": -1}', "", "seed must be"),
        ('{"name": ""}', "", "name must have 1 to 200 characters"),
        ('{"name": "a\\u0000b"}', "", "printable characters only"),
        ('{"conversion": {"gamma": 0.999999}}', "/conversion", "the two nearest are 127/128"),
        ('{"conversion": {"gamma": 1e-9}}', "/conversion", "the two nearest are 1/4096"),
        ("[]", "", "should be an object"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(body, pointer, sentence):
    problem = refusal(body)
    assert (problem.status, problem.code) == (422, "invalid_request")
    assert sentence in str(problem)
    assert [one["pointer"] for one in problem.errors] == [pointer]


@pytest.mark.parametrize(
    "body", ["{", "gamma=1", '{"a": }', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_what_is_no_json_is_called_so(body):
    assert (refusal(body).status, refusal(body).code) == (400, "malformed_json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["source", "zoo", "conversion", "gamma", "mean", "name", "seed", "refinement"]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_any_json_is_taken_or_refused_and_never_breaks(value):
    try:
        parse_request(json.dumps(value).encode())
    except Problem as problem:
        refused = problem
    else:
        return
    assert refused.status in (400, 422)
    assert str(refused)


def test_the_schema_is_complete_in_itself():
    text = json.dumps(request_schema())
    assert "$ref" not in text
    assert "$defs" not in text
    assert "learning_rate" in text
