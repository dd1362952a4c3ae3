"""The paper's rows: each has its file, which loads, and says what is verified."""

import dataclasses
import pathlib
import re
import shlex

import pytest
from absl import flags

import str_keras as stk
from experiments import paper
from str_keras import building, config_files, train
from str_keras.config import FIELDS, TrainConfig
from str_keras.distribution import STRATEGIES

ROOT = pathlib.Path(paper.__file__).parents[1]
ROWS = {row.row: row for row in paper.read()}
STR_RESNET50 = [
    "79.55",
    "81.27",
    "87.70",
    "90.23",
    "90.55",
    "94.80",
    "95.03",
    "95.15",
    "96.11",
    "96.53",
    "97.78",
    "98.05",
    "98.22",
    "98.79",
    "98.98",
    "99.10",
]
STR_MOBILENET = ["75.28", "79.07", "85.80", "89.01", "89.62"]
UNIFORM = ["80", "90", "95", "96.5", "98"]
CARRIED = ["90.23", "96.53", "98.05"]
# Top-1 in the authors' README and its history; of GMP, on paperswithcode.com.
TOP1 = {
    "resnet50_dense": 77.01,
    "resnet50_str_81.27": 76.12,
    "resnet50_str_90.23": 74.31,
    "resnet50_str_95.15": 70.23,
    "resnet50_str_96.11": 67.78,
    "resnet50_str_96.53": 67.22,
    "resnet50_str_98.05": 61.46,
    "resnet50_str_98.98": 51.82,
    "resnet50_gmp_90": 73.91,
    "mobilenetv1_dense": 71.95,
    "mobilenetv1_str_75.28": 68.35,
    "mobilenetv1_str_89.01": 62.10,
}


def test_every_row_is_there():
    expected = {"resnet50_dense", "mobilenetv1_dense", "resnet50_str_global_89.54"}
    expected |= {f"resnet50_str_{level}" for level in STR_RESNET50}
    expected |= {f"mobilenetv1_str_{level}" for level in STR_MOBILENET}
    expected |= {f"resnet50_{m}_{level}" for m in ("gmp", "dnw") for level in UNIFORM}
    expected |= {f"mobilenetv1_gmp_{level}" for level in ("75", "90")}
    expected |= {f"resnet50_budget_{m}_{v}" for m in ("gmp", "dnw") for v in CARRIED}
    assert set(ROWS) == expected
    assert len(paper.read()) == len(ROWS)
    published = {name: row.top1 for name, row in ROWS.items() if row.top1 is not None}
    assert published == TOP1


def test_the_files_are_those_of_the_table():
    """python -m experiments.paper --configs writes them."""
    folder = paper.CONFIGS
    assert {path.stem for path in folder.glob("*")} == {*ROWS}
    for name, row in ROWS.items():
        assert (folder / f"{name}.toml").read_text() == paper.to_toml(row), name


@pytest.mark.parametrize("name", ROWS)
def test_a_file_is_the_papers_recipe(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    row = ROWS[name]
    path = config_files.find(f"paper/{name}")
    assert path.resolve() == (paper.CONFIGS / f"{name}.toml").resolve()
    values = config_files.read(path)
    loaded = config_files.from_dict(values, name)
    # What it does not say is the default, which is the ImageNet recipe.
    said = {"dataset", "architecture", "method", "weight_decay"}
    assert said <= set(values) <= said | {"s_init", "sparsity", "budget", "skip"}
    assert ("skip" in values) == name.startswith("mobilenetv1_gmp")
    default = TrainConfig()
    for field in set(FIELDS) - set(values):
        assert getattr(loaded, field) == getattr(default, field)
    assert loaded.architecture in stk.models.ARCHITECTURES
    assert (loaded.s_init is not None) == loaded.learns_thresholds == row.learns
    if loaded.budget:
        assert loaded.budget in stk.budget.published()
        assert loaded.budget.endswith(row.level)
    if loaded.sparsity is not None:
        assert loaded.sparsity == pytest.approx(float(row.level) / 100)


def test_defaults_are_the_imagenet_recipe():
    default = TrainConfig()
    recipe = {
        "epochs": 100,
        "batch_size": 256,
        "lr": 0.256,
        "warmup_epochs": 5,
        "schedule": "cosine",
        "smooth_schedule": False,
        "momentum": 0.875,
        "nesterov": False,
        "label_smoothing": 0.1,
        "threshold_decay": None,
        "granularity": "layer",
        "skip": (),
    }
    assert {name: getattr(default, name) for name in recipe} == recipe
    assert building.resolve(default, 224, 5005).g == "sigmoid"
    gmp = dataclasses.replace(default, method="gmp", sparsity=0.9)
    assert gmp.ramp == (0.2, 0.8)


@pytest.mark.parametrize("name", ROWS)
def test_the_command_of_a_file(name, monkeypatch):
    """It parses as the flags of str_keras.train, with what it says of devices."""
    monkeypatch.chdir(ROOT)
    text = config_files.find(f"paper/{name}").read_text()
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 88
    comment = "\n".join(
        line.removeprefix("#") for line in text.splitlines() if line.startswith("#")
    )
    (command,) = re.findall(r"python -m str_keras.train (?:.*\\\n)*.*", comment)
    (strategy,) = set(re.findall(r"--strategy=\w+", comment)) - {"--strategy=mirrored"}
    assert strategy == "--strategy=tpu"
    arguments = shlex.split(command.replace("\\\n", " "))[3:]
    before = set(flags.FLAGS)
    train.define_flags()
    try:
        for extra in ((), ("--strategy=mirrored",), (strategy,)):
            flags.FLAGS(["train", *arguments, *extra])
            assert flags.FLAGS.strategy in STRATEGIES
        assert flags.FLAGS.config == f"paper/{name}"
        assert flags.FLAGS.run_dir == f"runs/{name}"
        assert flags.FLAGS.data_dir == "DIR"
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()


def test_what_is_verified_is_said(monkeypatch):
    monkeypatch.chdir(ROOT)
    verified = set()
    for name, row in ROWS.items():
        text = config_files.find(f"paper/{name}").read_text()
        assert ("UNVERIFIED" in text) != (": VERIFIED" in text)
        if ": VERIFIED" in text:
            verified.add(name)
            assert row.recipe in text
        if row.top1 is None:
            assert "top-1" not in text
        else:
            assert f"top-1 {row.top1:.2f} %" in text
            assert row.source
        # A sparsity that came out of a training is no result until it is verified.
        if row.learns:
            assert ("(unverified)" in text) == (row.sparsity is None)
    assert verified == {
        "resnet50_dense",
        "resnet50_str_90.23",
        "resnet50_gmp_90",
        "resnet50_dnw_90",
        "mobilenetv1_dense",
        "mobilenetv1_str_89.01",
    }


@pytest.fixture(scope="module")
def table():
    text = paper.paper_table()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return text, [[cell.strip() for cell in row] for row in rows]


def test_table_of_the_paper(table):
    text, (heading, _, *rows) = table
    cells = {row[-1].strip("`").removeprefix("paper/"): row for row in rows}
    assert list(cells) == list(ROWS)
    assert all(len(row) == len(heading) for row in rows)
    # Counted here: networks, uniform rates, published budgets.
    assert cells["resnet50_dense"][5:7] == ["0.00", "4,089.2M"]
    assert cells["mobilenetv1_dense"][5:7] == ["0.00", "568.7M"]
    assert cells["resnet50_gmp_90"][5:7] == ["90.00", "408.9M"]
    # 9 of 10 weights of the 1x1 kernels and of the classifier.
    assert cells["mobilenetv1_gmp_90"][5:7] == ["89.03", "82.3M"]
    assert cells["resnet50_str_90.23"][2:7] == [
        "74.31",
        "90.23",
        "343M",
        "90.23",
        "342.6M",
    ]
    assert cells["resnet50_str_99.10"][2:7] == ["", "99.10", "", "99.10", "43.7M"]
    assert cells["mobilenetv1_str_85.80"][1:7] == [
        "STR, 85.80 % (unverified)",
        *[""] * 5,
    ]
    for row in rows:
        assert "accuracy" not in row[7]
        # What the authors print is what is counted, as far as both are rounded.
        if row[4] and row[6]:
            published, counted = (
                float(cell.strip("M").replace(",", "")) for cell in (row[4], row[6])
            )
            assert counted == pytest.approx(published, abs=1)
    assert "No accuracy is verified here" in text


def test_what_the_table_refers_to_is_there():
    for words in paper.CHECKS.values():
        for path in re.findall(r"tests/[\w./]+\w", words):
            assert (ROOT / path).exists(), path
