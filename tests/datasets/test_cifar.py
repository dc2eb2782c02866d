"""CIFAR in its published formats, written small here; damage is told before anything is trained."""

import dataclasses
import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

from ttq_energy import datasets
from ttq_energy.datasets.cifar import LAYOUTS, CifarOptions, load
from ttq_energy.errors import InputError

ROWS = 6


def md5(data):
    return hashlib.md5(data).hexdigest()


class Made:
    """A small CIFAR on disk in its real layout: batches pickled as protocol 2 with text keys."""

    def __init__(self, folder, name):
        self.name, self.published = name, LAYOUTS[name]
        self.random = np.random.default_rng(0)
        self.pixels, self.labels = {}, {}
        self.files = {}
        for file in (*self.published.train, *self.published.test):
            self.pixels[file] = self.random.integers(0, 256, (ROWS, 3072), dtype=np.uint8)
            classes = self.random.integers(0, self.published.num_classes, ROWS)
            self.labels[file] = [int(c) for c in classes]
            batch = {"data": self.pixels[file], self.published.label_key: self.labels[file]}
            self.files[file] = pickle.dumps(batch, protocol=2)
        self.root = folder
        self.folder = folder / self.published.folder
        self.folder.mkdir()
        for file, data in self.files.items():
            (self.folder / file).write_bytes(data)

    def archive(self):
        path = self.root / self.published.archive
        with tarfile.open(path, "w:gz") as tar:
            for file, data in self.files.items():
                member = tarfile.TarInfo(f"{self.published.folder}/{file}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    def layout(self, archive=None):
        """The published layout with this copy's sums."""
        whole = archive.read_bytes() if archive else b""
        return dataclasses.replace(
            self.published,
            archive_bytes=len(whole),
            archive_md5=md5(whole),
            train={file: md5(self.files[file]) for file in self.published.train},
            test={file: md5(self.files[file]) for file in self.published.test},
        )


@pytest.fixture(params=["cifar10", "cifar100"])
def made(tmp_path, request):
    return Made(tmp_path, request.param)


@pytest.fixture
def cifar10(tmp_path):
    return Made(tmp_path, "cifar10")


def read(made, root, layout, **options):
    return load(CifarOptions(root=str(root), **options), made.name, layout)


def check_contents(made, data):
    train = np.concatenate([made.pixels[f] for f in made.published.train]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train.images.numpy(), train)
    labels = [label for f in made.published.train for label in made.labels[f]]
    assert data.train.labels.tolist() == labels
    assert len(data.test) == ROWS
    assert data.num_classes == made.published.num_classes


def test_the_archive_the_folder_and_the_folder_above_hold_the_same(made):
    archive = made.archive()
    layout = made.layout(archive)
    for root in (archive, made.folder, made.root):
        check_contents(made, read(made, root, layout))
    for file in made.folder.iterdir():
        file.unlink()
    check_contents(made, read(made, made.root, layout))


def test_the_paper_s_augmentation(cifar10):
    data = read(cifar10, cifar10.folder, cifar10.layout())
    assert (data.train.padding, data.train.flip, data.train.fill) == (4, True, 0.0)
    plain = read(cifar10, cifar10.folder, cifar10.layout(), augment=False)
    assert (plain.train.padding, plain.train.flip) == (0, False)


def test_normalizations(cifar10):
    channel = read(cifar10, cifar10.folder, cifar10.layout())
    x = torch.cat([x for x, _ in dataclasses.replace(channel, test=channel.train).test_loader(99)])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3))
    pixel = read(cifar10, cifar10.folder, cifar10.layout(), normalization="per-pixel")
    images = pixel.train.images.double()
    x, _ = pixel.train.batch(torch.arange(4))
    expected = (images[:4] - images.mean(0)) / 128
    torch.testing.assert_close(x.double(), expected, atol=1e-5, rtol=1e-5)


def refused(made, root, layout):
    with pytest.raises(InputError) as error:
        read(made, root, layout)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz .170498071 bytes, MD5 c58f3010"):
        datasets.load("cifar10", root=str(tmp_path / "none"))


def test_an_incomplete_archive_names_both_sizes(cifar10):
    archive = cifar10.archive()
    layout = cifar10.layout(archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100])
    message = refused(cifar10, archive, layout)
    assert str(archive) in message
    assert "incomplete" in message
    assert f"expected {len(whole)} bytes, got {len(whole) - 100}" in message


def test_a_damaged_archive_names_both_sums(cifar10):
    archive = cifar10.archive()
    layout = cifar10.layout(archive)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    message = refused(cifar10, archive, layout)
    assert layout.archive_md5 in message
    assert md5(bytes(data)) in message


def test_a_damaged_and_a_missing_file_of_the_folder(cifar10):
    layout = cifar10.layout()
    path = cifar10.folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert str(path) in refused(cifar10, cifar10.folder, layout)
    path.unlink()
    assert "no such file" in refused(cifar10, cifar10.folder, layout)


def test_the_published_sums_refuse_what_is_not_published(cifar10):
    assert "expected MD5 c99cafc152244af753f735de768cd75f" in refused(
        cifar10, cifar10.folder, LAYOUTS["cifar10"]
    )


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pickle.dumps(Harmful(), protocol=2), "unexpected"),
        (b"not a pickle", "damaged"),
        (pickle.dumps([1]), "not a batch"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}), "not a batch"),
        (pickle.dumps({"data": np.zeros((2, 30), np.uint8), "labels": [1, 2]}), "not a batch"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "do not fit"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]}), "do not fit"),
    ],
)
def test_files_that_are_no_batches(cifar10, capsys, contents, message):
    cifar10.files["data_batch_1"] = contents
    (cifar10.folder / "data_batch_1").write_bytes(contents)
    assert message in refused(cifar10, cifar10.folder, cifar10.layout())
    assert capsys.readouterr().out == ""
