import pytest
from torch import nn

from lightning_gans import GAN, GenerativeMetrics
from lightning_gans.metrics import ModuleExtractor
from lightning_gans.metrics.cache import Cache
from lightning_gans.metrics.evaluate import Evaluator
from tests.toys import Toys, tiny


@pytest.mark.parametrize("cached", [False, True])
def test_from_python_the_scores_are_those_of_the_callback(make_trainer, tmp_path, cached):
    model, data = tiny(GAN), Toys(num_images=300)
    evaluator = Evaluator(ModuleExtractor(nn.Flatten()), cache=Cache(tmp_path / "kept") if cached else None)
    record = evaluator.evaluate(model, evaluator.reference(data, "train"), 60)
    callback = GenerativeMetrics(num_samples=60, extractor=nn.Flatten(), floor=False)
    trainer = make_trainer(callbacks=[callback])
    trainer.validate(model, data, verbose=False)
    logged = {name.removeprefix("val/"): value.item() for name, value in trainer.callback_metrics.items()}
    assert record["scores"] == pytest.approx(logged, rel=1e-6)
    assert record["protocol"]["num_samples"] == 60 and record["protocol"]["data"] == "Toys"
    floor = evaluator.floor(evaluator.reference(data, "train"), data, 20)
    assert (floor["split"], floor["num_images"]) == ("val", 8)  # there is no test split
