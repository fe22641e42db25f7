"""Images that are made up, for when there are none: noise with the spectrum of natural images.

They have no classes; a network's answers to them are worth something only as what another network
shall answer, too. What is measured on them says little about real images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_DECAY, MOST_DECAY = 0.5, 2.0
"""Powers of the frequency that the amplitudes fall with; natural images have about 1."""


def synthetic_images(count: int, *, side: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Return images of random phases, amplitudes |frequency|^-a with a random a, and mixed colours.

    Args:
        count: how many.
        side: height and width in pixels.
        channels: 1 for grey, 3 for colour.
        seed: the same seed gives the same images.

    Returns:
        uint8, shape (count, side, side, channels).

    Source: Baradad et al. 2021, Learning to See by Looking at Noise (arXiv:2106.05963), "spectrum"
    with the colour model of its section 3.
    """
    generator = np.random.default_rng(seed)
    images = np.empty((count, side, side, channels), dtype=np.uint8)
    vertical, horizontal = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.maximum(np.hypot(vertical, horizontal), 1 / side)[..., None]
    for image in images:
        amplitude = frequency ** -generator.uniform(LEAST_DECAY, MOST_DECAY)
        noise = np.fft.rfft2(generator.standard_normal((side, side, channels)), axes=(0, 1))
        plane = np.fft.irfft2(noise * amplitude, s=(side, side), axes=(0, 1))
        mixed = plane @ generator.standard_normal((channels, channels))
        spread = max(float(mixed.std()), 1e-12)
        contrast, brightness = generator.uniform(30, 80), generator.uniform(90, 160)
        image[...] = np.clip((mixed - mixed.mean()) / spread * contrast + brightness, 0, 255)
    return images
