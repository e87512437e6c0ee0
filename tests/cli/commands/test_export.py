"""Exported models, which work without this package."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gans import GAN, load
from lightning_gans.cli.commands import export
from lightning_gans.cli.main import main
from tests.cli.commands.conftest import MODELS

SIZES = (1, 5, 11)


def inputs_for(model, num, encoder=False):
    """Return what a model's export takes, and what the model makes of it."""
    torch.manual_seed(num)
    labels = None if model.num_classes == 0 else torch.randint(model.num_classes, (num,))
    with torch.no_grad(), model.evaluating():
        if encoder:
            first = torch.rand(num, *model.image_shape) * 2 - 1
            made = model.encode(first, labels)
        else:
            first = torch.randn(num, model.latent_dim)
            made = (model.decode(first, labels),)
    return [first] if labels is None else [first, labels], made


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
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


def test_the_files_are_read_with_no_import_of_ours(checkpoints):
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


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "safetensors"])
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


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
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
