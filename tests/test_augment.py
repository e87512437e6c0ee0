import pytest
import torch
import torch.nn.functional as F

from lightning_gans import SettingError
from lightning_gans.augment import (
    NUM_UNIFORMS,
    POLICIES,
    check_policies,
    color,
    cutout,
    diff_augment,
    flip,
    translation,
)


def uniform_for(value, count):
    """Return the middle of the part of [0, 1) that stands for an integer below count."""
    return (value + 0.5) / count


def shifted(images, down, right):
    """Shift images by adding zeros on one side and dropping pixels on the other."""
    return F.pad(images, (right, -right, down, -down))


@pytest.mark.parametrize(("height", "width", "most"), [(16, 16, (2, 2)), (8, 24, (1, 3)), (28, 28, (4, 4))])
def test_every_translation_is_a_shift_that_brings_in_zeros(height, width, most):
    counts = [2 * shift + 1 for shift in most]
    assert most == (int(height / 8 + 0.5), int(width / 8 + 0.5))
    images = torch.randn(2, 3, height, width)
    for down in range(-most[0], most[0] + 1):
        for right in range(-most[1], most[1] + 1):
            uniforms = torch.tensor(
                [[uniform_for(down + most[0], counts[0]), uniform_for(right + most[1], counts[1])]]
            ).expand(2, 2)
            assert translation(images, uniforms).equal(shifted(images, down, right))


def test_translations_are_all_as_likely():
    images = torch.zeros(5000, 1, 16, 16)
    images[:, :, 8, 8] = 1
    uniforms = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0))
    places = translation(images, uniforms).flatten(1).argmax(1)
    for axis in (places // 16, places % 16):
        found = torch.bincount(axis, minlength=16)
        assert found[:6].sum() == found[11:].sum() == 0
        assert (found[6:11] - 1000).abs().max() < 5 * 1000**0.5


def test_flip_mirrors_below_one_half():
    images = torch.randn(3, 2, 4, 6)
    found = flip(images, torch.tensor([[0.1], [0.5], [0.49]]))
    assert found[1].equal(images[1]) and all(found[k].equal(images[k].flip(2)) for k in (0, 2))


@pytest.mark.parametrize("size", [8, 7, 28])
def test_cutout_takes_the_square_around_its_centre(size):
    side = (size + 1) // 2
    count = size + 1 - side % 2
    images = torch.randn(1, 3, size, size)
    for row in range(count):
        for column in range(0, count, 3):
            found = cutout(images, torch.tensor([[uniform_for(row, count), uniform_for(column, count)]]))
            wanted = images.clone()
            top, left = row - side // 2, column - side // 2
            wanted[:, :, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
            assert found.equal(wanted)
    middle = cutout(torch.ones(1, 1, size, size), torch.full((1, 2), 0.5))
    assert size**2 - middle.sum() == side**2


def test_the_largest_uniform_stays_within_the_image():
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    for size in (7, 28, 32, 100):
        images, uniforms = torch.ones(1, 1, size, size), largest.expand(1, 2)
        most = int(size / 8 + 0.5)
        assert translation(images, uniforms).equal(shifted(images, most, most))
        assert cutout(images, uniforms)[0, 0, -1, -1] == 0
    # In bfloat16 that number is 1.
    assert diff_augment(images, POLICIES, torch.ones(1, NUM_UNIFORMS, dtype=torch.bfloat16)).shape == images.shape


def test_brightness_saturation_and_contrast_one_by_one():
    images = torch.randn(5, 3, 6, 6)
    half, numbers = torch.full((5,), 0.5), torch.rand(5)
    factor = numbers.view(5, 1, 1, 1)

    def changed(*columns):
        return color(images, torch.stack(columns, dim=1))

    torch.testing.assert_close(changed(numbers, half, half), images + factor - 0.5)
    grey = images.mean(1, keepdim=True)
    torch.testing.assert_close(changed(half, numbers, half), grey + 2 * factor * (images - grey))
    mean = torch.stack([image.mean() for image in images]).view(5, 1, 1, 1)
    torch.testing.assert_close(changed(half, half, numbers), mean + (factor + 0.5) * (images - mean))


def test_color_takes_brightness_then_saturation_then_contrast():
    images, uniforms = torch.randn(4, 3, 6, 6), torch.rand(4, 3)
    wanted = images
    for column in range(3):
        only = torch.full((4, 3), 0.5)
        only[:, column] = uniforms[:, column]
        wanted = color(wanted, only)
    torch.testing.assert_close(color(images, uniforms), wanted)


def test_grey_images_have_no_saturation():
    images, uniforms = torch.randn(4, 1, 6, 6), torch.rand(4, 3)
    other = uniforms.clone()
    other[:, 1] = torch.rand(4)
    torch.testing.assert_close(color(images, uniforms), color(images, other))
    colour = images.expand(-1, 3, -1, -1)
    torch.testing.assert_close(color(colour, uniforms), color(images, uniforms).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_neutral_numbers_change_nothing(channels):
    images = torch.randn(3, channels, 12, 12)
    neutral = torch.full((3, NUM_UNIFORMS), 0.5)
    torch.testing.assert_close(diff_augment(images, ["color", "translation"], neutral), images)
    assert diff_augment(images, [], neutral) is images


def test_an_image_depends_on_itself_and_its_own_numbers_alone():
    images, uniforms = torch.randn(6, 3, 16, 16), torch.rand(6, NUM_UNIFORMS)
    found = diff_augment(images, POLICIES, uniforms)
    others, other_uniforms = torch.randn(6, 3, 16, 16), torch.rand(6, NUM_UNIFORMS)
    others[2], other_uniforms[2] = images[2], uniforms[2]
    state = torch.get_rng_state()
    torch.testing.assert_close(diff_augment(others, POLICIES, other_uniforms)[2], found[2], rtol=0, atol=0)
    torch.testing.assert_close(diff_augment(images[2:3], POLICIES, uniforms[2:3])[0], found[2])
    assert torch.get_rng_state().equal(state)


def test_policies_are_applied_in_their_order_each_with_its_own_numbers():
    images, uniforms = torch.randn(3, 3, 16, 16), torch.rand(3, NUM_UNIFORMS)
    wanted = translation(color(cutout(images, uniforms[:, 5:7]), uniforms[:, :3]), uniforms[:, 3:5])
    assert diff_augment(images, ["cutout", "color", "translation"], uniforms).equal(wanted)


@pytest.mark.parametrize("policies", [[name] for name in POLICIES] + [POLICIES])
def test_gradients_are_those_of_finite_differences(policies):
    source = torch.Generator().manual_seed(0)
    images = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=source).requires_grad_()
    uniforms = torch.rand(2, NUM_UNIFORMS, dtype=torch.float64, generator=source)

    def changed(images):
        return diff_augment(images, policies, uniforms)

    assert torch.autograd.gradcheck(changed, images)
    # A gradient penalty goes backward through it twice.
    assert torch.autograd.gradgradcheck(lambda images: changed(images).square(), images, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_type_shape_and_device_are_kept(dtype):
    images = torch.randn(2, 3, 8, 16, dtype=dtype)
    found = diff_augment(images, POLICIES, torch.rand(2, NUM_UNIFORMS))
    assert found.dtype == dtype and found.shape == images.shape
    away = diff_augment(images.to("meta"), POLICIES, torch.rand(2, NUM_UNIFORMS, device="meta"))
    assert away.device.type == "meta" and away.dtype == dtype


@pytest.mark.parametrize(("policies", "value"), [(["colour"], "colour"), ("color", "color"), (0.5, 0.5)])
def test_invalid_policies_raise(policies, value):
    with pytest.raises(SettingError) as error:
        check_policies(policies)
    assert (error.value.setting, error.value.value, tuple(error.value.allowed)) == ("augment", value, POLICIES)


@pytest.mark.parametrize("shape", [(1, NUM_UNIFORMS), (2, 3)])
def test_uniforms_that_do_not_match_the_images_raise(shape):
    with pytest.raises(SettingError) as error:
        diff_augment(torch.zeros(2, 3, 8, 8), ["color"], torch.rand(shape))
    assert (error.value.setting, error.value.value) == ("uniforms", list(shape))
