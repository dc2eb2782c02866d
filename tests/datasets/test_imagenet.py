"""ImageNet from class folders and from the original tar files, written small here."""

import dataclasses
import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from ttq_energy import datasets
from ttq_energy.datasets.imagenet import ImageNetOptions, load
from ttq_energy.datasets.imagenet_files import DEVKIT, ILSVRC2012, Archive
from ttq_energy.datasets.photographs import DEVIATION, MEAN, Photographs
from ttq_energy.errors import InputError

CLASSES = ["n01440764", "n01443537", "n02102040"]
KIT_NUMBERS = {1: "n02102040", 2: "n01440764", 3: "n01443537"}
TRUTH = [3, 1, 1, 2]
COLORS = {"n01440764": 40, "n01443537": 120, "n02102040": 200}


def jpeg(level, size=(90, 70)):
    """A JPEG of one grey level, which tells its class."""
    stream = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def tar_bytes(members, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def kit_files():
    numbers = {**KIT_NUMBERS, 4: "n00001740"}
    rows = np.zeros(4, dtype=[("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("num_children", "f8")])
    for row, (number, name) in zip(rows, numbers.items(), strict=True):
        row["ILSVRC2012_ID"], row["WNID"] = number, name
        row["num_children"] = 0 if number <= 3 else 3
    meta = io.BytesIO()
    savemat(meta, {"synsets": rows})
    return {
        f"{DEVKIT}/data/meta.mat": meta.getvalue(),
        f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{n}\n" for n in TRUTH
        ).encode(),
    }


VALIDATION = {
    f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(COLORS[KIT_NUMBERS[n]]) for i, n in enumerate(TRUTH, 1)
}
TRAINING = {name: [(f"{name}_{i}.JPEG", jpeg(COLORS[name])) for i in (7, 10)] for name in CLASSES}


def write_folders(root, flat=False):
    for name, images in TRAINING.items():
        (root / "train" / name).mkdir(parents=True)
        for file, data in images:
            (root / "train" / name / file).write_bytes(data)
    for (file, data), number in zip(VALIDATION.items(), TRUTH, strict=True):
        folder = root / "val" if flat else root / "val" / KIT_NUMBERS[number]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)


def write_kit(root):
    for file, data in kit_files().items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)


def write_archives(root):
    """The three original files; returns what to check them against."""
    contents = {
        "ILSVRC2012_img_train.tar": tar_bytes(
            [(f"{name}.tar", tar_bytes(images)) for name, images in TRAINING.items()]
        ),
        "ILSVRC2012_img_val.tar": tar_bytes(VALIDATION.items()),
        f"{DEVKIT}.tar.gz": tar_bytes(kit_files().items(), "w:gz"),
    }
    published = []
    for name, data in contents.items():
        (root / name).write_bytes(data)
        published.append(Archive(name, len(data), hashlib.md5(data).hexdigest()))
    return dataclasses.replace(
        small(), **dict(zip(("training", "validation", "devkit"), published, strict=True))
    )


def small():
    return dataclasses.replace(ILSVRC2012, classes=3, training_images=6, validation_images=4)


def read(root, published=None, **options):
    options = {"image_size": 32, "workers": 0, **options}
    return load(ImageNetOptions(root=str(root), **options), published or small())


def check_contents(data):
    """Each image has the grey of the class that its label says."""
    assert data.num_classes == 3
    assert (len(data.train), len(data.test)) == (6, 4)
    for part in (data.train, data.test):
        for x, y in (part[i] for i in range(len(part))):
            assert x.shape == (3, 32, 32)
            level = float((x * DEVIATION + MEAN).mean()) * 255
            assert level == pytest.approx(COLORS[CLASSES[y]], abs=2)
    expected = [CLASSES.index(KIT_NUMBERS[n]) for n in TRUTH]
    assert sorted(y for _, y in (data.test[i] for i in range(4))) == sorted(expected)


def test_class_folders(tmp_path):
    write_folders(tmp_path)
    check_contents(read(tmp_path))


@pytest.mark.parametrize("archived_kit", [False, True])
def test_a_flat_validation_folder_with_the_development_kit(tmp_path, archived_kit):
    write_folders(tmp_path, flat=True)
    published = small()
    if archived_kit:
        published = write_archives(tmp_path)
    else:
        write_kit(tmp_path)
    check_contents(read(tmp_path, published))


@pytest.mark.parametrize("verify", [False, True])
def test_the_original_archives_are_read_in_place(tmp_path, verify):
    published = write_archives(tmp_path)
    before = sorted(tmp_path.iterdir())
    check_contents(read(tmp_path, published, verify=verify))
    assert sorted(tmp_path.iterdir()) == before


def test_workers_give_the_same_batches(tmp_path):
    write_folders(tmp_path)
    batches = [
        [x for x, _ in read(tmp_path, workers=workers).train_loader(2, seed=0)]
        for workers in (0, 2)
    ]
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one, two)


def test_a_part_is_taken_only_on_purpose(tmp_path):
    write_folders(tmp_path)
    with pytest.raises(InputError, match="expected 1000 classes, found 3"):
        datasets.load("imagenet", root=str(tmp_path))
    assert len(datasets.load("imagenet", root=str(tmp_path), complete=False).train) == 6


# -- augmentation ---------------------------------------------------------------------------------


class OneImage:
    """An image whose red tells the column and whose green tells the row."""

    labels = np.zeros(1, dtype=np.int64)

    def __init__(self, width, height):
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[..., 0] = np.linspace(0, 255, width)[None, :]
        pixels[..., 1] = np.linspace(0, 255, height)[:, None]
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        self.data = stream.getvalue()

    def read(self, index):
        return self.data

    def name(self, index):
        return "one"


def ends(x):
    """Columns and rows that an image covers, each from 0 to 1."""
    pixels = x * DEVIATION + MEAN
    columns, rows = pixels[0].mean(0), pixels[1].mean(1)
    return float(columns[0]), float(columns[-1]), float(rows[0]), float(rows[-1])


def test_testing_takes_the_middle_of_the_shorter_side():
    x, _ = Photographs(OneImage(400, 200), 224)[0]
    left, right, top, bottom = ends(x)
    assert (top, bottom) == (pytest.approx(1 / 16, abs=0.01), pytest.approx(15 / 16, abs=0.01))
    assert (left, right) == (pytest.approx(9 / 32, abs=0.01), pytest.approx(23 / 32, abs=0.01))


@pytest.mark.parametrize(
    ("augmentation", "smallest", "largest"),
    [
        ("inception", 0.08, 1.0),
        ("scale", (224 / 480) ** 2, (224 / 256) ** 2),
        ("alexnet", 0.76, 0.77),
    ],
)
def test_training_cuts_as_published(augmentation, smallest, largest):
    photographs = Photographs(OneImage(300, 300), 224, augmentation)
    areas, mirrored = [], 0
    torch.manual_seed(0)
    for _ in range(60):
        x, _ = photographs.augmented(0)
        assert x.shape == (3, 224, 224)
        left, right, top, bottom = ends(x)
        areas.append(abs(right - left) * (bottom - top))
        mirrored += right < left
    assert smallest - 0.03 < min(areas)
    assert max(areas) < largest + 0.03
    assert 15 < mirrored < 45
    if smallest < 0.5:
        assert max(areas) - min(areas) > 0.3


def test_lighting_shifts_whole_images():
    photographs = Photographs(OneImage(64, 64), 32, "alexnet", lighting=0.1)
    plain = Photographs(OneImage(64, 64), 32, "alexnet")
    torch.manual_seed(0)
    plain_x, _ = plain.augmented(0)
    shifts = []
    for seed in range(200):
        torch.manual_seed(seed)
        shifts.append(float((photographs.augmented(0)[0] * DEVIATION)[2].mean()))
    base = float((plain_x * DEVIATION)[2].mean())
    values, vector = np.array([0.2175, 0.0188, 0.0045]), np.array([-0.5836, -0.6948, 0.4203])
    assert np.std(np.array(shifts) - base) == pytest.approx(
        0.1 * np.linalg.norm(values * vector), rel=0.2
    )


# -- damage ---------------------------------------------------------------------------------------


def refused(root, published=None, **options):
    with pytest.raises(InputError) as error:
        read(root, published, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_there(tmp_path):
    assert "no such folder" in refused(tmp_path / "none")
    assert "ILSVRC2012_img_train.tar" in refused(tmp_path)


def test_an_incomplete_folder(tmp_path):
    write_folders(tmp_path)
    image = next((tmp_path / "train" / CLASSES[1]).iterdir())
    image.unlink()
    assert "expected 6 training images, found 5" in refused(tmp_path)


def test_an_empty_image_is_found_before_training(tmp_path):
    write_folders(tmp_path)
    image = next((tmp_path / "train" / CLASSES[1]).iterdir())
    image.write_bytes(b"")
    assert str(image) in refused(tmp_path)


def test_a_link_to_nothing_and_a_folder_in_an_images_place(tmp_path):
    write_folders(tmp_path)
    image = next((tmp_path / "train" / CLASSES[1]).iterdir())
    image.unlink()
    image.symlink_to("nowhere")
    assert f"{image}: damaged: expected an image, it is a link to nothing" in refused(tmp_path)
    image.unlink()
    image.mkdir()
    assert f"{image}: damaged: expected an image, it is no file" in refused(tmp_path)


def test_files_that_macos_hides_are_no_images(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "train" / CLASSES[1] / "._a.JPEG").write_bytes(b"\0\5\x16\7")
    (tmp_path / "train" / ".cache").mkdir()
    read(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"<html>" + data])
def test_verifying_finds_damaged_images(tmp_path, damage):
    write_folders(tmp_path)
    image = next((tmp_path / "val" / CLASSES[0]).iterdir())
    image.write_bytes(damage(image.read_bytes()))
    read(tmp_path)
    assert str(image) in refused(tmp_path, verify=True)


def test_a_damaged_image_met_in_training_is_named(tmp_path):
    write_folders(tmp_path)
    image = next((tmp_path / "train" / CLASSES[0]).iterdir())
    image.write_bytes(b"\xff\xd8 no image")
    for workers in (0, 2):
        with pytest.raises(InputError) as error:
            list(read(tmp_path, workers=workers).train_loader(6, seed=0))
        assert str(error.value).startswith(f"{image}: damaged")
        assert "\n" not in str(error.value)


def test_a_missing_class_folder_of_the_validation_set(tmp_path):
    write_folders(tmp_path)
    folder = tmp_path / "val" / CLASSES[0]
    for file in folder.iterdir():
        file.unlink()
    assert "found none" in refused(tmp_path)
    folder.rmdir()
    assert str(folder) in refused(tmp_path)


def test_an_incomplete_archive_names_both_sizes(tmp_path):
    published = write_archives(tmp_path)
    path = tmp_path / published.training.name
    path.write_bytes(path.read_bytes()[:-512])
    message = refused(tmp_path, published)
    assert str(path) in message
    assert f"expected {published.training.size} bytes" in message


def test_a_damaged_archive_names_both_sums(tmp_path):
    published = write_archives(tmp_path)
    path = tmp_path / published.validation.name
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert published.validation.md5 in refused(tmp_path, published, verify=True)


def test_a_flat_folder_without_the_kit(tmp_path):
    write_folders(tmp_path, flat=True)
    assert "ILSVRC2012_validation_ground_truth.txt: no such file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("truth", "message"),
    [("1\n2\n", "4 images"), ("1\n2\n3\nx\n", ":4: expected a class"), ("1\n2\n3\n4\n", ":4:")],
)
def test_a_ground_truth_that_does_not_fit(tmp_path, truth, message):
    write_folders(tmp_path, flat=True)
    write_kit(tmp_path)
    (tmp_path / DEVKIT / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    assert message in refused(tmp_path)


def test_a_damaged_class_table(tmp_path):
    write_folders(tmp_path, flat=True)
    write_kit(tmp_path)
    (tmp_path / DEVKIT / "data" / "meta.mat").write_bytes(b"MATLAB")
    assert "meta.mat: damaged" in refused(tmp_path)
