import copy
import pickle

import pytest
import torch
from lightning_utilities.core.apply_func import apply_to_collection

from lightning_gans.datamodules.batch_order import SequentialOrder
from lightning_gans.datamodules.resident import IndexBatch, ResidentImages, ResidentLoader

IMAGES = torch.arange(256).byte().view(16, 1, 4, 4)
LABELS = torch.arange(16)


def test_scaling_is_exact_at_both_ends_and_in_range_throughout():
    images, labels = IndexBatch(ResidentImages(IMAGES, LABELS), LABELS).to("cpu")
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.shape == (16, 1, 4, 4)
    assert (images.min(), images.max()) == (-1, 1)
    torch.testing.assert_close(images, IMAGES / 127.5 - 1, rtol=0, atol=0)
    assert images.add(1).mul(127.5).round().byte().equal(IMAGES)


def test_rows_and_flips():
    rows, flips = torch.tensor([5, 2]), torch.tensor([True, False])
    images, labels = IndexBatch(ResidentImages(IMAGES, LABELS), rows, flips).to("cpu")
    assert labels.tolist() == [5, 2]
    torch.testing.assert_close(images[0], (IMAGES[5] / 127.5 - 1).flip(-1))
    torch.testing.assert_close(images[1], IMAGES[2] / 127.5 - 1)


def test_a_batch_that_was_never_moved_unpacks():
    images, labels = IndexBatch(ResidentImages(IMAGES, LABELS), torch.tensor([3]))
    assert labels.tolist() == [3]
    assert images.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_plugins_choose_the_dtype(dtype):
    def convert(tensor):
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    batch = IndexBatch(ResidentImages(IMAGES, LABELS), LABELS)
    images, labels = apply_to_collection(batch, torch.Tensor, convert).to("cpu")
    assert (images.dtype, labels.dtype) == (dtype, torch.int64)
    torch.testing.assert_close(images, (IMAGES.float() / 127.5 - 1).to(dtype))


class Elsewhere(ResidentImages):
    """Takes "meta" for an accelerator, which needs none to be there."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.copies_made = 0

    def on(self, free, monkeypatch):
        monkeypatch.setattr("lightning_gans.datamodules.resident._free_memory", lambda device: free)
        return self._copy_on(torch.device("meta"))


@pytest.mark.parametrize(
    ("device_resident", "free", "copied"),
    [("auto", 4 * 256 + 4, True), ("auto", 4 * 256, False), (True, 0, True), (False, 10**9, False)],
)
def test_a_device_gets_a_copy_once_where_it_has_room(device_resident, free, copied, monkeypatch):
    source = Elsewhere(IMAGES, LABELS, device_resident=device_resident)
    copy_made = source.on(free, monkeypatch)
    assert (copy_made is not None) == copied
    assert source.on(0, monkeypatch) is copy_made
    source.release()
    assert not source._copies


def test_the_sets_own_device_gets_no_copy():
    source = ResidentImages(IMAGES, LABELS, device_resident=True)
    IndexBatch(source, LABELS).to("cpu")
    assert source._copies == {}


def test_copies_do_not_travel():
    source = ResidentImages(IMAGES, LABELS, device_resident=True)
    source._copy_on(torch.device("meta"))
    assert pickle.loads(pickle.dumps(source))._copies == {}
    assert copy.deepcopy(source)._copies == {}


def test_loader_looks_rows_up_in_its_split():
    rows = torch.tensor([15, 3, 8])
    loader = ResidentLoader(ResidentImages(IMAGES, LABELS), SequentialOrder(3, 2), rows)
    assert [batch.to("cpu")[1].tolist() for batch in loader] == [[15, 3], [8]]
    assert len(loader) == 2


@pytest.mark.gpu
def test_on_a_gpu():
    source = ResidentImages(IMAGES, LABELS)
    batch = IndexBatch(source, torch.tensor([5, 2]), torch.tensor([True, False]))
    images, labels = batch.to("cuda")
    assert images.is_cuda and labels.is_cuda
    torch.testing.assert_close(images.cpu(), batch.to("cpu")[0])
    IndexBatch(source, LABELS).to("cuda:0")
    assert len(source._copies) == 1
    assert (
        IndexBatch(source, LABELS).to("cuda")[0].min(),
        IndexBatch(source, LABELS).to("cuda")[0].max(),
    ) == (-1, 1)
