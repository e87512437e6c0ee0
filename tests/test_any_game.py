"""Games that the package does not have get all that it offers: processes, precision, averages, penalties, resume."""

import inspect
import io
import os
import subprocess
import sys
import tokenize

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from tests.games import GAMES, batches_for
from tests.toys import loader, quiet_trainer

UPDATES = 6


class Trace(Callback):
    """Notes what each completed step has logged; a step may take several batches."""

    def __init__(self):
        self.rows = {}

    def on_train_start(self, trainer, model):
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer, model, *_):
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.rows[trainer.global_step] = {k: float(v) for k, v in trainer.callback_metrics.items()}


def train(game, folder, batches, checkpoint=None, steps=UPDATES, callbacks=(), seed=0, **options):
    torch.manual_seed(seed)
    model = game()
    model.run_seed = 5
    trace = Trace()
    options = {"max_epochs": -1, "max_steps": steps, "log_every_n_steps": 1, "num_sanity_val_steps": 0, **options}
    trainer = quiet_trainer(folder, callbacks=[trace, *callbacks], **options)
    trainer.fit(model, loader(batches), ckpt_path=checkpoint)
    return model, trace.rows, trainer


@pytest.mark.parametrize("game", GAMES)
def test_a_game_is_short(game):
    lines = inspect.getsource(game).splitlines()
    assert len(lines) <= 40
    names = [t.string for t in tokenize.generate_tokens(io.StringIO(inspect.getsource(game)).readline)]
    assert not [name for name in names if name.startswith("_") and not name.startswith("__") and len(name) > 1]


@pytest.mark.parametrize("game", GAMES)
def test_a_game_trains_every_network_and_its_average(game, tmp_path):
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in game().state_dict().items()}
    model, rows, trainer = train(game, tmp_path, batches_for(game, 16))
    after = model.state_dict()
    for name in (*model.trained_networks, *(f"ema.{name}" for name in model.averaged_networks)):
        assert any(not after[k].equal(v) for k, v in before.items() if k.startswith(f"{name}.")), name
    assert trainer.global_step == UPDATES
    assert model.images_seen == UPDATES * 8 * getattr(model, "d_steps", 1)
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows.values()) and len(rows) == UPDATES


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_a_game_trains_in_mixed_precision(game, tmp_path):
    model, rows, _ = train(game, tmp_path, batches_for(game, 16), precision="bf16-mixed")
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in model.parameters())
    assert len(rows) == UPDATES


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_a_game_resumes_exactly(game, tmp_path):
    batches = batches_for(game, 4)  # epochs of 4, or of 2 with two discriminator updates a step
    whole, rows, _ = train(game, tmp_path, batches)
    per_epoch = len(batches) // getattr(whole, "d_steps", 1)
    _, _, trainer = train(game, tmp_path, batches, steps=per_epoch)
    trainer.save_checkpoint(tmp_path / "part.ckpt", weights_only=False)
    again, tail, _ = train(game, tmp_path, batches, checkpoint=tmp_path / "part.ckpt", seed=9)
    assert tail == {step: row for step, row in rows.items() if step > per_epoch}
    for name, value in whole.state_dict().items():
        assert again.state_dict()[name].equal(value), name


# --- two processes ----------------------------------------------------------------------------------------------


def in_float64(game, folder, rank, world_size, **options):
    """Train in float64 without a shuffle; each process takes its half of every batch."""
    batches = batches_for(game, 16)
    half = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    parts = [tuple(part[half] for part in b) if isinstance(b, tuple) else b[half] for b in batches]
    return train(game, folder, parts, precision="64-true", use_distributed_sampler=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_a_game_has_the_same_trace_on_two_processes(game, tmp_path):
    code = (
        "import os, sys, torch; from pathlib import Path; from tests import games, test_any_game as t\n"
        "rank = int(os.environ.get('LOCAL_RANK', '0'))\n"
        f"game, folder = games.{game.__name__}, Path({str(tmp_path)!r})\n"
        "model, rows, _ = t.in_float64(game, folder, rank, 2, strategy='ddp', devices=2)\n"
        "if rank == 0: torch.save((rows, dict(model.state_dict())), folder / 'end.pt')\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model, rows, _ = in_float64(game, tmp_path, 0, 1)
    found, weights = torch.load(tmp_path / "end.pt")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-10, atol=1e-10)
    assert found.keys() == rows.keys() and len(rows) == UPDATES
    for step, row in rows.items():
        assert found[step] == pytest.approx(row, rel=1e-6), step  # what is logged is float32
