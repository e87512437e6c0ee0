"""Score an untrained foreign module on some processes; prints its scores: ``NAME DEVICES``."""

import json
import sys

import torch

from lightning_gans import GenerativeMetrics
from tests import foreign
from tests.foreign import pl
from tests.test_foreign_modules import MODULES, Pooled

if __name__ == "__main__":
    name, devices = sys.argv[1], int(sys.argv[2])
    make, sample, low = MODULES[name]
    torch.manual_seed(1)
    scorer = GenerativeMetrics(["fid", "kid", "recall"], 510, Pooled(), neighbor_images=100, **sample)
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "devices": devices, "strategy": "ddp" if devices > 1 else "auto", "logger": False},
        **{"enable_progress_bar": False, "enable_model_summary": False, "callbacks": [scorer]},
    )
    trainer.validate(make(), foreign.loader(low, 101), verbose=False)
    if trainer.is_global_zero:
        print(json.dumps({key: value.item() for key, value in trainer.callback_metrics.items() if "val/" in key}))
    if torch.distributed.is_initialized():  # its threads may abort a process that ends
        torch.distributed.destroy_process_group()
