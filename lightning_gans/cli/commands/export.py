"""``lightning-gans export``: a model as ONNX, ``torch.export`` or safetensors, to use without this package."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans._version import __version__
from lightning_gans.cli.outputs import check_not_read, load_model, translation_options
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.errors import DataError, SettingError, invalid, missing_extra, printable
from lightning_gans.io.files import check_writable, replacing
from lightning_gans.models import GenerativeModule
from lightning_gans.training.arguments import public_name
from lightning_gans.training.sampling import labels_in_turn

_EXAMPLE, _CHECKED = 2, (1, 3, 8)
"""Batch sizes that the model is traced and compared with."""

_CHECKED_SIZES = ((1, (0, 0)), (3, (1, 2)))
"""Batch sizes that a translator is compared with, and by how many multiples the images are enlarged."""

_TOLERANCE = 1e-4

_ONNX = ("onnx", "onnxruntime", "onnxscript")


def run(
    checkpoint: str,
    output: str,
    encoder: bool = False,
    to: str | None = None,
    ema: bool = True,
    imports: Sequence[str] = (),
) -> None:
    """Write the model and its card, after reading it back and comparing the outputs."""
    path = Path(output)
    if path.suffix not in _FORMATS:
        raise invalid("--output", output, f"a name that ends in {', '.join(_FORMATS)}")
    if path.suffix == ".onnx" and not all(map(find_spec, _ONNX)):
        raise missing_extra("an ONNX file", "onnx", setting="--output", value=output)
    check_writable(path)
    card_file = check_writable(path.with_name(f"{path.name}.json"))
    read = [Path(checkpoint), *Path(checkpoint).glob("*")]  # a checkpoint, or a folder that `push` wrote
    for written in (path, card_file):
        check_not_read(written, read)
    model = load_model(checkpoint, "cpu", imports).float()
    if encoder and not hasattr(model, "encode"):
        raise SettingError(f"--encoder: a {type(model).__name__} has no encoder.", setting="--encoder")
    way = translation_options(model, to)
    with torch.no_grad(), model.evaluating(), warnings.catch_warnings(action="ignore"):  # torch warns while tracing
        translates = hasattr(model, "translator")
        exported: Exported = (
            ExportedTranslator(model, ema=ema, **way) if translates else Exported(model, encoder=encoder, ema=ema)
        )
        exported.eval()
        content, run_again = _export(exported, path.suffix)
        difference = _largest_difference(exported, run_again)
    if not difference <= _TOLERANCE:
        message = f"{path} was not written: the outputs of the export differ from the model's by {difference:.2g}."
        raise DataError(message, setting=str(path), value=difference, allowed=_TOLERANCE)
    with replacing(path) as file:
        file.write(content)
    file_facts = {"format": 1, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    card = file_facts | _card(model, exported, checkpoint) | {"largest_difference": difference}
    with replacing(card_file) as file:
        file.write(json.dumps(card, indent=2).encode())
    print(printable(f"{path}, which differs from the model by at most {difference:.1g}; {card_file}"))


class Exported(nn.Module):
    """A model's map from latents to images, or from images to the means and log-variances of their latents.

    It has only the networks that it calls, or their moving averages, and shares them with the model.
    """

    def __init__(self, model: Any, *, encoder: bool, ema: bool) -> None:
        super().__init__()
        self.call = model.encode if encoder else model.decode
        self.ema = ema
        self.averaged = ema and model.ema_half_life > 0
        self.input_name = "images" if encoder else "latents"
        self.output_names = ["mean", "log_variance"] if encoder else ["images"]
        self.input_shape = tuple(model.image_shape) if encoder else (model.latent_dim,)
        self.num_classes = model.num_classes
        self.labels = partial(labels_in_turn, model)
        networks = {name: model.averaged(name, ema) for name in model.averaged_networks}
        add = self.add_module  # only for the networks that are called
        hooks = [
            network.register_forward_pre_hook(lambda network, _, name=name: add(name, network))
            for name, network in networks.items()
        ]
        self(*self.example(1))
        for hook in hooks:
            hook.remove()

    def example(self, num: int = _EXAMPLE) -> tuple[Tensor, ...]:
        """Return a batch of ``num`` inputs, with which the model is traced."""
        inputs = torch.randn(num, *self.input_shape, generator=torch.Generator().manual_seed(num))
        if self.input_name == "images":
            inputs = inputs.tanh()
        labels = self.labels(num)
        return (inputs,) if labels is None else (inputs, labels)

    def examples(self) -> list[tuple[Tensor, ...]]:
        """Return the batches that the model is compared with."""
        return [self.example(num) for num in _CHECKED]

    def dynamic(self) -> Any:
        """Declare that batches may have any size."""
        batch = torch.export.Dim("batch", min=1)
        return ({0: batch}, {0: batch})[: 1 + (self.num_classes > 0)]

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        """Call the model."""
        return self.call(inputs, labels, ema=self.ema)


class ExportedTranslator(Exported):
    """A model's map from sources to targets, or the other way, for images of any height and width."""

    def __init__(self, model: Any, *, ema: bool, **way: str) -> None:
        nn.Module.__init__(self)
        network = model.translator(ema=ema, **way)
        self.name = next(name for name in model.averaged_networks if model.averaged(name, ema) is network)
        self.add_module(self.name, network)
        self.averaged = ema and model.ema_half_life > 0
        self.multiple: int = getattr(network, "multiple", 1)
        self.input_name, self.output_names, self.num_classes = "sources", ["images"], 0
        shapes, scales = (model.source_shape, model.image_shape), (model.source_scale, model.image_scale)
        reverse = way.get("to") == "source"
        self.shapes, self.scales = (shapes[::-1], scales[::-1]) if reverse else (shapes, scales)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        """Translate images."""
        return getattr(self, self.name)(inputs).clamp(-1, 1)

    def _images(self, num: int, *sides: int) -> tuple[Tensor]:
        """Return a batch of images."""
        shape = num, self.shapes[0][0], *sides
        return (torch.rand(shape, generator=torch.Generator().manual_seed(num)) * 2 - 1,)

    def example(self, num: int = _EXAMPLE) -> tuple[Tensor, ...]:
        """Return images with different sides of two multiples or more: torch takes 1 and equal sides for constants."""
        height, width = (max(side, 2 * self.multiple) for side in self.shapes[0][1:])
        return self._images(num, height, width + self.multiple * (height == width))

    def examples(self) -> list[tuple[Tensor, ...]]:
        """Return the batches that the model is compared with."""
        _, height, width = self.shapes[0]
        return [
            self._images(num, height + down * self.multiple, width + right * self.multiple)
            for num, (down, right) in _CHECKED_SIZES
        ]

    def dynamic(self) -> Any:
        """Declare that batches, and height and width in multiples, may have any size."""
        batch, *sides = (torch.export.Dim(name, min=1) for name in ("batch", "high", "wide"))
        height, width = (self.multiple * side if self.multiple > 1 else side for side in sides)
        return ({0: batch, 2: height, 3: width},)


_Export = tuple[bytes, Callable[[tuple[Tensor, ...]], Any]]
"""The content of the file, and a function that calls the exported model."""


def _onnx(exported: Exported) -> _Export:
    """Export to ONNX; run with onnxruntime."""
    import onnxruntime

    names = [exported.input_name, "labels"][: 1 + (exported.num_classes > 0)]
    program = torch.onnx.export(
        exported,
        exported.example(),
        dynamo=True,
        input_names=names,
        output_names=exported.output_names,
        dynamic_shapes=exported.dynamic(),
        verbose=False,
    )
    assert program is not None
    content = program.model_proto.SerializeToString()

    def run(inputs: tuple[Tensor, ...]) -> Any:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return tuple(torch.from_numpy(output) for output in outputs)

    return content, run


def _pt2(exported: Exported) -> _Export:
    """Export with ``torch.export``; run the program that is read back."""
    example, buffer = exported.example(), io.BytesIO()
    # Otherwise a U-Net's program would reject images whose innermost features have one pixel. Other programs need this
    # information about their batches.
    config: Any = torch.fx.experimental._config
    with config.patch(backed_size_oblivious=isinstance(exported, ExportedTranslator)):
        program = torch.export.export(exported, example, dynamic_shapes=exported.dynamic(), strict=False)
    torch.export.save(program, buffer)
    content = buffer.getvalue()
    return content, lambda inputs: torch.export.load(io.BytesIO(content)).module()(*inputs)


def _safetensors(exported: Exported) -> _Export:
    """Export the weights; call the networks with the weights that are read back."""
    from safetensors.torch import load, save

    content = save({name: tensor.contiguous() for name, tensor in exported.state_dict().items()})
    return content, lambda inputs: torch.func.functional_call(exported, load(content), inputs)


_FORMATS = {".onnx": _onnx, ".pt2": _pt2, ".safetensors": _safetensors}


def _export(exported: Exported, suffix: str) -> _Export:
    """Export a model; raise :class:`DataError` if it cannot be traced."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch logs and prints how a trace failed
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
            return _FORMATS[suffix](exported)
    except Exception as error:
        if suffix == ".safetensors":
            raise
        why = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]  # torch.export's for ONNX
        kind = "ONNX" if suffix == ".onnx" else suffix
        message = f"the model cannot be exported as {kind}: {why[0]}; try .safetensors."
        raise DataError(message, setting="--output", value=suffix) from error
    finally:
        logging.disable(disabled)


def _largest_difference(exported: Exported, run: Callable[[tuple[Tensor, ...]], Any]) -> float:
    """Compare the export with the model on batches of several sizes."""
    differences = []
    for inputs in exported.examples():
        ours, theirs = (made if isinstance(made, tuple) else (made,) for made in (exported(*inputs), run(inputs)))
        differences += [float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)]
    return max(differences)


def _sides(model: GenerativeModule, exported: Exported) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what goes into the model and what comes out."""
    number = {"dtype": "float32"}
    if isinstance(exported, ExportedTranslator):
        (source, target), (given, made) = exported.shapes, exported.scales
        factor = target[1] // source[1]
        size = ["height", "width"]
        larger = size if factor == 1 else [f"{factor} * {side}" for side in size]
        sources = number | {"shape": ["batch", source[0], *size], "range": [-1, 1], "values": asdict(given)}
        images = number | {"shape": ["batch", target[0], *larger], "range": [-1, 1], "values": asdict(made)}
        return {"sources": sources | {"multiples_of": exported.multiple}}, {"images": images}
    inputs: dict[str, Any] = {exported.input_name: number | {"shape": ["batch", *exported.input_shape]}}
    if exported.num_classes > 0:
        inputs["labels"] = {"dtype": "int64", "shape": ["batch"], "range": [0, exported.num_classes - 1]}
        if (attributes := model.attributes) is not None:
            about = zip(attributes.names, attributes.lows, attributes.highs, strict=True)
            inputs["labels"] = number | {
                "shape": ["batch", exported.num_classes],
                "attributes": [{"name": name, "0": low, "1": high} for name, low, high in about],
            }
    if exported.input_name == "images":
        codes = number | {"shape": ["batch", model.latent_dim]}
        return inputs, {"mean": codes, "log_variance": codes}
    inputs["latents"] |= {"distribution": _distribution(model)}
    shape, values = ["batch", *model.image_shape], asdict(model.image_scale)
    return inputs, {"images": number | {"shape": shape, "range": [-1, 1], "values": values}}


def _card(model: GenerativeModule, exported: Exported, checkpoint: str) -> dict[str, Any]:
    """Return the model card."""
    inputs, outputs = _sides(model, exported)
    run = RunFolder(Path(checkpoint).absolute().parent.parent)
    evaluation = run.evaluation(model.weights_step, exported.averaged if model.ema_half_life else None)
    return {
        "class": public_name(type(model)),
        "hyperparameters": model.arguments,
        "networks": sorted(name for name, _ in exported.named_children()),
        "averaged_weights": exported.averaged,
        "inputs": inputs,
        "outputs": outputs,
        "step": model.weights_step,
        "images_seen": model.images_seen,
        "evaluation": evaluation and {name: evaluation[name] for name in ("stage", "scores", "protocol")},
        "lightning_gans": __version__,
        "torch": str(torch.__version__),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _distribution(model: Any) -> str:
    prior = getattr(model, "prior", None)
    return f"that of the model's latents(), a {prior} prior" if prior in ("vamp", "mixture") else "standard normal"
