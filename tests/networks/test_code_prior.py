import itertools

import pytest
import torch

from lightning_gans import SettingError
from lightning_gans.networks import CodePrior


def make(num_codes=5, length=6, num_classes=0, **options):
    torch.manual_seed(0)
    prior = CodePrior(num_codes, length, 8, 2, 2, num_classes, **options)
    with torch.no_grad():
        for weight in prior.parameters():
            weight += 0.3 * torch.randn_like(weight)  # else all codes have nearly the same probability
    return prior


@pytest.mark.parametrize("labels", [None, torch.tensor([2])])
def test_the_probabilities_of_all_sequences_sum_to_one(labels):
    prior = make(3, 4, 0 if labels is None else 3).double()
    sequences = torch.tensor(list(itertools.product(range(3), repeat=4)))
    nll = prior.nll(sequences, None if labels is None else labels.expand(81))
    assert nll.neg().exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert nll.std() > 0.1


def test_a_code_depends_on_those_before_it_alone():
    prior, codes = make(), torch.randint(5, (7, 6))
    before = prior(codes[:, :-1])
    assert before.shape == (7, 6, 5)
    for place in range(5):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % 5
        after = prior(changed[:, :-1])
        torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1])
        assert (after[:, place + 1 :] - before[:, place + 1 :]).abs().amax(2).min() > 1e-6


@pytest.mark.parametrize("num_classes", [0, 3])
def test_one_place_after_the_other_gives_the_logits_of_all_at_once(num_classes):
    prior, codes = make(num_classes=num_classes), torch.randint(5, (7, 6))
    labels = torch.arange(7) % 3 if num_classes else None
    whole, memory = prior(codes[:, :-1], labels), []
    parts = [prior(codes[:, max(k - 1, 0) : k], labels, memory) for k in range(6)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_number_chooses_the_code_of_its_part_of_the_distribution(num_classes):
    prior, uniforms = make(num_classes=num_classes), torch.rand(40, 6)
    labels = torch.arange(40) % 3 if num_classes else None
    codes = prior.generate(uniforms, labels)
    ends = prior(codes[:, :-1], labels).softmax(2).cumsum(2)
    starts = torch.cat([torch.zeros(40, 6, 1), ends[:, :, :-1]], 2)
    low, high = (edges.gather(2, codes[:, :, None])[:, :, 0] for edges in (starts, ends))
    assert (low - 1e-5 <= uniforms).all() and (uniforms <= high + 1e-5).all()
    assert prior.generate(torch.ones(2, 6), None if labels is None else labels[:2]).eq(4).all()


def test_samples_have_the_probabilities_of_the_prior():
    prior = make(3, 2)
    sequences = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    wanted = prior.nll(sequences).neg().exp()
    codes = prior.generate(torch.rand(20_000, 2))
    found = (codes[:, 0] * 3 + codes[:, 1]).bincount(minlength=9) / 20_000
    torch.testing.assert_close(found, wanted.detach(), atol=0.012, rtol=0)


def test_class_weights_mix_the_embeddings():
    prior, codes = make(num_classes=3), torch.randint(5, (4, 6))
    labels = torch.tensor([0, 1, 2, 1])
    weights = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(prior.nll(codes, weights), prior.nll(codes, labels))
    assert not torch.allclose(prior.nll(codes, labels), prior.nll(codes, (labels + 1) % 3))


def test_labels_are_needed_or_unknown():
    with pytest.raises(SettingError):
        make().nll(torch.zeros(2, 6).long(), torch.zeros(2).long())
    with pytest.raises(SettingError):
        make(num_classes=3).nll(torch.zeros(2, 6).long())


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_codes", 0), ("length", 0), ("width", 7), ("num_layers", 0), ("num_heads", 0)],
)
def test_settings_that_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        CodePrior(**{"num_codes": 4, "length": 3, "width": 8, setting: value})
    assert error.value.setting == setting
