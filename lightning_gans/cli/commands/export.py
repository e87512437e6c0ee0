"""``lightning-gans export``: a model as ONNX, ``torch.export`` or safetensors, to use without this package."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans._version import __version__
from lightning_gans.cli.outputs import load_model
from lightning_gans.cli.run_folder import RunFolder, read_json
from lightning_gans.errors import DataError, SettingError, invalid
from lightning_gans.io.files import check_writable, replacing
from lightning_gans.models import GenerativeModule
from lightning_gans.training.checkpoint_format import public_name

_EXAMPLE, _CHECKED = 2, (1, 3, 8)
"""Batch sizes that the model is traced and compared with."""

_TOLERANCE = 1e-4


def run(checkpoint: str, output: str, encoder: bool = False, ema: bool = True, imports: Sequence[str] = ()) -> None:
    """Write the model and its card, after reading it back and comparing the outputs."""
    path = Path(output)
    if path.suffix not in _FORMATS:
        raise invalid("--output", output, f"a name that ends in {', '.join(_FORMATS)}")
    check_writable(path)
    card_file = check_writable(path.with_name(f"{path.name}.json"))
    model = load_model(checkpoint, "cpu", imports).float()
    if encoder and not hasattr(model, "encode"):
        raise SettingError(f"--encoder: a {type(model).__name__} has no encoder.", setting="--encoder")
    with torch.no_grad(), model.evaluating():
        exported = Exported(model, encoder=encoder, ema=ema).eval()
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
    print(f"{path}, which differs from the model by at most {difference:.1g}; {card_file}")


class Exported(nn.Module):
    """The map from latents to images, or from images to latents, with only the networks that it needs.

    Args:
        model: The model, whose networks are shared.
        encoder: Whether to map images to the means and log-variances of their latents.
        ema: Whether to use the moving averages of the weights.
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
        # Call the networks to find out which ones are needed.
        called: list[str] = []
        networks = {name: model.averaged(name, ema) for name in model.averaged_networks}
        hooks = [
            network.register_forward_pre_hook(lambda *_, name=name: called.append(name))
            for name, network in networks.items()
        ]
        self(*self.example(1))
        for hook in hooks:
            hook.remove()
        for name in called:
            self.add_module(name, networks[name])

    def example(self, num: int) -> tuple[Tensor, ...]:
        """Return a batch of ``num`` inputs."""
        inputs = torch.randn(num, *self.input_shape, generator=torch.Generator().manual_seed(num))
        if self.input_name == "images":
            inputs = inputs.tanh()
        return (inputs, torch.arange(num) % self.num_classes) if self.num_classes > 0 else (inputs,)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        """Call the model."""
        return self.call(inputs, labels, ema=self.ema)


_Export = tuple[bytes, Callable[[tuple[Tensor, ...]], Any]]
"""The content of the file, and a function that calls the exported model."""


def _onnx(exported: Exported) -> _Export:
    """Export to ONNX; run with onnxruntime."""
    import onnxruntime

    names = [exported.input_name, "labels"][: 1 + (exported.num_classes > 0)]
    with _quiet():
        program = torch.onnx.export(
            exported,
            exported.example(_EXAMPLE),
            dynamo=True,
            input_names=names,
            output_names=exported.output_names,
            dynamic_shapes=_dynamic(exported),
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
    """Export with ``torch.export``; run what is read back."""
    with _quiet():
        program = torch.export.export(
            exported, exported.example(_EXAMPLE), dynamic_shapes=_dynamic(exported), strict=False
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)

    def run(inputs: tuple[Tensor, ...]) -> Any:
        buffer.seek(0)
        with _quiet():
            return torch.export.load(buffer).module()(*inputs)

    return buffer.getvalue(), run


def _safetensors(exported: Exported) -> _Export:
    """Export the weights; call the networks with what is read back."""
    from safetensors.torch import load, save

    content = save({name: tensor.contiguous() for name, tensor in exported.state_dict().items()})
    return content, lambda inputs: torch.func.functional_call(exported, load(content), inputs)


_FORMATS = {".onnx": _onnx, ".pt2": _pt2, ".safetensors": _safetensors}


def _export(exported: Exported, suffix: str) -> _Export:
    """Export a model; raise :class:`DataError` if it cannot be traced."""
    try:
        return _FORMATS[suffix](exported)
    except Exception as error:
        if suffix == ".safetensors":
            raise
        why = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]  # torch.export's for ONNX
        kind = "ONNX" if suffix == ".onnx" else suffix
        message = f"the model cannot be exported as {kind}: {why[0]}; try .safetensors."
        raise DataError(message, setting="--output", value=suffix) from error


def _dynamic(exported: Exported) -> Any:
    """Declare that batches may have any size."""
    batch = torch.export.Dim("batch", min=1)
    return ({0: batch}, {0: batch} if exported.num_classes > 0 else None)[: 1 + (exported.num_classes > 0)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's messages about tracing."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()) as said,
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _largest_difference(exported: Exported, run: Callable[[tuple[Tensor, ...]], Any]) -> float:
    """Compare the export with the model on batches of several sizes."""
    differences = []
    for num in _CHECKED:
        inputs = exported.example(num)
        ours, theirs = (made if isinstance(made, tuple) else (made,) for made in (exported(*inputs), run(inputs)))
        differences += [float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)]
    return max(differences)


def _card(model: GenerativeModule, exported: Exported, checkpoint: str) -> dict[str, Any]:
    """Return the model card."""
    inputs = {exported.input_name: {"dtype": "float32", "shape": ["batch", *exported.input_shape]}}
    if exported.num_classes > 0:
        inputs["labels"] = {"dtype": "int64", "shape": ["batch"], "range": [0, exported.num_classes - 1]}
    pictures = {"dtype": "float32", "shape": ["batch", *model.image_shape], "range": [-1, 1]}
    codes = {"dtype": "float32", "shape": ["batch", model.latent_dim]}
    encoder = exported.input_name == "images"
    return {
        "class": public_name(type(model)),
        "hyperparameters": model.arguments,
        "networks": sorted(name for name, _ in exported.named_children()),
        "averaged_weights": exported.averaged,
        "inputs": inputs if encoder else inputs | {"latents": codes | {"distribution": "standard normal"}},
        "outputs": {"mean": codes, "log_variance": codes} if encoder else {"images": pictures},
        "step": model.weights_step,
        "images_seen": model.images_seen,
        "evaluation": _evaluation(
            checkpoint, model.weights_step, exported.averaged if model.ema_half_life > 0 else None
        ),
        "lightning_gans": __version__,
        "torch": str(torch.__version__),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _evaluation(checkpoint: str, step: int, ema: bool | None) -> dict[str, Any] | None:
    """Return the scores, with their protocol, that a run's folder has for a checkpoint.

    Args:
        checkpoint: The checkpoint.
        step: The update of its weights.
        ema: Whether the exported weights are the moving average; None if there is no difference.
    """
    found = read_json(RunFolder(Path(checkpoint).absolute().parent.parent).scores(step))
    try:
        scored = {found["protocol"][name] for name in ("ema", "likelihood_ema") if name in found["protocol"]} or {True}
        evaluation = {name: found[name] for name in ("stage", "scores", "protocol")}
    except (KeyError, TypeError):
        return None
    return evaluation if ema is None or scored == {ema} else None
