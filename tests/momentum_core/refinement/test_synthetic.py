"""Made-up images have the spectrum of natural ones, and follow from the seed."""

from __future__ import annotations

import numpy as np
import pytest

from momentum_core.refinement import synthetic_images


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3), (33, 3)])
def test_images_follow_from_the_seed_and_differ(side, channels):
    first, again, other = (
        synthetic_images(6, side=side, channels=channels, seed=seed) for seed in (1, 1, 2)
    )
    assert first.shape == (6, side, side, channels)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert not (first == other).all()
    assert len({image.tobytes() for image in first}) == 6
    assert all(image.std() > 10 for image in first)


def test_amplitudes_fall_with_the_frequency_as_in_photographs():
    images = synthetic_images(64, side=64, channels=1, seed=0)[..., 0].astype(float)
    spectrum = np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True))).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    inside = (frequency > 2 / 64) & (frequency < 0.4)
    slope, _ = np.polyfit(np.log(frequency[inside]), np.log(spectrum[inside]), 1)
    assert -1.6 < slope < -0.5
