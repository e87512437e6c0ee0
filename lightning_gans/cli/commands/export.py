"""``lightning-gans export``: a model as a file that needs nothing of ours: ONNX, ``torch.export`` or safetensors."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lightning_gans
from lightning_gans.cli.outputs import add_model_arguments, load_model
from lightning_gans.errors import DataError, SettingError
from lightning_gans.io.files import check_writable, replacing
from lightning_gans.models import GenerativeModule

_EXAMPLE, _CHECKED = 2, (1, 3, 8)
"""Rows of the batch that the model is traced with, and of those that the export is compared on."""

_TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    add_model_arguments(parser, device=False)
    parser.add_argument(
        "--output", required=True, help="FILE.onnx, FILE.pt2 or FILE.safetensors; beside it a card, FILE.onnx.json …"
    )
    parser.add_argument("--encoder", action="store_true", help="write a VAE's encoder, not what makes images")


def run(args: argparse.Namespace) -> None:
    """Write the model and its card, after it was read back and compared."""
    output = Path(args.output)
    if output.suffix not in _FORMATS:
        raise SettingError(f"--output is {args.output!r}: give a name that ends in {', '.join(_FORMATS)}.")
    check_writable(output)
    card_file = check_writable(output.with_name(f"{output.name}.json"))
    model = load_model(args).float()
    if args.encoder and not hasattr(model, "encode"):
        raise SettingError(f"--encoder: a {type(model).__name__} has none.")
    with torch.no_grad(), model.evaluating():
        exported = Exported(model, encoder=args.encoder, ema=not args.no_ema).eval()
        content, run_again = _written(exported, output.suffix)
        difference = _largest_difference(exported, run_again)
    if not difference <= _TOLERANCE:
        raise DataError(f"{output} was not written: what was exported differs from the model by {difference:.2g}.")
    with replacing(output) as file:
        file.write(content)
    card = _card(args, model, exported, output, content, difference)
    with replacing(card_file) as file:
        file.write(json.dumps(card, indent=2).encode())
    print(f"{output}, which differs from the model by {difference:.1g} at most; {card_file}")


class Exported(nn.Module):
    """What maps latents to images, or images to latents, with the networks that this takes and no others.

    Args:
        model: The model, whose networks are shared.
        encoder: Whether it is the way from images to the means and log-variances of their latents.
        ema: Whether to take the moving averages of the weights.
    """

    def __init__(self, model: Any, *, encoder: bool, ema: bool) -> None:
        super().__init__()
        self.call = model.encode if encoder else model.decode
        self.ema = ema
        self.input_name = "images" if encoder else "latents"
        self.output_names = ["mean", "log_variance"] if encoder else ["images"]
        self.input_shape = tuple(model.image_shape) if encoder else (model.latent_dim,)
        self.num_classes = model.num_classes
        # Which of the networks are called is seen by calling them.
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
        """Return inputs for ``num`` rows."""
        inputs = torch.randn(num, *self.input_shape, generator=torch.Generator().manual_seed(num))
        if self.input_name == "images":
            inputs = inputs.tanh()
        return (inputs, torch.arange(num) % self.num_classes) if self.num_classes > 0 else (inputs,)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        """Call the model."""
        return self.call(inputs, labels, ema=self.ema)


_Written = tuple[bytes, Callable[[tuple[Tensor, ...]], Any]]
"""What is written, and a function that reads it and calls what it holds."""


def _onnx(exported: Exported) -> _Written:
    """Trace to ONNX, and run it with onnxruntime."""
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


def _pt2(exported: Exported) -> _Written:
    """Trace with ``torch.export``, and read it back."""
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


def _safetensors(exported: Exported) -> _Written:
    """Write the weights, and call the networks with what is read back."""
    from safetensors.torch import load, save

    content = save({name: tensor.contiguous() for name, tensor in exported.state_dict().items()})
    return content, lambda inputs: torch.func.functional_call(exported, load(content), inputs)


_FORMATS = {".onnx": _onnx, ".pt2": _pt2, ".safetensors": _safetensors}


def _written(exported: Exported, suffix: str) -> _Written:
    """Return what is to be written; a model that runs and cannot be traced is no mistake, and is told so."""
    try:
        return _FORMATS[suffix](exported)
    except Exception as error:
        if suffix == ".safetensors":
            raise
        why = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]  # of ONNX: torch.export's
        kind = "ONNX" if suffix == ".onnx" else suffix
        raise DataError(f"the model cannot be exported as {kind}: {why[0]}; try .safetensors.") from error


def _dynamic(exported: Exported) -> Any:
    """Say that batches may have any size."""
    batch = torch.export.Dim("batch", min=1)
    return ({0: batch}, {0: batch} if exported.num_classes > 0 else None)[: 1 + (exported.num_classes > 0)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says of its own insides while it traces."""
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
    """Compare what was exported with the model, on batches of several sizes."""
    differences = []
    for num in _CHECKED:
        inputs = exported.example(num)
        ours, theirs = (made if isinstance(made, tuple) else (made,) for made in (exported(*inputs), run(inputs)))
        differences += [float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)]
    return max(differences)


def _card(
    args: argparse.Namespace,
    model: GenerativeModule,
    exported: Exported,
    output: Path,
    content: bytes,
    difference: float,
) -> dict[str, Any]:
    """Return what a user of the file has to know of it."""
    inputs = {exported.input_name: {"dtype": "float32", "shape": ["batch", *exported.input_shape]}}
    if exported.num_classes > 0:
        inputs["labels"] = {"dtype": "int64", "shape": ["batch"], "range": [0, exported.num_classes - 1]}
    pictures = {"dtype": "float32", "shape": ["batch", *model.image_shape], "range": [-1, 1]}
    codes = {"dtype": "float32", "shape": ["batch", model.latent_dim]}
    averaged = not args.no_ema and model.ema_half_life > 0
    return {
        "format": 1,
        "file": output.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "hyperparameters": model.arguments,
        "networks": sorted(name for name, _ in exported.named_children()),
        "averaged_weights": averaged,
        "inputs": inputs if args.encoder else inputs | {"latents": codes | {"distribution": "standard normal"}},
        "outputs": {"mean": codes, "log_variance": codes} if args.encoder else {"images": pictures},
        "largest_difference": difference,
        "step": model.weights_step,
        "images_seen": model.images_seen,
        "evaluation": _evaluation(
            Path(args.checkpoint), model.weights_step, averaged if model.ema_half_life > 0 else None
        ),
        "lightning_gans": lightning_gans.__version__,
        "torch": str(torch.__version__),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _evaluation(checkpoint: Path, step: int, ema: bool | None) -> Mapping[str, Any] | None:
    """Return the scores that a run's folder holds for a checkpoint's weights, with the protocol they were made under.

    Args:
        checkpoint: The checkpoint.
        step: Of its weights.
        ema: Whether they are the moving average; None where there is no difference.
    """
    path = checkpoint.absolute().parent.parent / "metrics" / f"step={step:07d}.json"
    try:
        found = json.loads(path.read_bytes())
        scored = {found["protocol"][name] for name in ("ema", "likelihood_ema") if name in found["protocol"]} or {True}
        told = {name: found[name] for name in ("stage", "scores", "protocol")}
        return told if ema is None or scored == {ema} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
