"""Strategies that cannot train networks in turn are invalid; gradients are averaged in one message."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, SettingError
from lightning_gans.training.processes import (
    average_over_processes,
    check_strategy,
    check_strategy_name,
    unsynchronized,
)
from tests.toys import Toys, tiny


class FSDPStrategy(SingleDeviceStrategy):
    """Stands for Lightning's, which can be made where there is a GPU only."""


class DeepSpeedStrategy(SingleDeviceStrategy):
    """Stands for Lightning's, which can be made where deepspeed is installed only."""


class DerivedStrategy(DeepSpeedStrategy):
    """A custom one."""


class NotedSteps(Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_start(self, *_):
        self.steps += 1


class Mean:
    """A strategy of two processes, of which the other one sends known numbers."""

    world_size = 2

    def __init__(self, others):
        self.others, self.sent = others, []

    def reduce(self, tensor, reduce_op):
        assert reduce_op == "mean"
        self.sent.append(tensor.clone())
        return (tensor + torch.tensor(self.others, dtype=tensor.dtype)) / 2


def parameter(gradient, dtype=torch.float32):
    """Make a parameter that has this gradient, or none."""
    made = nn.Parameter(torch.zeros(2 if gradient is None else len(gradient), dtype=dtype))
    made.grad = None if gradient is None else torch.tensor(gradient, dtype=dtype)
    return made


@pytest.fixture
def group_of_one(monkeypatch):
    """Let one process be a whole group, and leave nothing of it behind."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


INVALID = {
    "static_graph": (lambda: {"strategy": DDPStrategy(static_graph=True)}, "trainer.strategy", "static_graph=True"),
    "model_parallel": (
        lambda: {"strategy": ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)},
        "trainer.strategy",
        "ModelParallelStrategy",
    ),
    "fsdp": (lambda: {"strategy": FSDPStrategy()}, "trainer.strategy", "FSDPStrategy"),
    "deepspeed": (lambda: {"strategy": DeepSpeedStrategy()}, "trainer.strategy", "DeepSpeedStrategy"),
    "derived": (lambda: {"strategy": DerivedStrategy()}, "trainer.strategy", "DeepSpeedStrategy"),
    "sync_batchnorm": (lambda: {"strategy": "ddp", "sync_batchnorm": True}, "trainer.sync_batchnorm", True),
}


@pytest.mark.parametrize("cls", [GAN, VAE])
@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_update_networks_in_turn_is_invalid_before_the_first_step(make_trainer, group_of_one, name, cls):
    options, setting, value = INVALID[name]
    noted = NotedSteps()
    trainer = make_trainer(devices=1, callbacks=[noted], **options())
    with pytest.raises(SettingError) as error:
        trainer.fit(tiny(cls), Toys())
    assert (error.value.setting, error.value.value) == (setting, value)
    assert noted.steps == 0


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": False}])
def test_plain_ddp_is_allowed_in_any_form_that_leaves_the_graph_free(make_trainer, group_of_one, options):
    trainer = make_trainer(devices=1, max_steps=2, strategy=DDPStrategy(**options))
    trainer.fit(tiny(DCGAN), Toys())
    assert trainer.global_step == 2


def test_synchronized_batchnorm_is_allowed_on_gpus():
    check_strategy(SimpleNamespace(root_device=torch.device("cuda", 0), _layer_sync=object()))
    with pytest.raises(SettingError) as error:
        check_strategy(SimpleNamespace(root_device=torch.device("cpu"), _layer_sync=object()))
    assert error.value.setting == "trainer.sync_batchnorm"


@pytest.mark.parametrize("name", ["deepspeed", "deepspeed_stage_3_offload", "fsdp", "fsdp_cpu_offload"])
def test_strategies_that_cannot_be_made_here_are_invalid_by_name(name):
    with pytest.raises(SettingError) as error:
        check_strategy_name(name)
    assert (error.value.setting, error.value.value) == ("trainer.strategy", name)


@pytest.mark.parametrize("name", ["", "auto", "ddp", "ddp_spawn", "ddp_find_unused_parameters_true"])
def test_other_names_are_left_to_lightning(name):
    check_strategy_name(name)


# --- the mean over the processes --------------------------------------------------------------------------


def test_gradients_and_buffers_become_the_mean_over_the_processes_in_one_message():
    parameters, buffers = [parameter([1.0, 2.0]), parameter([3.0])], [torch.tensor([4.0]), torch.tensor(5.0)]
    strategy = Mean([3.0, 6.0, 9.0, 0.0, 7.0])
    average_over_processes(strategy, parameters, buffers)
    assert [p.grad.tolist() for p in parameters] == [[2.0, 4.0], [6.0]]
    assert [buffer.tolist() for buffer in buffers] == [[2.0], 6.0]
    assert [message.tolist() for message in strategy.sent] == [[1.0, 2.0, 3.0, 4.0, 5.0]]


def test_shapes_and_the_order_of_memory_are_kept():
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.arange(6.0).view(3, 2).t()
    average_over_processes(Mean([10.0] * 6), [weight], [])
    assert weight.grad.equal((torch.arange(6.0).view(3, 2).t() + 10) / 2)


def test_double_precision_is_kept():
    weight = parameter([1.0 + 2**-40], torch.float64)
    strategy = Mean([1.0])
    average_over_processes(strategy, [weight], [])
    assert strategy.sent[0].dtype == weight.grad.dtype == torch.float64
    assert weight.grad.item() == 1 + 2**-41


@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 60000.0), (torch.bfloat16, 1e38)])
def test_low_precision_is_averaged_in_single_precision(dtype, large):
    weight = parameter([large, 1.0], dtype)
    strategy = Mean([weight.grad[0].item() * 0.5, 1.0 + 2**-12])
    expected = torch.tensor(weight.grad[0].item() * 0.75).to(dtype)
    average_over_processes(strategy, [weight], [])
    assert strategy.sent[0].dtype == torch.float32
    assert weight.grad.dtype == dtype
    assert weight.grad.tolist() == [expected.item(), 1.0]


def test_parameters_without_a_gradient_are_left_alone():
    first, without, last = parameter([1.0]), parameter(None), parameter([5.0])
    strategy = Mean([3.0, 7.0])
    average_over_processes(strategy, [first, without, last], [])
    assert without.grad is None
    assert (first.grad.item(), last.grad.item()) == (2.0, 6.0)


@pytest.mark.parametrize("strategy", [SimpleNamespace(), SimpleNamespace(world_size=1)])
def test_one_process_sends_nothing(strategy):
    weight = parameter([1.0])
    average_over_processes(strategy, [weight], [])
    assert weight.grad.item() == 1.0


def test_a_strategy_without_a_reducer_needs_no_block():
    with unsynchronized(SingleDeviceStrategy()) as nothing:
        assert nothing is None
