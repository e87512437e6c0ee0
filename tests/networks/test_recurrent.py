import pytest
import torch
import torch.nn.functional as F

from lightning_gans import SettingError, SinesDataModule, penalties
from lightning_gans.networks import RecurrentDiscriminator, RecurrentGenerator
from lightning_gans.networks.recurrent import from_steps, to_steps

SHAPES = [(1, 7), (2, 6), (1, 5, 4), (3, 4, 2)]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_shapes(cell, shape, num_classes):
    labels = (torch.arange(5) % 3,) if num_classes else ()
    images = RecurrentGenerator(shape, 4, 6, 2, cell, 0, num_classes)(torch.randn(5, 4), *labels)
    assert images.shape == (5, *shape) and images.abs().max() <= 1
    for bidirectional in (False, True):
        discriminator = RecurrentDiscriminator(shape, 6, 2, cell, bidirectional, num_classes)
        assert discriminator(images, *labels).shape == (5, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_a_moment_of_a_sequence_or_a_row_of_an_image(shape):
    images = torch.randn(5, *shape)
    steps = to_steps(images)
    for step in range(shape[1]):
        assert steps[:, step].equal(images[:, :, step].flatten(1))
    assert from_steps(steps, shape).equal(images)


def test_what_is_not_shared_is_dealt_out_to_the_steps_in_turn():
    generator = RecurrentGenerator((1, 5), 3 + 5 * 2, 6, step_noise=2)
    noise = torch.randn(1, 13)
    before = generator(noise)
    for step in range(5):
        changed = noise.clone()
        changed[:, 3 + 2 * step] += 1
        differs = (generator(changed) != before).flatten()
        assert not differs[:step].any() and differs[step:].all()
    noise[:, 0] += 1
    assert (generator(noise) != before).all()


@pytest.mark.parametrize(("latent_dim", "step_noise"), [(9, 2), (9, -1)])
def test_more_noise_than_there_is_is_refused(latent_dim, step_noise):
    with pytest.raises(SettingError) as error:
        RecurrentGenerator((1, 5), latent_dim, step_noise=step_noise)
    assert (error.value.setting, error.value.value) == ("step_noise", step_noise) and "0 to 1" in error.value.allowed


@pytest.mark.parametrize(("setting", "value"), [("cell", "rnn"), ("hidden_dim", 0), ("num_layers", 0)])
@pytest.mark.parametrize("network", [RecurrentDiscriminator, lambda *a, **k: RecurrentGenerator((1, 5), 4, **k)])
def test_settings_out_of_range_are_refused(network, setting, value):
    with pytest.raises(SettingError) as error:
        network((1, 5), **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_step_of_the_generator_and_of_the_discriminator_sees_the_label(bidirectional):
    discriminator = RecurrentDiscriminator((1, 5), 4, bidirectional=bidirectional, num_classes=3)
    seen = []
    discriminator.recurrent.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    sequences, labels = torch.randn(2, 1, 5), torch.tensor([2, 0])
    discriminator(sequences, labels)
    one_hot = F.one_hot(labels, 3).float()
    for step in range(5):
        assert seen[0][:, step].equal(torch.cat([sequences[:, :, step], one_hot], dim=1))
    generator = RecurrentGenerator((1, 5), 4, num_classes=3)
    generator.recurrent.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    noise = torch.randn(2, 4)
    generator(noise, labels)
    assert all(seen[1][:, step].equal(torch.cat([noise, one_hot], dim=1)) for step in range(5))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_order_of_the_steps_counts(bidirectional):
    discriminator = RecurrentDiscriminator((1, 16), 8, bidirectional=bidirectional)
    sequences = torch.rand(4, 1, 16) * 2 - 1
    for order in (torch.arange(16).flip(0), torch.randperm(16)):
        assert (discriminator(sequences) - discriminator(sequences[:, :, order])).abs().min() > 1e-4


@pytest.mark.parametrize(("bidirectional", "wanted"), [(False, False), (True, True)])
def test_only_in_both_directions_the_first_step_is_judged_by_the_last(bidirectional, wanted):
    discriminator = RecurrentDiscriminator((1, 6), 4, bidirectional=bidirectional)
    judged = []
    discriminator.output.register_forward_hook(lambda module, args, logits: judged.append(logits))
    sequences = torch.rand(1, 1, 6)
    mean = discriminator(sequences)
    assert mean.item() == pytest.approx(judged[0].mean().item())
    sequences[0, 0, -1] += 1
    discriminator(sequences)
    assert bool(judged[0][0, 0] != judged[1][0, 0]) == wanted


def test_a_short_training_tells_sines_from_the_same_numbers_in_another_order():
    data = SinesDataModule(num_sequences=512, num_test=256, num_steps=16, frequencies=(1, 2), val_size=0)
    discriminator = RecurrentDiscriminator((1, 16), 16)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)

    def judged(sequences):
        shuffled = sequences.gather(2, torch.rand(sequences.shape).argsort(2))
        return discriminator(sequences), discriminator(shuffled)

    for batch in data.images("train")[0].split(64) * 5:
        real, shuffled = judged(batch)
        optimizer.zero_grad()
        (F.softplus(-real) + F.softplus(shuffled)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        real, shuffled = judged(data.images("test")[0])
    assert ((real > 0).float().mean() + (shuffled < 0).float().mean()) / 2 > 0.9


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_penalty_reaches_the_weights_through_the_gradient_at_the_sequences(cell):
    discriminator = RecurrentDiscriminator((1, 6), 4, cell=cell).double()
    sequences = torch.rand(3, 1, 6, dtype=torch.float64)
    weight = discriminator.recurrent.weight_hh_l0

    def penalty():
        return penalties.r1(lambda images: discriminator(images).flatten(), sequences)

    (gradient,) = torch.autograd.grad(penalty(), weight)
    step = 1e-6
    with torch.no_grad():
        weight[0, 0] += step
    higher = penalty().item()
    with torch.no_grad():
        weight[0, 0] -= 2 * step
    assert gradient[0, 0].item() == pytest.approx((higher - penalty().item()) / (2 * step), rel=1e-4, abs=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_penalty_on_a_gpu_is_that_of_the_cpu(cell):
    discriminator = RecurrentDiscriminator((1, 6), 4, cell=cell)
    sequences = torch.rand(3, 1, 6)
    found = []
    for device in ("cpu", "cuda"):
        discriminator.to(device).zero_grad()
        penalties.r1(lambda images: discriminator(images).flatten(), sequences.to(device)).backward()
        found.append(discriminator.recurrent.weight_hh_l0.grad.cpu().clone())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("step_noise", [0, 1])
def test_the_shared_noise_and_the_label_set_the_first_state(cell, step_noise):
    generator = RecurrentGenerator((1, 5), 8, 6, 2, cell, step_noise, 3)
    states = []
    generator.recurrent.register_forward_pre_hook(lambda module, args: states.append(args[1]))
    noise, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    generator(noise, labels)
    shared = torch.cat([noise[:, : 8 - 5 * step_noise], F.one_hot(labels, 3)], dim=1)
    wanted = generator.first_state(shared).tanh().chunk(4 if cell == "lstm" else 2, dim=1)
    found = torch.cat(states[0]) if cell == "lstm" else states[0]
    assert all(state.equal(given) for state, given in zip(found, wanted, strict=True))


def test_noise_of_each_step_alone_begins_with_zeros():
    generator = RecurrentGenerator((1, 5), 10, step_noise=2)
    assert generator.first_state is None and generator(torch.randn(3, 10)).shape == (3, 1, 5)
