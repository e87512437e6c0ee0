import pytest
import pytorch_lightning as pl
import torch


@pytest.fixture(autouse=True)
def same_numbers_each_time(monkeypatch):
    """Networks start from the same weights in every test, and no test leaves a seed to the next."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(0)


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        return pl.Trainer(
            **{
                "accelerator": "cpu",
                "max_epochs": 1,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "default_root_dir": tmp_path,
                **options,
            }
        )

    return make
