"""ADA's transformations against their closed forms, scipy and torchvision."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from lightning_gans.augment import pipeline
from lightning_gans.augment.pipeline import NUM_UNIFORMS, SYM2, SYM6, TRANSFORMS, transformed

ON, OFF = 0.0, 0.999  # what a gate gets, at p = 0.5


def row(*numbers):
    """Return uniform numbers for one image, float64 as the tests' images are."""
    return torch.tensor([numbers], dtype=torch.float64)


def drawn(num, seed=0, dtype=torch.float32):
    """Return a function that draws uniform numbers for ``num`` images."""

    def draw(size, *key):
        source = torch.Generator().manual_seed(seed * 100 + sum(key))
        return torch.rand(num, size, generator=source, dtype=dtype)

    return draw


def uniform(number):
    """Return the uniform number that stands for a normal one."""
    return float(norm.cdf(number))


# --- wavelets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_the_wavelets_are_orthonormal_with_as_many_vanishing_moments_as_they_can_have(taps, moments):
    taps = np.array(taps)
    assert len(taps) == 2 * moments
    for shift in range(moments):
        assert (taps[: len(taps) - 2 * shift] * taps[2 * shift :]).sum() == pytest.approx(float(shift == 0), abs=1e-10)
    places = np.arange(len(taps))
    for moment in range(moments):
        assert ((-1.0) ** places * places**moment * taps).sum() == pytest.approx(0, abs=1e-8)
    assert taps.sum() == pytest.approx(2**0.5)


# --- pixel blitting -----------------------------------------------------------------------------------------


def shifted(images, right, down):
    """Shift images; what comes in is reflected, without its border."""
    height, width = images.shape[2:]
    padded = F.pad(images, (width - 1, width - 1, height - 1, height - 1), mode="reflect")
    top, left = height - 1 - down, width - 1 - right
    return padded[:, :, top : top + height, left : left + width]


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (15, 15)])
def test_blitting_moves_whole_pixels(size):
    images, most = torch.randn(1, 3, *size, dtype=torch.float64), round(size[0] / 8)
    for mirror in (False, True):
        for quarter in range(4):
            for right in range(-most, most + 1):
                for down in range(-most, most + 1):
                    shares = (0.5 + 4 * right / size[1], 0.5 + 4 * down / size[0])
                    side = 0.2 if mirror else 0.7
                    found = pipeline.blit(images, row(ON, side, ON, (quarter + 0.5) / 4, ON, *shares), 0.5)
                    # A positive angle turns from x to y, and y points down.
                    turned = torch.rot90(images.flip(3) if mirror else images, -quarter, (2, 3))
                    assert found.equal(shifted(turned, right, down)), (mirror, quarter, right, down)


def test_blitting_of_oblong_images():
    images = torch.randn(1, 2, 6, 10, dtype=torch.float64)
    half = pipeline.blit(images, row(OFF, 0, ON, 0.6, OFF, 0, 0), 0.5)
    assert half.equal(images.flip(2, 3))
    quarter = pipeline.blit(images, row(OFF, 0, ON, 0.3, OFF, 0, 0), 0.5)
    inner = torch.rot90(images[:, :, :, 2:8], -1, (2, 3))
    assert quarter[:, :, :, 2:8].equal(inner)
    assert quarter[:, :, :, 1].equal(inner[:, :, :, 1]) and quarter[:, :, :, 8].equal(inner[:, :, :, 4])
    assert pipeline.blit(images, row(ON, 0.1, OFF, 0.9, OFF, 0.9, 0.9), 0.5).equal(images.flip(3))
    assert pipeline.blit(images, row(ON, 0.9, OFF, 0.9, OFF, 0.9, 0.9), 0.5).equal(images)
    assert pipeline.blit(images[:, :, :5], row(ON, 0.1, ON, 0.3, ON, 0.9, 0.9), 0.5).shape == (1, 2, 5, 10)


# --- geometry -----------------------------------------------------------------------------------------------

# log2 of the scale / 0.2, the angles, log2 of the ratio / 0.2, the shift / 0.125
CASES = {
    "scale": (1.5, None, None, None, None),
    "rotation": (None, 0.7, None, None, None),
    "other rotation": (None, None, None, -2.1, None),
    "ratio": (None, None, -1.2, None, None),
    "shift": (None, None, None, None, (0.4, -0.9)),
    "all": (-0.8, 0.5, 0.9, 1.3, (0.6, 0.3)),
}


def geometric_row(scale, before, ratio, after, shift):
    """Return the uniform numbers for a case of :data:`CASES`."""
    numbers = []
    for value in (scale, before, ratio, after):
        angle = value is before or value is after
        numbers += [OFF, 0.3] if value is None else [ON, value / (2 * math.pi) + 0.5 if angle else uniform(value)]
    numbers += [OFF, 0.3, 0.3] if shift is None else [ON, *map(uniform, shift)]
    return row(*numbers)


def matrix(case, height, width):
    """Return the homogeneous matrix G of a case, in pixels around the center, as in the paper's pseudocode."""
    scale, before, ratio, after, shift = (value or 0 for value in case)

    def rotate(angle):
        sine, cosine = math.sin(angle), math.cos(angle)
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])

    right, down = shift or (0, 0)
    of_shift = np.array([[1, 0, 0.125 * right * width], [0, 1, 0.125 * down * height], [0, 0, 1]])
    size, stretch = 2 ** (0.2 * scale), 2 ** (0.2 * ratio)
    return of_shift @ rotate(after) @ np.diag([stretch, 1 / stretch, 1]) @ rotate(before) @ np.diag([size, size, 1])


def sources(case, height, width, down=None, right=None):
    """Return where places come from, as rows and columns of the image."""
    down = np.arange(height) if down is None else down
    right = np.arange(width) if right is None else right
    y, x = np.meshgrid(down - (height - 1) / 2, right - (width - 1) / 2, indexing="ij")
    x, y, _ = np.einsum("ij,jhw->ihw", np.linalg.inv(matrix(case, height, width)), np.stack([x, y, np.ones_like(x)]))
    return y + (height - 1) / 2, x + (width - 1) / 2


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [(32, 32), (28, 44)])
def test_a_ramp_is_transformed_exactly(name, size):
    case = CASES[name]
    rows, columns = sources(case, *size)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    found = pipeline.geometry(torch.tensor(0.3 * x - 0.2 * y)[None, None], geometric_row(*case), 0.5)[0, 0].numpy()
    inside = (rows > 7) & (rows < size[0] - 8) & (columns > 7) & (columns < size[1] - 8)
    inside = scipy.ndimage.binary_erosion(inside, iterations=4, border_value=1)
    assert inside.sum() > 20
    np.testing.assert_allclose(found[inside], (0.3 * columns - 0.2 * rows)[inside], atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_geometry_is_upsampling_interpolation_and_downsampling(name):
    case, size = CASES[name], (13, 20)
    image, taps = np.random.default_rng(0).normal(size=size), np.array(SYM6)
    found = pipeline.geometry(torch.tensor(image)[None, None], geometric_row(*case), 0.5)[0, 0].numpy()
    delay = (np.arange(12) * taps).sum() / taps.sum() - 5

    def upsampled(lines):
        padded = np.pad(lines, ((3, 3), (0, 0)), mode="reflect")
        return scipy.signal.upfirdn(taps, padded, up=2, axis=0)[11 : 11 + 2 * len(lines)]

    large = upsampled(upsampled(image).T).T
    margins = ((np.arange(-5, 2 * s + 5) - delay) / 2 for s in size)
    places = sources(case, *size, *margins)
    periods = [2 * (s - 1) for s in size]
    folded = [p - 2 * np.clip(p - q / 2, 0, None) for p, q in zip(map(np.mod, places, periods), periods, strict=True)]
    wanted = scipy.ndimage.map_coordinates(large, [2 * place + delay for place in folded], order=1)
    for _ in range(2):
        wanted = scipy.signal.upfirdn(taps[::-1], wanted, down=1, axis=0)[11:-11][::2].T
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("name", ["rotation", "scale"])
def test_smooth_images_are_transformed_as_by_torchvision(name):
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    image = torch.exp(-((x - 24) ** 2 + (y - 16) ** 2) / 40) - torch.exp(-((x - 12) ** 2 + (y - 25) ** 2) / 60)
    image = image.double()[None, None]
    scale, angle, *_ = (value or 0 for value in CASES[name])
    found = pipeline.geometry(image, geometric_row(*CASES[name]), 0.5)
    options = {"interpolation": InterpolationMode.BILINEAR, "translate": [0, 0], "shear": [0.0]}
    wanted = affine(image, math.degrees(angle), scale=2 ** (0.2 * scale), **options)
    inside = (x - 19.5) ** 2 + (y - 19.5) ** 2 < 18**2  # torchvision has zeros outside
    assert (found - wanted)[0, 0][inside].abs().max() < 0.02 < 0.2 * (image - wanted).abs().max()


def test_no_change_of_place_is_the_identity_within_the_image():
    images = torch.randn(1, 2, 20, 20, dtype=torch.float64)
    found = pipeline.resample(images, torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(found[:, :, 6:-6, 6:-6], images[:, :, 6:-6, 6:-6], rtol=0, atol=1e-9)


# --- color --------------------------------------------------------------------------------------------------


def color_matrix(brightness, contrast, luma, hue, saturation):
    """Return the homogeneous matrix C of the paper's pseudocode."""
    axis = np.array([1, 1, 1, 0]) / math.sqrt(3)
    along = np.outer(axis, axis)
    result = np.eye(4)
    result[:3, 3] = 0.2 * brightness
    result = np.diag([*[2 ** (0.5 * contrast)] * 3, 1]) @ result
    result = (np.eye(4) - 2 * along * luma) @ result
    x, y, z = axis[:3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(4)
    turn[:3, :3] = np.eye(3) + math.sin(hue) * cross + (1 - math.cos(hue)) * cross @ cross  # Rodrigues
    result = turn @ result
    scale = np.eye(4)
    scale[:3, :3] = along[:3, :3] + (np.eye(3) - along[:3, :3]) * 2**saturation
    return scale @ result


@pytest.mark.parametrize("active", [*np.eye(5, dtype=int).tolist(), [1] * 5, [1, 0, 1, 1, 0]])
def test_color_is_the_product_of_the_papers_matrices(active):
    values = [value * on for value, on in zip((1.3, -0.7, 1, 2.2, 0.9), active, strict=True)]
    images = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    numbers = (uniform(1.3), uniform(-0.7), 0.2, 2.2 / (2 * math.pi) + 0.5, uniform(0.9))
    gates = [ON if on else OFF for on in active]
    found = pipeline.color(images, row(*(n for pair in zip(gates, numbers, strict=True) for n in pair)), 0.5)
    homogeneous = np.concatenate([images[0].numpy(), np.ones((1, 4, 5))])
    wanted = np.einsum("ij,jhw->ihw", color_matrix(*values), homogeneous)[:3]
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-9)


def test_gray_images_stay_gray_whatever_their_channels():
    gray, uniforms = torch.randn(6, 1, 4, 4), torch.rand(6, 10)
    found = pipeline.color(gray, uniforms, 1.0)
    for channels in (2, 3, 4):
        changed = pipeline.color(gray.expand(-1, channels, -1, -1), uniforms, 1.0)
        torch.testing.assert_close(changed, found.expand(-1, channels, -1, -1))


# --- bands, noise, cutout -----------------------------------------------------------------------------------


def band_filters():
    """Return the taps of the four bands, from the definition: low-pass filters of ever coarser pixels."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    lows = [np.array([1.0])]
    for step in (1, 2, 4):
        coarse = np.zeros(6 * step + 1)
        coarse[::step] = low
        lows.append(np.convolve(lows[-1], coarse))
    lows = [np.pad(taps, (43 - len(taps)) // 2) for taps in lows]
    return np.stack([lows[3], lows[2] - lows[3], lows[1] - lows[2], lows[0] - lows[1]])


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
@pytest.mark.parametrize("active", [*np.eye(4, dtype=int).tolist(), [1] * 4])
def test_bands_are_amplified_and_the_expected_power_is_kept(size, active):
    gains, power = np.ones(4), np.array([10, 1, 1, 1]) / 13
    numbers = (0.5, -1.0, 1.5, 0.8)
    for band, (on, number) in enumerate(zip(active, numbers, strict=True)):
        t = np.ones(4)
        t[band] = 2**number if on else 1
        gains *= t / np.sqrt((power * t**2).sum())
    image = torch.randn(1, 2, *size, dtype=torch.float64)
    uniforms = row(
        *(n for on, number in zip(active, numbers, strict=True) for n in (ON if on else OFF, uniform(number)))
    )
    found = pipeline.band_filter(image, uniforms, 0.5)
    taps, wanted = gains @ band_filters(), image.numpy()
    for axis in (2, 3):
        wanted = scipy.ndimage.correlate1d(wanted, taps, axis=axis, mode="mirror")
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_the_bands_are_octaves_that_add_up_to_everything():
    filters = band_filters()
    assert np.abs(filters.sum(0) - (np.arange(43) == 21)).max() < 1e-12
    places = np.arange(43) - 21
    for band, (low, high) in enumerate(((0, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1))):
        middle = math.pi * (low + high) / 2
        response = filters @ np.cos(middle * places)
        assert response.argmax() == band and response[band] > 0.6


def test_noise_is_normal_with_a_half_normal_deviation():
    images, numbers = torch.zeros(4000, 1, 16, 16), torch.randn(4000, 1, 16, 16)
    found = pipeline.noise(images, torch.rand(4000, 2), 1.0, numbers)
    sigma = found.flatten(1).std(1)
    assert sigma.square().mean().sqrt() == pytest.approx(0.1, rel=0.05)
    assert sigma.mean() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)
    standard = found.flatten(1) / sigma[:, None]
    assert standard.abs().lt(1).double().mean() == pytest.approx(0.683, abs=0.01)


def test_cutout_is_a_square_of_half_the_size():
    found = pipeline.cutout(torch.ones(1, 1, 8, 12), row(ON, 0.5, 0.5), 0.5)
    wanted = torch.ones(1, 1, 8, 12)
    wanted[:, :, 2:6, 3:9] = 0
    assert found.equal(wanted)


# --- all ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_with_probability_0_every_bit_is_kept(dtype, channels):
    images = torch.randn(16, channels, 9, 12, dtype=dtype)
    assert transformed(images, TRANSFORMS, 0.0, drawn(16)).equal(images)
    changed = transformed(images, TRANSFORMS, 1.0, drawn(16))
    assert changed.dtype == dtype and changed.shape == images.shape and changed.isfinite().all()
    assert not (changed == images).flatten(1).all(1).any()


def test_images_that_are_not_chosen_keep_every_bit():
    images = torch.randn(400, 3, 8, 8)
    for name in TRANSFORMS:
        kept = (transformed(images, [name], 0.1, drawn(400)) == images).flatten(1).all(1)
        assert 100 < kept.sum() < 400, name


@pytest.mark.parametrize(
    ("name", "share"),
    [
        # The chance that at least one of the kind's transformations changes something, at p = 0.3.
        ("blit", 1 - (1 - 0.3 / 2) * (1 - 0.3 * 3 / 4) * (1 - 0.3 * 24 / 25)),
        ("geometry", 1 - 0.7**4),  # both rotations together count as one
        ("color", 1 - 0.7**4 * (1 - 0.3 / 2)),
        ("filter", 1 - 0.7**4),
        ("noise", 0.3),
        ("cutout", 0.3),
    ],
)
def test_each_transformation_has_the_probability_p(name, share):
    num = 5000
    images = torch.randn(num, 3, 16, 16)
    changed = (transformed(images, [name], 0.3, drawn(num)) != images).flatten(1).any(1).double().mean()
    assert changed == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / num) + (name == "blit") * 0.02)


def test_an_image_depends_on_itself_and_its_own_numbers_alone():
    images, draw = torch.randn(6, 3, 12, 12), drawn(6)
    found = transformed(images, TRANSFORMS, 0.7, draw)
    alone = transformed(images[2:3], TRANSFORMS, 0.7, lambda *key: draw(*key)[2:3])
    torch.testing.assert_close(alone[0], found[2])
    assert transformed(images, ("cutout", "blit"), 0.7, draw).equal(transformed(images, ("blit", "cutout"), 0.7, draw))


def test_more_kinds_leave_the_numbers_of_the_others():
    images, draw = torch.randn(6, 3, 12, 12), drawn(6)
    both, first = (transformed(images, kinds, 0.7, draw) for kinds in (("blit", "color"), ("blit",)))
    columns = draw(NUM_UNIFORMS)[:, 18:28]
    assert both.equal(pipeline.color(first, columns, 0.7))


@pytest.mark.parametrize("kinds", [[name] for name in TRANSFORMS] + [TRANSFORMS])
def test_gradients_are_those_of_finite_differences(kinds):
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    draw = drawn(2, seed=3, dtype=torch.float64)

    def changed(images):
        return transformed(images, kinds, 0.9, draw)

    assert torch.autograd.gradcheck(changed, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda images: changed(images).square(), images, fast_mode=True)


def test_gradients_are_finite():
    images = torch.randn(500, 3, 8, 8).requires_grad_()
    changed = transformed(images, TRANSFORMS, 1.0, drawn(500))
    (gradient,) = torch.autograd.grad(changed.square().sum(), images)
    assert changed.isfinite().all() and gradient.isfinite().all()
    extremes = torch.tensor([0.0, 1 - 2**-24])
    for uniforms in torch.cartesian_prod(extremes, extremes):
        changed = transformed(images, TRANSFORMS, 1.0, lambda size, *key, u=uniforms: u.repeat(500, size)[:, :size])
        assert changed.isfinite().all()


def test_mixed_precision_changes_nothing():
    images = torch.randn(8, 3, 8, 8)
    found = transformed(images, TRANSFORMS, 0.9, drawn(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert transformed(images, TRANSFORMS, 0.9, drawn(8)).equal(found)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (1, 7)])
def test_small_images(size):
    images = torch.randn(50, 2, *size)
    assert transformed(images, TRANSFORMS, 0.9, drawn(50)).isfinite().all()


@pytest.mark.parametrize("function", [pipeline.blit, pipeline.geometry, pipeline.color, pipeline.band_filter])
def test_everything_is_on_the_device_of_the_images(function):
    images, uniforms = torch.zeros(2, 3, 8, 12, device="meta"), torch.rand(2, 11, device="meta")
    columns = {pipeline.blit: 7, pipeline.geometry: 11, pipeline.color: 10, pipeline.band_filter: 8}[function]
    found = function(images, uniforms[:, :columns], 0.5)
    assert found.device.type == "meta" and found.shape == images.shape
