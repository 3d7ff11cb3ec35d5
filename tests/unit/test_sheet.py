"The rating sheet: hostile answers, other spreadsheets, a browser."

import csv
import json

import pytest
from sheets import sheet

from ftguide.engine.formats import DataError
from ftguide.judges import human_sheet, read_sheet
from ftguide.market import load_tasks

ROWS = load_tasks("test", 8, seed=3)


def test_a_sheet_is_blind_and_escaped(tmp_path):
    page, key = sheet(tmp_path)
    text = page.read_text(encoding="utf-8")
    table = (page.parent / "sheet.csv").read_text(encoding="utf-8-sig")
    assert "secret" not in text + table and "secret-one" in key.read_text() and key.parent != page.parent
    assert (
        text.count("<script>") == 1
        and "<img" not in text
        and "://" not in text
        and "http" not in text.replace("http-equiv", "")
    )
    import io

    cells = [c for row in csv.reader(io.StringIO(table)) for c in row]
    assert not [c for c in cells if c[:1] in tuple("=+-@\t\r")]
    sides = [r["left_is"] for r in json.loads(key.read_text(encoding="utf-8"))["items"].values()]
    assert 0 < sides.count("secret-one") < 10
    with pytest.raises(FileExistsError):
        human_sheet({"a": lambda p: p, "b": lambda p: p}, ROWS, tmp_path / "sheet")


@pytest.mark.parametrize(
    "text, says",
    [
        ("id,better\nq0000000000,left\n", "not in the key"),
        ("id,better\n@,up\n", "must be left, right or tie"),
        ("id,better\n@,left\n@,left\n", "answered twice"),
        ("name,vote\nx,left\n", "expected: id, better"),
        ("id,better\n@,\n", "no row is answered"),
    ],
)
def test_bad_sheets_name_the_row(tmp_path, text, says):
    _, key = sheet(tmp_path)
    first = next(iter(json.loads(key.read_text(encoding="utf-8"))["items"]))
    (tmp_path / "f.csv").write_text(text.replace("@", first))
    with pytest.raises(DataError, match=says):
        read_sheet(tmp_path / "f.csv", key)
    with pytest.raises(DataError, match="no file"):
        read_sheet(tmp_path / "none.csv", key)


def test_a_spreadsheet_of_another_country_is_read(tmp_path):
    page, key = sheet(tmp_path)
    with open(page.parent / "sheet.csv", encoding="utf-8-sig", newline="") as f:
        rows = list(csv.DictReader(f))
    with open(tmp_path / "filled.csv", "w", encoding="utf-8-sig", newline="") as f:
        w = csv.DictWriter(f, list(rows[0]), delimiter=";")
        w.writeheader()
        w.writerows({**r, "better": "LEFT " if n else ""} for n, r in enumerate(rows))
    found = read_sheet(tmp_path / "filled.csv", key)
    assert len(found.verdicts) == 9 and found.unread == 1


def test_ten_rows_in_a_browser(tmp_path, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    page, key = sheet(tmp_path)
    items = json.loads(key.read_text(encoding="utf-8"))["items"]
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", dict(behavior="allow", downloadPath=str(downloads))
    )
    js, wait = browser.execute_script, WebDriverWait(browser, 60).until
    done = lambda: js("return document.getElementById('done').textContent")
    browser.get(page.as_uri())
    assert (
        js("return document.querySelectorAll('fieldset').length") == 10
        and browser.title == "Which answer is better?"
        and done() == "0 of 10 answered"
    )
    shown = {
        i: js(
            "const row = document.getElementById(arguments[0]); "
            "return [...row.querySelectorAll('pre')].map(p => p.textContent)",
            i,
        )
        for i in items
    }
    plain = lambda t: t.replace("\r\n", "\n")
    assert all(
        shown[i] == [plain(r[k]) for k in ("prompt", "left", "right")] for i, r in items.items()
    )  # seen as written, not as HTML
    chosen = {i: ("left", "right", "tie")[n % 3] for n, i in enumerate(items)}
    for i, c in chosen.items():
        js("document.querySelector(arguments[0]).closest('label').click()", f"#{i} input[value={c}]")
    first = next(iter(items))
    browser.find_element("css selector", f"#{first} input[type=text]").send_keys('=cmd, "x"')
    assert done() == "10 of 10 answered"

    def after_reload(_):  # the browser writes what a page stores a moment later, when it is busy
        browser.refresh()
        return done() == "10 of 10 answered"

    wait(after_reload)
    browser.find_element("id", "save").click()
    saved = wait(
        lambda _: next((p for p in downloads.iterdir() if p.suffix == ".csv" and p.stat().st_size), None)
    )
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and not [u for u in asked if not u.startswith(("file:", "blob:", "data:"))]
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] and not [
        e for e in events if e["method"] == "Page.javascriptDialogOpening"
    ]
    rows = list(csv.DictReader(saved.read_text(encoding="utf-8-sig").splitlines()))
    assert {r["id"]: r["better"] for r in rows} == chosen and next(
        r["comment"] for r in rows if r["id"] == first
    ) == '\'=cmd, "x"'
    found = read_sheet(saved, key)
    wins = [
        0 if c == "tie" else 1 if (c == "left") == (items[i]["left_is"] == "secret-one") else -1
        for i, c in chosen.items()
    ]
    assert found.verdicts == wins and len(found.pairs) == sum(map(abs, wins))
