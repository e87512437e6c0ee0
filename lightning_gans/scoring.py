"""Scores of one set of images against another: folders, files, data sets, or a model's samples."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans import randomness
from lightning_gans.errors import DataError, SettingError, check_choice, check_choices, check_counts, invalid, nearest
from lightning_gans.io.files import expanded
from lightning_gans.metrics.evaluate import Evaluator, sample_bytes
from lightning_gans.metrics.extractors import make_extractor
from lightning_gans.metrics.image_sets import ImageSet, as_bytes, paired, read_images
from lightning_gans.metrics.processes import OneProcess
from lightning_gans.metrics.protocol import made
from lightning_gans.metrics.samples import BLOCK, data_labels_in_turn, image_shape
from lightning_gans.metrics.scores import METRICS, ON_REQUEST, FeatureSet, Reference, Settings
from lightning_gans.metrics.translations import DISTANCES, SIMILARITIES, Translations
from lightning_gans.randomness import Stream

DATA_SETS = {"mnist": "MNISTDataModule", "cifar10": "CIFAR10DataModule", "digits": "DigitsDataModule"}
"""Data modules of the data sets that can be named."""

_SPLITS = ("train", "val", "test")


class Samples:
    """Samples of a module by index, uint8 ``(N, C, H, W)``, generated on access."""

    dtype = torch.uint8

    def __init__(self, module: Any, num: int, seed: int, ema: bool) -> None:
        self.module, self.seed, self.ema = module, seed, ema
        self.shape = (num, *image_shape(module))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: slice) -> Tensor:
        start, stop, _ = places.indices(len(self))
        return sample_bytes(self.module, start, stop, self.seed, self.ema)


def score(
    fake: Any,
    real: Any,
    *,
    pairs: bool = False,
    metrics: Sequence[str] | None = None,
    num: int | None = None,
    extractor: str | nn.Module = "auto",
    weights_path: str | None = None,
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    settings: Settings | None = None,
    floor: bool = True,
    seed: int = 0,
    ema: bool = True,
    data_dir: str | Path = "data",
    convert: bool = False,
    imports: Iterable[str] = (),
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Score generated images against real ones.

    Each image is read or generated once, and its features are extracted once, in blocks of 250.

    Args:
        fake: A folder of pictures at any depth; an ``.npz``, ``.npy`` or ``.pt`` file of images, see
            :func:`~lightning_gans.metrics.image_sets.read_images`; a tensor of them; a checkpoint, or any module with a
            method ``sample``; or the name of a data set, ``mnist``, ``cifar10`` or ``digits``, with its split as in
            ``mnist/test`` (``train`` if it is missing).
        real: The same.
        pairs: Whether to compare each generated image with its target instead, by
            :class:`~lightning_gans.metrics.Translations`: the real image with the same file name, or the same index if
            one of the two is not a folder. There is no floor, and the extractor and the settings have no effect.
        metrics: Names of metrics, as in :class:`~lightning_gans.GenerativeMetrics`, or with ``pairs`` those of
            :class:`~lightning_gans.metrics.Translations`; None uses the default metrics.
        num: Number of images to use from each set: the first samples of a model, a random choice from any other set.
            None uses all images, and as many samples of a model as there are real images.
        extractor: Network that maps images to features; ``auto`` prefers the extractor of the data set that ``real``
            names; see :func:`~lightning_gans.metrics.make_extractor`.
        weights_path: File of the extractor's weights.
        device: Device for a model and for the extractor.
        batch_size: Images per forward pass of the extractor; None uses the extractor's default.
        settings: Parameters of the metrics.
        floor: Whether to score one random half of the real images against the other, for comparison.
        seed: Seed of samples, and of random choices.
        ema: Whether a model's samples come from the moving average of the weights.
        data_dir: Folder of torchvision's data sets.
        convert: Whether to convert pictures with unusual modes (such as CMYK or 16 bits) instead of raising an error.
        imports: Your modules whose networks a checkpoint may name.
        progress: Called after each block with its number of images.

    Returns:
        ``scores``, their ``protocol``, the ``floor``, and the ``seconds`` of each part, as in the files that
        :func:`~lightning_gans.metrics.compare` reads.

    Raises:
        DataError: Images are missing, unreadable or not finite, or do not form pairs.
        SettingError: A setting is invalid, there are too few images, or a module has no method ``sample``.

    Example:
        >>> images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
        >>> record = score(images[:30], images[30:], metrics=["fid", "precision"], floor=False)
        >>> sorted(record["scores"])
        ['fid', 'precision']
    """
    check_choices("metrics", metrics or (), (*SIMILARITIES, *DISTANCES) if pairs else (*METRICS, *ON_REQUEST))
    if num is not None:
        check_counts(num=num)
    if imports:
        _imported("training.allowed_classes", "trust")(*imports)
    options: dict[str, Any] = {"seed": seed, "ema": ema, "data_dir": data_dir, "convert": convert, "imports": imports}
    if pairs:
        sets = (
            open_images(name, source, **options, resize=False) for name, source in {"fake": fake, "real": real}.items()
        )
        return _score_pairs(*paired(*sets), num, seed, Translations(metrics or SIMILARITIES), device, progress)
    reals = open_images("real", real, num, device=device, **options)
    fakes = open_images("fake", fake, num or len(reals), device=device, **options)
    for setting, images in (("real", reals), ("fake", fakes)):
        if len(images) < 2:
            raise invalid(f"the number of {setting} images", len(images), "2 or more")
    channels = max(images.images.shape[1] for images in (reals, fakes))
    network = make_extractor(extractor, (channels, *reals.images.shape[2:]), weights_path, reals.default_extractor)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
        network.block_size = network.accelerator_block_size = batch_size
    settings = settings or Settings()
    evaluator = Evaluator(network, metrics or METRICS, settings, strategy=OneProcess(device))
    real_features, real_digest, real_seconds = _extract(evaluator, reals, channels, progress)
    fake_features, fake_digest, fake_seconds = _extract(evaluator, fakes, channels, progress)
    about = {"data": reals.name, "split": "whole", "data_sha256": real_digest, "num_real": len(reals)}
    reference = Reference(real_features, settings, None, {}, about, reals.class_names)
    evaluator.warn_of_few_images(len(fakes), len(reals))
    scores, seconds = evaluator.compare(fake_features, reference)
    sizes = {"num_samples": len(fakes)} | settings.fitted(len(reals), len(fakes))
    return {
        "stage": "score",
        "fake": fakes.name,
        "fake_sha256": fake_digest,
        "scores": scores,
        "floor": _floor(evaluator, reference, fake_features, seed) if floor else None,
        "protocol": network.describe() | about | sizes,
        "seconds": {name: real_seconds[name] + fake_seconds[name] for name in real_seconds} | seconds,
        **made(),
    }


def open_images(
    setting: str,
    source: Any,
    num: int | None = None,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    ema: bool = True,
    data_dir: str | Path = "data",
    convert: bool = False,
    imports: Iterable[str] = (),
    resize: bool = True,
) -> ImageSet:
    """Open what :func:`score` takes; ``setting`` is its name for errors."""
    if isinstance(source, (str, Path)) and Path(source).suffix == ".ckpt":
        source = _imported("models", "load")(source, device, imports=imports)
    if callable(getattr(source, "sample", None)):
        if num is None:
            message = f"{setting} is a model: set num, the number of samples. Samples cannot form pairs."
            raise SettingError(message, setting="num")
        if len(image_shape(source)) != 3:
            message = f"{setting} is a {type(source).__name__} of sequences: only images can be scored."
            raise SettingError(message, setting=setting, value=image_shape(source))
        return ImageSet(type(source).__name__, Samples(source, num, seed, ema), data_labels_in_turn(source, num))
    name, _, split = str(source).partition("/")
    if isinstance(source, str) and name in DATA_SETS and not Path(source).exists():
        check_choice(f"the split of {setting}", split or "train", _SPLITS)
        found_in: dict[str, Any] = {} if name == "digits" else {"data_dir": data_dir}
        data: Any = _imported("datamodules", DATA_SETS[name])(**found_in)
        found = data.split_images(split or "train")
        images = ImageSet(
            f"{name}/{split or 'train'}", found, found.labels, tuple(data.class_names), data.default_extractor
        )
    elif isinstance(source, (str, Path)):
        if not expanded(source).exists():
            hint = nearest(str(source), DATA_SETS) or f" The names of data sets are {', '.join(DATA_SETS)}."
            raise DataError(f"{setting} is {str(source)!r}, which does not exist.{hint}", setting=str(source))
        images = read_images(source, convert, resize)
    else:
        try:
            array = torch.as_tensor(source)
        except (TypeError, ValueError, RuntimeError):
            what = f"{setting} is a {type(source).__name__}"
            allowed = "a tensor of images, a folder, a file, a data set's name, or a module with a method sample(n)"
            message = f"{what}, which has no images: give {allowed} that returns n images."
            raise SettingError(message, setting=setting, allowed=allowed) from None
        images = ImageSet(type(source).__name__, as_bytes(array, setting))
    return images if num is None or num >= len(images) else images.chosen(_shuffled(len(images), seed)[:num])


def open_labeled(
    setting: str,
    source: str,
    split: Any,
    image_shape: Any,
    *,
    data_dir: str | Path = "data",
) -> ImageSet:
    """Open a split of real images with their labels.

    Args:
        setting: Name of the setting, for errors.
        source: Name of a data set; a folder, as :class:`~lightning_gans.ImageFolderDataModule` reads it; or a file with
            labels, which has no splits.
        split: ``train``, ``val`` or ``test``.
        image_shape: ``(C, H, W)`` of a folder's images.
        data_dir: Folder of torchvision's data sets.
    """
    if not expanded(source).is_dir():
        return open_images(setting, f"{source}/{split}" if source in DATA_SETS else source, data_dir=data_dir)
    data = _imported("datamodules", "ImageFolderDataModule")(source, image_shape[1:], image_shape[0])
    images = data.split_images(split)
    labels = images.labels if data.num_classes else None
    return ImageSet(f"{source}/{split}", images, labels, tuple(data.class_names))


def _imported(module: str, name: str) -> Any:
    """Import what needs Lightning, whose import takes as long as the scores of a few thousand files."""
    return getattr(importlib.import_module(f"lightning_gans.{module}"), name)


def _extract(
    evaluator: Evaluator, images: ImageSet, channels: int, progress: Callable[[int], Any] | None
) -> tuple[FeatureSet, str, dict[str, float]]:
    """Return the features of a set, the hash of its images, and the seconds that it took."""
    digest = _digest(images)

    def block(start: int, stop: int) -> Tensor:
        rows = images.images[start:stop].cpu()
        digest.update(rows.contiguous().numpy().data)
        if progress is not None:
            progress(stop - start)
        return rows.expand(-1, channels, -1, -1)

    features, seconds = evaluator.features(len(images), block)
    features.labels = images.labels
    return features, digest.hexdigest(), seconds


def _digest(images: ImageSet) -> Any:
    """Start the hash of a set of images; the caller adds their bytes."""
    return hashlib.sha256(f"{tuple(images.images.shape)} uint8".encode())


def _floor(evaluator: Evaluator, reference: Reference, fake: FeatureSet, seed: int) -> dict[str, Any] | None:
    """Score one half of the real images, and as many generated ones, against the other half; None for few images."""
    real, metrics = reference.images, evaluator.metrics_of_floor()
    order = _shuffled(len(real), seed)
    num = min(len(real) // 2, len(fake))
    try:
        evaluator.settings.check(metrics, num)
    except SettingError:
        return None
    half = Reference(real.at(order[len(real) // 2 :]), evaluator.settings, None, {}, class_names=reference.class_names)
    sets = {"scores": real.at(order[:num]), "samples": fake.at(_shuffled(len(fake), seed)[:num])}
    return {"split": "half", "num_images": num} | {
        name: evaluator.compare(images, half, metrics)[0] for name, images in sets.items()
    }


def _score_pairs(
    fakes: ImageSet,
    reals: ImageSet,
    num: int | None,
    seed: int,
    metric: Translations,
    device: str | torch.device,
    progress: Callable[[int], Any] | None,
) -> dict[str, Any]:
    """Return the record of :func:`score` for two sets in which images with the same index form a pair."""
    if num is not None and num < len(reals):
        places = _shuffled(len(reals), seed)[:num]
        fakes, reals = fakes.chosen(places), reals.chosen(places)
    started, digests = time.monotonic(), [_digest(images) for images in (fakes, reals)]
    metric.to(device)
    for start in range(0, len(reals), BLOCK):
        blocks = [images.images[start : start + BLOCK].cpu() for images in (fakes, reals)]
        for digest, block in zip(digests, blocks, strict=True):
            digest.update(block.contiguous().numpy().data)
        metric.update(*(block.to(device) for block in blocks))
        if progress is not None:
            progress(2 * len(blocks[0]))
    fake_digest, real_digest = (digest.hexdigest() for digest in digests)
    return {
        "stage": "score",
        "fake": fakes.name,
        "fake_sha256": fake_digest,
        "scores": {name: float(value) for name, value in metric.compute().items()},
        "left_out": metric.left_out(),
        "floor": None,
        "protocol": {
            **{"data": reals.name, "split": "whole", "data_sha256": real_digest, "num_real": len(reals)},
            **{"num_samples": len(fakes), "pairs": "file names" if fakes.file_names and reals.file_names else "order"},
            "image_shape": list(reals.images.shape[1:]),
            **{f"own.{name}": value for name, value in metric.describe().items()},
        },
        "seconds": {"pairs": time.monotonic() - started},
        **made(),
    }


def _shuffled(num: int, seed: int) -> Tensor:
    return torch.randperm(num, generator=randomness.generator(seed, Stream.SPLIT, num))
