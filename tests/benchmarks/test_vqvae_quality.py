import pytest
import torch
import vqvae_quality
from torch import nn
from unquantized import Unquantized

from lightning_gans import VQVAE

SMALL = {"width": 4, "code_dim": 2, "num_codes": 8, "prior_width": 4, "prior_layers": 1}


def digits(num=12):
    return torch.rand(num, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_control_is_the_autoencoder_without_a_codebook():
    torch.manual_seed(0)
    model, images = Unquantized(**SMALL).eval(), digits()
    whole = nn.Sequential(model.encoder, model.decoder)
    vectors = model.encoder(images)
    loss, terms = model.loss_terms(images, vectors, model.quantizer.nearest(vectors))
    wanted = (whole(images) - images).square().mean()
    assert terms["mse"] is loss
    parameters = list(whole.parameters())
    for one, other in zip(
        (loss, *torch.autograd.grad(loss, parameters)),
        (wanted, *torch.autograd.grad(wanted, parameters)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(model.reconstruct(images), whole(images).clamp(-1, 1))
    assert vqvae_quality.quality(model, images, block=5) == {"mse": pytest.approx(wanted.item(), rel=1e-5)}


def test_quality_counts_the_codes_of_all_images():
    torch.manual_seed(0)
    model, images = VQVAE(**SMALL).eval(), digits()
    for network in (model.quantizer, model.ema["quantizer"]):
        network.codebook[5:] = 100.0  # far from every vector
    found = vqvae_quality.quality(model, images, block=5)
    codes = model.codes_of(images)
    used, counts = codes.unique(return_counts=True)
    shares = counts / codes.numel()
    assert used.max() < 5 and found["code_usage"] == len(used) / 8
    assert found["perplexity"] == pytest.approx(float((-shares * shares.log()).sum().exp()), rel=1e-5)
    mse = (model.images_of(codes) - images).square().mean()
    assert found["mse"] == pytest.approx(float(mse), rel=1e-5)
