"""Exported models, which work without this package."""

import json
import subprocess
import sys
import textwrap
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gans import GAN, CycleGAN, Pix2Pix, load
from lightning_gans.cli.commands import export
from lightning_gans.cli.main import main
from lightning_gans.io.arrays import Scale
from lightning_gans.training import checkpoint_format
from lightning_gans.training.sampling import labels_in_turn
from tests.cli.commands.conftest import MODELS

pytestmark = pytest.mark.slow

SIZES = (1, 5, 11)
ONNX = pytest.param("onnx", marks=pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs the extra onnx"))


def inputs_for(model, num, encoder=False):
    """Return what a model's export takes, and what the model makes of it."""
    torch.manual_seed(num)
    labels = labels_in_turn(model, num, start=1)
    with torch.no_grad(), model.evaluating():
        if encoder:
            first = torch.rand(num, *model.image_shape) * 2 - 1
            made = model.encode(first, labels)
        else:
            first = torch.randn(num, model.latent_dim)
            made = (model.decode(first, labels),)
    return [first] if labels is None else [first, labels], made


QUICK = ("gan", "vae", "conditional_conv")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
@pytest.mark.parametrize("suffix", [ONNX, "pt2"])
def test_every_model_is_the_same_elsewhere_for_batches_of_any_size(checkpoints, name, suffix, capsys):
    main(["export", checkpoints[name], "--output", f"m.{suffix}"])
    assert f"m.{suffix}.json" in capsys.readouterr().out
    model = load(checkpoints[name])
    for num in SIZES:
        given, (expected,) = inputs_for(model, num)
        if suffix == "pt2":
            made = torch.export.load("m.pt2").module()(*given)
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
            names = [entry.name for entry in session.get_inputs()]
            assert names == ["latents", "labels"][: len(given)]
            (array,) = session.run(["images"], dict(zip(names, map(np.asarray, given), strict=True)))
            made = torch.from_numpy(array)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    assert expected.std() > 1e-3  # a picture, not a constant


@pytest.mark.parametrize("name", ["vae", "conditional_vae", "vae_gan"])
def test_an_encoder_is_exported_as_well(checkpoints, name):
    main(["export", checkpoints[name], "--output", "e.pt2", "--encoder"])
    model = load(checkpoints[name])
    given, expected = inputs_for(model, 5, encoder=True)
    for made, ours in zip(torch.export.load("e.pt2").module()(*given), expected, strict=True):
        torch.testing.assert_close(made, ours, rtol=0, atol=1e-4)
    card = json.loads(Path("e.pt2.json").read_text())
    assert card["networks"] == ["encoder"] and list(card["outputs"]) == ["mean", "log_variance"]


@pytest.mark.slow
def test_the_files_are_read_with_no_import_of_ours(checkpoints):
    pytest.importorskip("onnxscript")
    for suffix in ("onnx", "pt2", "safetensors"):
        main(["export", checkpoints["conditional"], "--output", f"m.{suffix}"])
    model = load(checkpoints["conditional"])
    given, (expected,) = inputs_for(model, 5)
    torch.save([*given, expected], "expected.pt")
    script = """
        import sys
        import numpy, onnxruntime, torch
        from safetensors.torch import load_file

        noise, labels, expected = torch.load("expected.pt")
        session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
        (array,) = session.run(None, {"latents": noise.numpy(), "labels": labels.numpy()})
        made = [torch.from_numpy(array), torch.export.load("m.pt2").module()(noise, labels)]
        weights = load_file("m.safetensors")
        generator = torch.nn.Sequential(
            torch.nn.Linear(7, 6, bias=False), torch.nn.BatchNorm1d(6), torch.nn.LeakyReLU(0.2), torch.nn.Linear(6, 64)
        ).eval()
        places = {"generator.hidden.0": "0", "generator.hidden.1": "1", "generator.output": "3"}
        generator.load_state_dict(
            {f"{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in weights.items()}
        )
        hidden = torch.cat([noise, torch.nn.functional.one_hot(labels, 3)], 1)
        made.append(generator(hidden).tanh().view(5, 1, 8, 8))
        for images in made:
            torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
        assert not any(name.startswith(("lightning_gans", "pytorch_lightning")) for name in sys.modules)
    """
    subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(script)], check=True, timeout=120)


def test_the_card_says_what_is_in_the_file(checkpoints, tmp_path):
    run = tmp_path / "runs" / "x" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics").mkdir()
    copy = run / "checkpoints" / "last.ckpt"
    copy.write_bytes(Path(checkpoints["conditional"]).read_bytes())
    scores = {"format": 1, "stage": "val", "scores": {"fid": 1.5}, "protocol": {"extractor": "mnist"}}
    (run / "metrics" / "step=0000000.json").write_text(json.dumps(scores))
    main(["export", str(copy), "--output", "m.safetensors"])
    card = json.loads(Path("m.safetensors.json").read_text())
    assert card["class"] == "lightning_gans.ConditionalGAN"
    assert card["hyperparameters"]["generator_dims"] == [6] and card["hyperparameters"]["num_classes"] == 3
    assert card["inputs"]["latents"]["shape"] == ["batch", 4] and card["inputs"]["labels"]["range"] == [0, 2]
    assert card["outputs"]["images"]["shape"] == ["batch", 1, 8, 8]
    assert card["networks"] == ["generator"] and card["averaged_weights"]
    assert card["evaluation"] == {name: scores[name] for name in ("stage", "scores", "protocol")}
    assert card["largest_difference"] == 0
    for scored, no_ema, told in ((True, True, False), (False, True, True), (False, False, False), (True, False, True)):
        scores["protocol"]["ema"] = scored
        (run / "metrics" / "step=0000000.json").write_text(json.dumps(scores))
        main(["export", str(copy), "--output", "m.safetensors", *["--no_ema"] * no_ema])
        assert (json.loads(Path("m.safetensors.json").read_text())["evaluation"] is not None) == told


@pytest.mark.parametrize("suffix", [ONNX, "pt2", "safetensors"])
def test_an_export_that_differs_is_not_written(checkpoints, suffix, monkeypatch, capsys, tmp_path):
    calls = []
    honest = export.Exported.forward

    def drifting(self, inputs, labels=None):  # what is traced or read back is not what it is compared with
        calls.append(inputs)
        return honest(self, inputs, labels) + 1e-3 * len(calls)

    monkeypatch.setattr(export.Exported, "forward", drifting)
    with pytest.raises(SystemExit):
        main(["export", checkpoints["gan"], "--output", f"m.{suffix}"])
    assert "differ from the model's by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [ONNX, "pt2"])
def test_a_model_that_cannot_be_traced_is_an_error(checkpoints, suffix, monkeypatch, capsys, tmp_path):
    honest = GAN.decode

    def choosy(self, *args, **options):
        images = honest(self, *args, **options)
        return -images if float(images.mean()) > 2 else images

    monkeypatch.setattr(GAN, "decode", choosy)
    with pytest.raises(SystemExit) as stopped:
        main(["export", checkpoints["gan"], "--output", f"m.{suffix}"])
    said = capsys.readouterr().err
    kind = "ONNX" if suffix == "onnx" else ".pt2"
    assert stopped.value.code == 1 and len(said.splitlines()) == 1
    assert f"cannot be exported as {kind}: Could not guard" in said and "try .safetensors" in said
    assert not list(tmp_path.iterdir())


TRANSLATORS = {
    "pix2pix": lambda: Pix2Pix((3, 32, 32), (1, 32, 32), width=4, num_layers=1, depth=3),
    "nearest": lambda: Pix2Pix((3, 16, 32), width=4, num_layers=1, upsampling="nearest", input_skip=True),
    "inpaint": lambda: Pix2Pix((1, 16, 32), inpaint=True, width=4, num_layers=1),
    "super_resolution": lambda: Pix2Pix((1, 32, 32), (1, 16, 16), width=4, num_layers=1),
    "cycle_gan": lambda: CycleGAN((1, 16, 16), width=4, num_blocks=1, num_layers=1, pool_size=0, affine=True),
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *[("pix2pix", []), ("pix2pix", ["--no_ema"]), ("nearest", []), ("inpaint", []), ("super_resolution", [])],
        *[("cycle_gan", []), ("cycle_gan", ["--to", "source"])],
    ],
)
@pytest.mark.parametrize("suffix", [ONNX, "pt2"])
def test_translators_take_images_of_any_size(tmp_path, name, words, suffix):
    torch.manual_seed(0)
    model = TRANSLATORS[name]()
    for weight_of, weight in model.named_parameters():  # the averages differ; an affine map keeps the image in view
        weight.data += (0.001 if weight_of.endswith(".shift") else 0.1) * torch.randn_like(weight)
    model.source_scale = Scale(0, 4000, "uint16")
    checkpoint = {"state_dict": model.state_dict(), "global_step": 0, "pytorch-lightning_version": "2.6.6"}
    checkpoint_format.describe(model, checkpoint)
    torch.save(checkpoint, "model.ckpt")
    main(["export", "model.ckpt", "--output", f"m.{suffix}", *words])
    card = json.loads(Path(f"m.{suffix}.json").read_text())
    sides = {"sources": model.source_scale, "images": model.image_scale}
    if "--to" in words:
        sides = {"sources": model.image_scale, "images": model.source_scale}
    assert card["inputs"]["sources"]["values"] == asdict(sides["sources"])
    assert card["outputs"]["images"]["values"] == asdict(sides["images"])
    assert card["networks"] == [{"cycle_gan": f"to_{(*words, 'target')[1 if words else 0]}"}.get(name, "generator")]
    multiple, options = card["inputs"]["sources"]["multiples_of"], {"ema": "--no_ema" not in words}
    if "--to" in words:
        options["to"] = "source"
    for num, sides in ((1, (1, 1)), (5, (7, 4)), (2, (3, 11))):
        height, width = (max(8, multiple) * side for side in sides)
        images = torch.rand(num, model.source_shape[0], height, width) * 2 - 1
        expected = model.translate(images, **options)
        if suffix == "pt2":
            made = torch.export.load("m.pt2").module()(images)
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
            made = torch.from_numpy(session.run(["images"], {"sources": images.numpy()})[0])
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
        assert expected.std() > 1e-3


def test_the_direction_of_what_has_none_is_an_error(checkpoints, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", checkpoints["gan"], "--output", "m.pt2", "--to", "source"])
    assert stopped.value.code == 2 and "does not translate" in capsys.readouterr().err


def test_a_card_that_cannot_be_written_is_an_error_before_any_work(tmp_path, capsys):
    (tmp_path / "m.pt2.json").mkdir()
    with pytest.raises(SystemExit):
        main(["export", "nosuch.ckpt", "--output", "m.pt2"])
    assert "m.pt2.json is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--output", "m.onxx"], "'m.onxx'"), (["--output", "m.pt2", "--encoder"], "--encoder: a GAN has no encoder")],
)
def test_what_cannot_be_exported_is_an_error(checkpoints, args, message, capsys):
    with pytest.raises(SystemExit):
        main(["export", checkpoints["gan"], *args])
    assert message in capsys.readouterr().err
