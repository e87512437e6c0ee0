"""Evaluation: extractors, metrics on features, and scores that say how they were made."""

from lightning_gans.metrics.extractors import Extractor, ModuleExtractor, make_extractor
from lightning_gans.metrics.extractors.inception import InceptionExtractor
from lightning_gans.metrics.extractors.mnist import MNISTExtractor
from lightning_gans.metrics.extractors.stacked import StackedMNISTExtractor
from lightning_gans.metrics.frechet import FrechetDistance
from lightning_gans.metrics.inception_score import InceptionScore
from lightning_gans.metrics.kernel import KernelDistance
from lightning_gans.metrics.manifold import DensityCoverage, PrecisionRecall
from lightning_gans.metrics.modes import ModeCoverage
from lightning_gans.metrics.protocol import compare

__all__ = [
    "DensityCoverage",
    "Extractor",
    "FrechetDistance",
    "InceptionExtractor",
    "InceptionScore",
    "KernelDistance",
    "MNISTExtractor",
    "ModeCoverage",
    "ModuleExtractor",
    "PrecisionRecall",
    "StackedMNISTExtractor",
    "compare",
    "make_extractor",
]
