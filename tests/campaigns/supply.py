"""What a user gets: wheel and sdist built and looked into, the wheel installed alone, checked, tested, broken.

``python -m tests.campaigns.supply``; ``… pythons`` for each supported Python that is at hand, or ``… 3.12`` for one,
``… lowest`` for the lowest versions that minicf requires, ``… without`` for Numba taken away; ``… all`` with all tests
instead of the `CORE` of them. Everything happens in a temporary folder; packages come from where pip takes them.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

CORE = ["models", "train", "data", "files", "recommender", "numba", "optim_arguments", "topn", "metrics", "cli"]
"""Files of the tests that show whether an installation works."""

BESIDE = ("tests", "examples", "bench", "setup.cfg", "README.md", "CHANGELOG.md")
"""What the tests need beside the package, which must not be there."""

FOR_TESTS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "matplotlib", "narwhals", "plotly")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command prints; all of it with the error where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(x) for x in command], cwd=cwd, env=environment | variables, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}")
    return done.stdout


def pythons() -> dict[str, Path]:
    """Supported versions, and an interpreter of each that is on the path or was installed by pyenv."""
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read(ROOT / "setup.cfg", encoding="utf-8")
    found: dict[str, Path] = {}
    for version in re.findall(r"Python :: (3\.\d+)", parsed["metadata"]["classifiers"]):
        places = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
        works = [
            x for x in places if x and not subprocess.run([x, "-c", "import venv"], capture_output=True).returncode
        ]
        if works:
            found[version] = Path(works[0])
        else:
            print(f"no Python {version} here")
    return found


def environment(python: Path, folder: Path) -> Path:
    run(python, "-m", "venv", folder, cwd=folder.parent)
    made = folder / "bin" / "python"
    return made if made.exists() else folder / "Scripts" / "python.exe"


def build(python: Path, work: Path) -> Path:
    """The wheel, made from the sdist; both hold the package, whole, and the wheel nothing else."""
    tree = work / "source"
    shutil.copytree(
        ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out")
    )
    builder = environment(python, work / "builder")
    run(builder, "-m", "pip", "install", "-q", "build", cwd=work)
    run(builder, "-m", "build", "--outdir", work / "dist", tree, cwd=work)  # the sdist, and from it the wheel
    (wheel,), (sdist,) = ((work / "dist").glob(x) for x in ("*.whl", "*.tar.gz"))
    ours = {p.relative_to(ROOT).as_posix() for p in (ROOT / "minicf").rglob("*") if p.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == ours, f"wheel: {sorted(inside ^ ours)}"
    with tarfile.open(sdist) as file:
        packed = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    assert ours <= packed, f"sdist: {sorted(ours - packed)} are missing"
    print(f"{sdist.name}: {len(packed)} files, {sdist.stat().st_size:,} bytes; "
          f"{wheel.name}, made from it: {len(inside)} files, {wheel.stat().st_size:,} bytes")  # fmt: skip
    return wheel


def floors(wheel: Path) -> dict[str, str]:
    """The lowest versions that the wheel says it works with, its requirements and those of the tests."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (x for x in file.namelist() if x.endswith(".dist-info/METADATA"))
        text = file.read(name).decode()
    wanted = re.findall(r"^Requires-Dist: ([\w-]+)>=([\d.]+)(?:; extra == \"test\")?$", text, re.MULTILINE)
    return dict(wanted)


def install(python: Path, work: Path, wheel: Path, lowest: bool = False) -> tuple[Path, Path]:
    """An interpreter that has the wheel, alone at first, and a folder with the tests and without the package."""
    work.mkdir()
    ours = environment(python, work / "environment")
    asked = [f"{name}=={least}" for name, least in floors(wheel).items()] if lowest else []
    required = [x for x in asked if x.partition("==")[0] not in FOR_TESTS and not x.startswith(("pytest", "selenium"))]
    run(ours, "-m", "pip", "install", "-q", wheel, *required, cwd=work)
    run(ours, "-m", "pip", "check", cwd=work)
    shown = (
        "import minicf, pathlib; p = pathlib.Path(minicf.__file__); print(p); assert p.with_name('py.typed').exists()"
    )
    where = run(ours, "-c", shown, cwd=work).strip()
    assert str(work) in where, where
    run(ours, "-m", "minicf", "doctor", cwd=work)
    for_tests = [x for x in asked if x.partition("==")[0] in FOR_TESTS] or list(FOR_TESTS)
    run(ours, "-m", "pip", "install", "-q", *for_tests, *required, cwd=work)
    run(ours, "-m", "pip", "check", cwd=work)
    place = work / "beside"
    place.mkdir()
    source = work.parent / "source"  # what the wheel was built from, whatever has changed since
    for name in BESIDE:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, place / name)
    return ours, place


def tested(python: Path, place: Path, everything: bool) -> str:
    files = ["tests"] if everything else [f"tests/test_{name}.py" for name in CORE]
    return run(python, "-m", "pytest", *files, cwd=place, MPLBACKEND="agg").strip().splitlines()[-1]


def typed(python: Path, place: Path) -> None:
    run(python, "-m", "pip", "install", "-q", "mypy", "pandas-stubs", cwd=place)
    run(python, "-m", "mypy", "--strict", "--config-file=", "tests/typed_use.py", cwd=place)


def without_numba(python: Path, place: Path) -> str:
    """Numba uninstalled: training goes on in NumPy, and says so; asking for Numba or CuPy says what to install."""
    run(python, "-m", "pip", "uninstall", "-q", "-y", "numba", "llvmlite", cwd=place)
    said = run(python, "examples/bias.py", "--epochs", "1", "--backend", "auto", "--out", "out", cwd=place)
    assert "backend numba, which minicf requires, is passed over" in said, said
    assert "backend numpy" in said, said
    for backend, words in (("numba", "pip install"), ("cupy", r"minicf\[cuda1\dx\]")):
        ask = f"import minicf\ntry: minicf.Trainer(minicf.Dot(2), minicf.SGD(0.1), backend={backend!r})\n"
        said = run(python, "-c", ask + "except ImportError as error: print(error)", cwd=place)
        assert re.search(words, said), said
    return "without Numba: it trains in NumPy and says so; what was asked for by name says what to install"


def main(arguments: list[str]) -> None:
    parts = set(arguments) - {"all"} or {"pythons", "lowest", "without"}
    at_hand = pythons()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        first = next(iter(at_hand))
        wheel = build(at_hand[first], work)
        for version, python in at_hand.items():
            if not parts & {"pythons", version}:
                continue
            ours, place = install(python, work / version, wheel)
            typed(ours, place)
            print(f"Python {version}: types; {tested(ours, place, 'all' in arguments)}", flush=True)
        if "lowest" in parts:
            ours, place = install(at_hand[first], work / "lowest", wheel, lowest=True)
            print(f"Python {first}, lowest versions: {tested(ours, place, 'all' in arguments)}", flush=True)
        if "without" in parts:
            print(f"Python {first}, {without_numba(*install(at_hand[first], work / 'without', wheel))}")


if __name__ == "__main__":
    main(sys.argv[1:])
