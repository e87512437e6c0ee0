import math

import pytest
import torch
from torch import nn

from lightning_gans import SettingError
from lightning_gans.networks import VectorQuantizer, VQDecoder, VQEncoder


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- encoder and decoder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_shape", "downsamplings", "grid"), [((1, 28, 28), 2, (7, 7)), ((3, 16, 32), 3, (2, 4))])
def test_the_shapes(image_shape, downsamplings, grid):
    options = {"code_dim": 5, "width": 6, "downsamplings": downsamplings}
    vectors = VQEncoder(image_shape, **options)(normal(3, *image_shape))
    assert vectors.shape == (3, 5, *grid)
    assert VQDecoder(image_shape, **options)(vectors).shape == (3, *image_shape)


def test_the_number_of_weights_of_the_encoder():
    # 4x4 convolutions 1 -> 8 -> 8, a 3x3 one, two blocks of 3x3 and 1x1 convolutions, and a 1x1 one to 5 channels.
    wanted = (16 * 8 + 8) + (16 * 64 + 8) + (9 * 64 + 8) + 2 * (9 * 64 + 8 + 64 + 8) + (8 * 5 + 5)
    assert sum(p.numel() for p in VQEncoder((1, 28, 28), 5, 8).parameters()) == wanted


@pytest.mark.parametrize("cls", [VQEncoder, VQDecoder])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("image_shape", (1, 30, 28)), ("width", 0), ("code_dim", 0), ("downsamplings", 0), ("blocks", 0)],
)
def test_sizes_that_do_not_fit(cls, setting, value):
    with pytest.raises(SettingError) as error:
        cls(**{"image_shape": (1, 28, 28), setting: value})
    assert error.value.setting == setting


# --- the codebook -----------------------------------------------------------------------------------------


def test_each_vector_gets_the_nearest_code():
    quantizer, vectors = VectorQuantizer(20, 3), normal(4, 3, 2, 5)
    codes = quantizer.nearest(vectors)
    distances = torch.cdist(vectors.movedim(1, -1).reshape(-1, 3), quantizer.codebook)
    assert codes.equal(distances.argmin(1).view(4, 2, 5))
    assert quantizer(codes)[2, :, 1, 3].equal(quantizer.codebook[codes[2, 1, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        assert quantizer.nearest(vectors).equal(codes)


def statistics_of(quantizer, vectors, places=None):
    """Return the codes of vectors and their statistics."""
    codes = quantizer.nearest(vectors)
    places = torch.full((len(quantizer.codebook),), -1) if places is None else places
    return codes, quantizer.statistics(vectors, codes, places)


def test_the_codebook_is_the_moving_average_of_its_vectors():
    quantizer = VectorQuantizer(40, 3, decay=0.9, revive_below=0)
    before = quantizer.codebook.clone()
    counts, sums = torch.zeros(40, dtype=torch.double), torch.zeros(40, 3, dtype=torch.double)
    for seed in range(4):
        vectors = normal(5, 3, 2, 2, seed=seed)
        codes, statistics = statistics_of(quantizer, vectors)
        for code, row in zip(codes.flatten(), vectors.movedim(1, -1).reshape(-1, 3), strict=True):
            counts[code] += (1 - 0.9) * 0.9 ** (3 - seed)
            sums[code] += (1 - 0.9) * 0.9 ** (3 - seed) * row
        quantizer.move(statistics)
    used = counts > 0
    assert 10 < used.sum() < 40
    wanted = torch.where(used[:, None], sums / counts[:, None], before.double())
    torch.testing.assert_close(quantizer.codebook.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(quantizer.counts.double(), counts, rtol=1e-5, atol=1e-7)


def test_statistics_of_parts_add_up():
    quantizer, vectors = VectorQuantizer(6, 3), normal(8, 3, 2, 2)
    places = torch.tensor([0, 31, 7, 8, 20, 15])
    _, whole = statistics_of(quantizer, vectors, places)
    parts = [statistics_of(quantizer, part, places - 8 * k)[1] for k, part in enumerate(vectors.split(2))]
    torch.testing.assert_close(sum(parts), whole)
    rows = vectors.movedim(1, -1).reshape(-1, 3)
    assert whole[:, 4:].equal(rows[places])
    assert whole[:, 0].sum() == 32


def test_unused_codes_move_to_vectors_of_the_batch():
    quantizer = VectorQuantizer(4, 2, decay=0.5, revive_below=0.1)
    codebook = torch.tensor([[0.0, 0], [10, 0], [0, 10], [50, 50]])
    quantizer.codebook.copy_(codebook)
    quantizer.counts.fill_(10.0)
    quantizer.sums.copy_(10 * codebook)
    vectors = torch.tensor([[0.0, 1], [10, 1], [1, 10]]).repeat(4, 1).view(12, 2, 1, 1)
    for step in range(1, 10):
        # Twelve vectors a step, of which the last code has none.
        mean, count = (12 + 28 * 0.5**step) / 4, 10 * 0.5**step
        quantizer.move(statistics_of(quantizer, vectors, torch.full((4,), 2))[1])
        if count < 0.1 * mean:
            break
        torch.testing.assert_close(quantizer.codebook[3], codebook[3])
    assert step == 5
    torch.testing.assert_close(quantizer.codebook[3], torch.tensor([1.0, 10.0]))
    assert quantizer.counts[3].item() == pytest.approx(0.2 * mean)


def test_the_first_batch_sets_the_codebook():
    quantizer, vectors = VectorQuantizer(16, 3), 0.01 * normal(8, 3, 2, 2) + 5
    quantizer.move(statistics_of(quantizer, vectors, torch.arange(16) * 2)[1])
    rows = vectors.movedim(1, -1).reshape(-1, 3)
    nearest = torch.cdist(quantizer.codebook, rows).amin(1)
    assert (nearest < 0.03).all()  # before, no code was closer than 1
    assert len(quantizer.nearest(vectors).unique()) > 10


def test_without_revival_unused_codes_stay():
    quantizer = VectorQuantizer(16, 3, revive_below=0)
    before = quantizer.codebook.clone()
    codes, statistics = statistics_of(quantizer, normal(4, 3, 1, 1) + 5, torch.zeros(16).long())
    quantizer.move(statistics)
    unused = torch.ones(16, dtype=torch.bool)
    unused[codes.flatten()] = False
    assert quantizer.codebook[unused].equal(before[unused])
    assert not quantizer.codebook[~unused].equal(before[~unused])


@pytest.mark.parametrize(
    ("setting", "value"), [("num_codes", 0), ("code_dim", 0), ("decay", 1.5), ("revive_below", -0.1)]
)
def test_settings_of_the_codebook(setting, value):
    with pytest.raises(SettingError) as error:
        VectorQuantizer(**{setting: value})
    assert error.value.setting == setting


def test_the_codebook_finds_clusters():
    """Many more codes are used with revival than without, and the error is that of the clusters' noise."""
    centers = 10 * normal(32, 4)
    errors, used = {}, {}
    for revive_below in (0.0, 0.05):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(64, 4, decay=0.9, revive_below=revive_below)
        for step in range(300):
            source = torch.Generator().manual_seed(step)
            vectors = centers[torch.randint(32, (256,), generator=source)] + 0.1 * torch.randn(256, 4, generator=source)
            places = torch.randint(256, (64,), generator=source)
            codes, statistics = statistics_of(quantizer, vectors.view(256, 4, 1, 1), places)
            quantizer.move(statistics)
        errors[revive_below] = (quantizer(codes).flatten(1) - vectors).square().sum(1).mean().item()
        used[revive_below] = len(codes.unique())
    assert used[0.05] >= 50 > 30 > used[0.0]
    assert errors[0.05] < 4 * 0.1**2 < errors[0.0] / 10


def test_residual_blocks_do_not_change_their_input():
    encoder, images = VQEncoder((1, 8, 8), 3, 4), normal(2, 1, 8, 8)
    assert encoder(images).equal(encoder(images))
    assert not any(getattr(module, "inplace", False) for module in encoder.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    assert math.isfinite(encoder(images).sum())
