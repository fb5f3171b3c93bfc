"""The page that `explain.explore` writes, used in a real browser without a window."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from minicf import SGD, DotBias, Hybrid, Net, Ratings, Recommender, Trainer, explain, load_movielens
from minicf.data import Batch
from minicf.models import Model, Parameter

pytest.importorskip("plotly", reason="the page needs plotly: pip install 'minicf[explore]'")

N_USERS, N_ITEMS = 12, 60
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> & </script> ${1 + 1} $DATA (1999)"
RANGE = (0.5, 5.0)
MODELS: dict[str, Model] = {
    "dot": DotBias(4, rating_range=RANGE, global_mean=0.3),
    "one": DotBias(1),
    "net": Net(4, hidden=(6, 3), dropout=0.0, rating_range=(0.0, 5.5)),
    "hybrid": Hybrid({"dot": (DotBias(4), 0.2), "net": (Net(4, hidden=(), dropout=0.0, global_mean=3.0), 1.0)}),
}


def browser_or_skip() -> Any:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    return webdriver, browser, driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver, binary, driver = browser_or_skip()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "enable-unsafe-swiftshader", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "window-size=1300,900"),
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    rng = np.random.default_rng(3)
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if rng.random() < 0.3 + 0.6 * i / N_ITEMS]
    user, item = np.array(pairs).T
    frame = pd.DataFrame({"userId": 500 + 7 * user, "movieId": 100 + 3 * item})
    frame["rating"] = rng.integers(1, 11, len(frame)) / 2
    titles = {100 + 3 * i: f"Film {i} ({1940 + i})" for i in range(N_ITEMS)}
    titles |= {100 + 3 * 7: "Amélie Pouláin (2001)", 100 + 3 * 9: EVIL}
    genres = {
        100 + 3 * i: ("Action|Drama", "Drama", "(no genres listed)", "Comedy|Drama|<b>War</b>")[i % 4]
        for i in range(N_ITEMS)
    }
    return Ratings.from_frame(frame, titles=titles, genres=genres)


def trained(name: str) -> Trainer:
    rng = np.random.default_rng(1)
    shapes = MODELS[name].shapes(N_USERS, N_ITEMS)
    weights = {key: rng.normal(0, 0.6, shape) for key, shape in shapes.items()}
    return Trainer(MODELS[name], SGD(0.1), backend="numpy", dtype="float64", weights=weights)


@pytest.fixture(scope="module")
def opened(browser: Any, ratings: Ratings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Write and open the page of a model, once each; at the end the console must have stayed free of errors."""
    written: dict[str, Path] = {}

    def open_page(name: str, **options: Any) -> Any:
        key = f"{name}{options}"
        if key not in written:
            path = tmp_path_factory.mktemp("pages") / "page.html"
            assert explain.explore(trained(name), ratings, path, **options) == path
            written[key] = path
        browser.get(written[key].as_uri())
        wait(lambda: browser.execute_script("return window.ready === true"), "the page to be ready")
        return browser

    yield open_page
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


def wait(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited a minute for {what}")


def texts(page: Any, selector: str) -> list[str]:
    return page.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)


def type_in(page: Any, text: str) -> Any:
    box = page.find_element("id", "search")
    box.clear()
    box.send_keys(text)
    return box


def choose(page: Any, field: str, option: str) -> None:
    """Choose the option that starts so."""
    page.execute_script(
        "const s = document.getElementById(arguments[0]);"
        "s.selectedIndex = [...s.options].findIndex(o => o.text.startsWith(arguments[1]));"
        "if (s.selectedIndex < 0) throw Error('no such option');"
        "s.dispatchEvent(new Event('change'))",
        field,
        option,
    )


def test_the_search_finds_a_title(opened: Callable[..., Any]) -> None:
    page = opened("dot")
    box = type_in(page, "film 41")
    assert texts(page, "#found button span:first-child") == ["Film 41 (1981)", "Film 1 (1941)"]
    type_in(page, "1982 FILM")  # words in any order and case
    assert texts(page, "#found button span:first-child") == ["Film 42 (1982)"]
    type_in(page, "amelie poulain")  # accents do not matter
    assert texts(page, "#found button span:first-child") == ["Amélie Pouláin (2001)"]
    box.send_keys("\n")
    assert texts(page, "#item h2") == ["Amélie Pouláin (2001)"]
    type_in(page, "film")
    assert len(texts(page, "#found button")) == 8
    type_in(page, "nothing like it")
    assert texts(page, "#found") == ["no such title"]
    box.send_keys("\ue00c")  # Escape
    assert box.get_attribute("value") == ""
    assert texts(page, "#found li") == []


def test_a_click_shows_neighbours_and_parts(opened: Callable[..., Any], ratings: Ratings) -> None:
    page = opened("dot")
    item = 41
    type_in(page, "film 41")
    page.find_element("css selector", "#found button").click()
    near = explain.nearest_items(trained("dot"), ratings, item, n=8)
    assert texts(page, "#item li span:first-child") == list(near.title)
    assert texts(page, "#item li span:last-child") == [f"{x:.2f}" for x in near.similarity]
    row = explain.bias_table(trained("dot"), ratings).loc[ratings.items.ids[item]]
    assert f"bias {row.bias:.2f} · {row.ratings} ratings, mean {row.mean_rating:.2f}" in texts(page, "#item p")[0]
    # A click on a neighbour goes on to that one, and to its place on the map if that is out of view.
    page.execute_script("return Plotly.relayout('map', {'xaxis.range': [90, 91], 'yaxis.range': [90, 91]})")
    page.find_element("css selector", "#item li button").click()
    assert texts(page, "#item h2") == [near.title.iloc[0]]
    place = page.execute_script(
        "const map = document.getElementById('map'), {xaxis, yaxis} = map._fullLayout, ring = map.data[1];"
        "return [xaxis.range, ring.x[0], yaxis.range, ring.y[0]]"
    )
    assert place[0][0] < place[1] < place[0][1]
    assert place[2][0] < place[3] < place[2][1]


def test_a_click_on_the_map_selects(opened: Callable[..., Any], ratings: Ratings) -> None:
    page = opened("dot")
    before = texts(page, "#item h2")
    # The point that is farthest from all others, so that the click cannot meet another.
    spot = page.execute_script(
        "const map = document.getElementById('map'), {xaxis, yaxis} = map._fullLayout;"
        "const box = map.getBoundingClientRect();"
        "const x = [...map.data[0].x].map(v => xaxis.l2p(v)), y = [...map.data[0].y].map(v => yaxis.l2p(v));"
        "const alone = i => Math.min(...x.map((_, j) => j === i ? 1e9 : Math.hypot(x[i] - x[j], y[i] - y[j])));"
        "const best = x.map((_, i) => i).filter(i => i).sort((a, b) => alone(b) - alone(a))[0];"
        "return [box.left + xaxis._offset + x[best], box.top + yaxis._offset + y[best], best]"
    )
    point = {"x": spot[0], "y": spot[1], "button": "left", "clickCount": 1}
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": spot[0], "y": spot[1]})
    wait(lambda: page.execute_script("return !document.getElementById('tip').hidden"), "the title beside the pointer")
    order = np.argsort(-ratings.item_counts(), kind="stable")  # the page has the most rated first
    assert ratings.titles is not None
    title = ratings.titles[order[spot[2]]]
    assert texts(page, "#tip")[0].startswith(f"{title}\nbias ")
    for kind in ("mousePressed", "mouseReleased"):
        page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **point})
    wait(lambda: texts(page, "#item h2") != before, "the selection")
    assert texts(page, "#item h2") == [title]


@pytest.mark.parametrize("name", ["dot", "net", "hybrid"])
def test_predictions_are_the_models(name: str, opened: Callable[..., Any], ratings: Ratings) -> None:
    page, trainer = opened(name), trained(name)
    gave = {(u, i): stars for u, i, stars in zip(ratings.user, ratings.item, ratings.rating, strict=True)}
    for user, item in ((0, 41), (5, 42), (11, 7), (3, 2)):
        type_in(page, "amelie" if item == 7 else f"film {item} ({1940 + item})").send_keys("\n")
        choose(page, "user", f"{ratings.users.ids[user]} (")
        *parts, total = page.execute_script(
            "return [...document.querySelectorAll('#item tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        # Two places, and the int16 of the tables, whose steps are 1e-4 of the largest entry.
        assert float(total[1]) == pytest.approx(trainer.predict(user, item), abs=0.0055)
        assert total[2] == (f"gave {gave[user, item]:g}" if (user, item) in gave else "")
        values = [float(value.replace("−", "-")) for _, value, _ in parts]
        score = explain.score_parts(trainer, user, item).score
        assert sum(values) == pytest.approx(score, abs=0.006 * len(values))
        if name == "dot":
            assert [part for part, _, _ in parts] == [
                "global mean", "user", "item bias", "component 1", "component 2", "component 3", "components 4 to 4",
            ]  # fmt: skip
            assert values[2] == pytest.approx(trainer.weights["item_bias"][item], abs=0.0055)
        else:
            expected = explain.score_parts(trainer, user, item).parts.value
            np.testing.assert_allclose(values, expected, atol=0.0055)


def test_a_title_with_markup_is_shown_as_text(opened: Callable[..., Any]) -> None:
    page = opened("dot")
    type_in(page, "hacked")
    assert texts(page, "#found button span:first-child") == [EVIL]
    page.find_element("id", "search").send_keys("\n")
    assert texts(page, "#item h2") == [EVIL]
    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return document.querySelectorAll('img, #item script').length") == 0
    choose(page, "color", "genre: <b>War</b>")
    assert texts(page, "#legend span") == ["<b>War</b>", "other"]


IDS = [
    "007",
    "7",
    "1e5",
    "100000",
    "NaN",
    "null",
    "__proto__",
    "constructor",
    "true",
    "-0",
    "<b>",
    "$DATA",
    "\u2028",
    "9007199254740993",
]


@pytest.mark.parametrize("kind", ["text", "integers"])
def test_ids_stay_what_they_are(kind: str, browser: Any, tmp_path: Path) -> None:
    """JavaScript has no integers above 2^53, and its objects have names of their own."""
    ids = IDS if kind == "text" else [9007199254740992 + i for i in range(len(IDS))]
    user, item = np.repeat(np.arange(len(ids)), len(ids)), np.tile(np.arange(len(ids)), len(ids))
    frame = pd.DataFrame(
        {"userId": [ids[u] for u in user], "movieId": [ids[i] for i in item], "rating": (user + item) % 5 + 1.0}
    )
    table = Ratings.from_frame(frame, genres=dict.fromkeys(ids, "__proto__|constructor"))
    model = DotBias(3)
    trainer = Trainer(model, SGD(0.1), backend="numpy", weights=model.init_weights(len(ids), len(ids)))
    title = "</title></script><script>window.hacked = 1</script>\"'&\u2028\0$DATA"
    browser.get(explain.explore(trainer, table, tmp_path / "page.html", title=title).as_uri())
    wait(lambda: browser.execute_script("return window.ready === true"), "the page to be ready")
    shown = texts(browser, "#user option")
    assert {text.removesuffix(f" ({len(ids)} ratings)") for text in shown} == set(map(str, ids))
    assert texts(browser, "h1") == texts(browser, "title") == [title.replace("\0", "\ufffd")]
    assert browser.execute_script("return window.hacked") is None
    for id in map(str, ids):
        browser.execute_script(
            "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
            id,
        )
        if id.strip():
            assert id in texts(browser, "#found span:first-child")
    choose(browser, "color", "genre: __proto__")
    assert texts(browser, "#legend span") == ["__proto__", "other"]


@pytest.mark.parametrize(
    "title",
    [
        "(" * 80_000,
        ")" * 80_000,
        " (" * 40_000 + ") (1999)",
        " (a)" * 20_000 + " (1999)",
        " (1999" * 13_000,
        "a" + "\u0301\u0316" * 40_000,
    ],
    ids=["open", "close", "names", "brackets", "years", "accents"],
)
def test_a_title_of_any_length_takes_no_time(title: str, browser: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [(u, i, (u + i) % 5 + 1.0) for u in range(9) for i in range(20)], columns=["userId", "movieId", "rating"]
    )
    table = Ratings.from_frame(frame, titles={i: title if i == 3 else f"Film {i}" for i in range(20)})
    model = DotBias(3)
    trainer = Trainer(model, SGD(0.1), backend="numpy", weights=model.init_weights(9, 20))
    browser.get(explain.explore(trainer, table, tmp_path / "page.html").as_uri())
    wait(lambda: browser.execute_script("return window.ready === true"), "the page to be ready")
    seconds = browser.execute_script(
        "const s = document.getElementById('search'), start = performance.now();"
        "s.value = arguments[0]; s.dispatchEvent(new Event('input'));"
        "document.querySelector('#found button').click();"
        "Plotly.relayout('map', {'xaxis.range': [-9, 9]}); document.body.offsetHeight;"
        "return (performance.now() - start) / 1000",
        title[:500],
    )
    assert texts(browser, "#item h2") == [title[:999] + "…"]
    assert seconds < 2, "half a second at most, with the machine to itself; a regular expression took 4.7 s"


def test_colours(opened: Callable[..., Any]) -> None:
    page = opened("dot")
    marker = "return document.getElementById('map')._fullData[0].marker.color"
    numbers = page.execute_script(f"{marker}.length")
    assert numbers == N_ITEMS
    assert len(texts(page, "#legend em")) == 2
    choose(page, "color", "genre, the first")
    assert set(texts(page, "#legend span")) == {"Action", "Drama", "Comedy", "other"}
    assert len(set(page.execute_script(f"return [...new Set({marker[7:]})]"))) == 4
    choose(page, "color", "genre: Comedy")
    colors = page.execute_script(marker)
    assert sorted(map(colors.count, set(colors))) == [N_ITEMS // 4, N_ITEMS - N_ITEMS // 4]
    choose(page, "color", "bias")
    assert len(texts(page, "#legend em")) == 2


def test_titles_are_drawn_and_follow_the_map(opened: Callable[..., Any]) -> None:
    page = opened("dot")
    ink = (
        "const c = document.getElementById('titles');"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let sum = 0, n = 0; for (let i = 3; i < p.length; i += 4) if (p[i] > 200) { n++; sum += i / 4 % c.width; }"
        "return [n, sum / n]"
    )
    count, middle = page.execute_script(ink)
    assert count > 500, "titles are written"
    page.execute_script("const r = document.getElementById('map')._fullLayout.xaxis.range, w = r[1] - r[0];"
                        "return Plotly.relayout('map', {'xaxis.range': [r[0] - w / 4, r[1] - w / 4]})")  # fmt: skip
    assert page.execute_script(ink)[1] > middle + 50, "the map moved to the right"


def test_it_is_one_file_that_asks_for_nothing(opened: Callable[..., Any]) -> None:
    page = opened("net")
    assert page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert texts(page, "title") == ["A map of the rated items"]
    assert texts(page, "#color option")[0] == "mean prediction"


def test_tsne_keeps_neighbours_together(opened: Callable[..., Any]) -> None:
    page = opened("dot", layout="tsne", title="A <map>", users=3, top=30)
    assert texts(page, "h1") == ["A <map>"]
    axes = page.execute_script(
        "const {xaxis, yaxis} = document.getElementById('map').layout; return [xaxis.title.text, yaxis.title.text]"
    )
    assert axes == ["t-SNE 1", "t-SNE 2"]
    assert page.execute_script("return document.getElementById('map').data[0].x.length") == 30
    assert len(texts(page, "#user option")) == 3


def test_one_factor_makes_a_line(opened: Callable[..., Any]) -> None:
    page = opened("one")
    assert set(page.execute_script("return [...document.getElementById('map').data[0].y]")) == {0}
    type_in(page, "film 41").send_keys("\n")
    assert texts(page, "#item td:first-child")[:3] == ["user", "item bias", "component 1"]


def test_the_page_of_the_real_set_is_small_and_opens(browser: Any, tmp_path: Path) -> None:
    """9,066 movies, random weights, which compress worse than trained ones."""
    ratings = load_movielens()
    model = DotBias(50, rating_range=RANGE)
    weights = model.init_weights(ratings.n_users, ratings.n_items)
    trainer = Trainer(model, SGD(0.1), backend="numpy", weights=weights)
    path = explain.explore(trainer, ratings, tmp_path / "movies.html")
    assert path.stat().st_size < 6_000_000
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script("return window.ready === true"), "the page to be ready")
    assert browser.execute_script("return document.getElementById('map').data[0].x.length") == 9066
    type_in(browser, "shawshank").send_keys("\n")
    assert texts(browser, "#item h2") == ["Shawshank Redemption, The (1994)"]
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_only_models_whose_formula_the_page_has_are_taken(ratings: Ratings, tmp_path: Path) -> None:
    class Negative(DotBias):
        def forward(self, w: Any, batch: Batch, masks: Any = None) -> Any:
            y, cache = super().forward(w, batch, masks)
            return -y, cache

    class Mine(Model):
        n_factors, rating_range, init, global_mean = 4, None, ("normal", 0.0, 0.7), 0.0

        def parameters(self, sizes: Mapping[str, int]) -> dict[str, Parameter]:
            return {f"{side}_factors": Parameter((sizes[side], 4), side) for side in ("user", "item")}

    heads = {"dot": (DotBias(4), 0.2), "mine": (Negative(4), 1.0)}
    named = {"Negative": Negative(4), "Mine": Mine(), "Hybrid with the output head Negative": Hybrid(heads)}
    for name, model in named.items():
        trainer = Trainer(model, SGD(0.1), backend="numpy", weights=model.init_weights(N_USERS, N_ITEMS))
        with pytest.raises(
            TypeError, match=rf"model is a {name}; it must be a Dot.*the page repeats the model's formula"
        ):
            explain.explore(trainer, ratings, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_recommender_and_the_table_that_it_was_fitted_on(browser: Any, ratings: Ratings, tmp_path: Path) -> None:
    """It knows neither item 59, the most rated, nor user 0: what the page shows are its own items and predictions."""
    known = ratings.take((ratings.item != 59) & (ratings.user != 0))
    recommender = Recommender(n_factors=3, epochs=2, backend="numpy").fit(known)
    path = explain.explore(recommender, ratings, tmp_path / "page.html")
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script("return window.ready === true"), "the page to be ready")
    assert texts(browser, "#about")[0].startswith(f"59 items, {len(known)} ratings by 11 users.")
    assert not [text for text in texts(browser, "#user option") if text.startswith("500 ")]
    type_in(browser, "film 59 (1999)")
    assert texts(browser, "#found") == ["no such title"]
    type_in(browser, "film 41").send_keys("\n")
    choose(browser, "user", f"{ratings.users.ids[5]} (")
    total = texts(browser, "#item tr.sum td")
    pair = pd.DataFrame({"userId": ratings.users.ids[[5]], "movieId": ratings.items.ids[[41]]})
    assert float(total[1]) == pytest.approx(recommender.predict(pair)[0], abs=0.0055)


def test_bad_arguments_are_named(ratings: Ratings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="layout is 'umap'; it must be 'pca' or 'tsne'"):
        explain.explore(trained("dot"), ratings, tmp_path / "page.html", layout="umap")
    with pytest.raises(ValueError, match="users is 0"):
        explain.explore(trained("dot"), ratings, tmp_path / "page.html", users=0)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"pip install 'minicf\[explore\]'"):
        explain.explore(trained("dot"), ratings, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
