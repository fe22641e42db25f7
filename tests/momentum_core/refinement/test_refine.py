"""Refinement brings the student nearer to the teacher, repeats itself, and never makes it worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from momentum_core import ConversionConfig, Preprocessing, RefinementConfig, convert
from momentum_core.architectures import build
from momentum_core.errors import DataError
from momentum_core.refinement import evaluate, refine, to_input

PREPROCESSING = Preprocessing(mean=(0.3,), std=(0.4,))
EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)[..., None]
    return images[:600], digits.target[:600].astype(np.int64)


def _pair(gamma: float = 0.9) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(1)
    teacher = build("digits_resnet26", num_classes=10).eval()
    return convert(teacher, EXAMPLE, ConversionConfig(gamma=gamma)), teacher


def test_pixels_become_floats_as_the_formula_says():
    images = np.array([[[[0], [255]]]], dtype=np.uint8)
    expected = torch.tensor([[[[(0 - 0.3) / 0.4, (1 - 0.3) / 0.4]]]])
    assert torch.allclose(to_input(images, PREPROCESSING), expected)


def test_top1_is_the_share_of_right_answers(digits):
    images, labels = digits
    _, teacher = _pair()
    result = evaluate(teacher.train(), images, labels, PREPROCESSING)
    with torch.no_grad():
        logits = teacher.eval()(to_input(images, PREPROCESSING))
    assert torch.allclose(result.logits, logits, atol=1e-4)
    expected = 100 * (logits.argmax(1).numpy() == labels).mean()
    assert result.top1_percent == pytest.approx(expected)


def test_the_student_comes_nearer_and_the_same_seed_gives_the_same_bits(digits):
    config = RefinementConfig(max_steps=12, batch_size=32, learning_rate=0.01)
    states = []
    for _ in range(2):
        student, teacher = _pair()
        before = {key: value.clone() for key, value in teacher.state_dict().items()}
        result = refine(student, teacher, *digits, PREPROCESSING, config, seed=4)
        states.append(student.state_dict())
        assert all(torch.equal(before[key], teacher.state_dict()[key]) for key in before)
    divergences = dict(result.held_back_divergence)
    assert result.best_step > 0
    assert divergences[result.best_step] < 0.8 * divergences[0]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_training_that_diverges_gives_back_the_weights_of_the_start(digits):
    student, teacher = _pair()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    config = RefinementConfig(max_steps=3, batch_size=16, learning_rate=10.0)
    result = refine(student, teacher, *digits, PREPROCESSING, config)
    assert result.best_step == 0
    assert all(torch.equal(before[key], student.state_dict()[key]) for key in before)


def test_no_steps_change_nothing(digits):
    student, teacher = _pair()
    result = refine(student, teacher, *digits, PREPROCESSING, RefinementConfig(max_steps=0))
    assert result.losses == ()
    assert result.best_step == 0


def test_too_few_images_are_refused(digits):
    student, teacher = _pair()
    images, labels = digits
    with pytest.raises(DataError, match="at least 3"):
        refine(student, teacher, images[:2], labels[:2], PREPROCESSING, RefinementConfig())
