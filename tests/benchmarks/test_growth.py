import sys
from pathlib import Path

import pytest

from lightning_gans import GAN
from tests.toys import SHAPE, tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import growth


def test_one_process_sends_nothing_and_more_send_up_to_twice_the_bytes():
    assert growth.efficiency(1.0, 1e9, 2, 1e9, 1e-3, 1) == 1.0
    assert growth.efficiency(1.0, 1e9, 0, 1e9, 0.0, 2) == pytest.approx(
        0.5
    )  # 1 s of arithmetic, 2 (2 - 1) / 2 s sending
    assert growth.efficiency(1.0, 1e9, 0, 1e9, 0.0, 2**20) == pytest.approx(1 / 3, rel=1e-5)
    assert growth.efficiency(1.0, 0.0, 2, 1e9, 0.01, 4) == pytest.approx(1 / 1.08)  # 2 messages, 2 x 2 hops each


def test_the_work_of_an_update_is_counted():
    model = tiny(GAN, image_shape=SHAPE, generator_dims=[600], discriminator_dims=[500])
    found = growth.work(model, 256)
    trained = [*model.generator.parameters(), *model.discriminator.parameters()]
    assert found["parameters"] == sum(p.numel() for p in trained) == found["gradient_bytes"] / 4
    first, last = 4 * 600, 600 * 64  # the generator's matrices; 64 is a picture
    judge, logit = 64 * 500, 500
    forward = (first + last) + 3 * (judge + logit)  # the discriminator sees real and generated images, and these again
    d_backward = 2 * (judge + 2 * logit)  # no gradient of its images
    g_backward = (judge + logit) + (first + 2 * last)  # none of the discriminator's weights
    expected = 2 * 256 * (forward + d_backward + g_backward) / 1e9
    assert found["gflop"] == pytest.approx(expected, abs=1e-3)
