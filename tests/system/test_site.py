"""The pages, looked at in headless Chromium at the width of a desk and of a telephone.

FTGUIDE_SITE=_docs looks at what Quarto rendered instead."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from book import NBS, anchor, cells, headings

ROOT = Path(__file__).resolve().parents[2]

PAGES = [path for folder in ("", "pt/", "api/") for path in sorted(NBS.glob(f"{folder}*.ipynb"))]
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]
SITE = os.environ.get("FTGUIDE_SITE")
WIDTHS = (1300, 390)
REFERENCE = {"index", "api", "symptoms", "glossary"}  # pages without parameters, figures and questions


# what is promised about the files


@pytest.fixture(scope="module")
def quarto():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


def hrefs(node):  # every page that a part of _quarto.yml names
    if isinstance(node, str):
        return [node] if re.search(r"\.(ipynb|qmd|md)(#|$)", node) and " " not in node else []
    if isinstance(node, dict):
        return [x for v in node.values() for x in hrefs(v)]
    return [x for v in node for x in hrefs(v)] if isinstance(node, list) else []


def test_quarto_names_pages_that_exist(quarto):
    site = quarto["website"]
    listed = hrefs(site["sidebar"])
    assert sorted(listed) == sorted(NAMES), "every page once in the sidebar, and none that is missing"
    for x in hrefs(site["navbar"]) + hrefs(site["page-footer"]):
        page, _, part = x.partition("#")
        assert (ROOT / page).exists() and (
            not part or part in {anchor(h) for _, _, h in headings(ROOT / page)}
        ), x
    chapters = [x for x in listed if re.match(r"nbs/\d", x)]
    assert chapters == sorted(chapters), "the sidebar is in reading order"
    assert [s["section"] for s in site["sidebar"]["contents"]] == [
        "Start",
        "Ground",
        "Techniques",
        "Trust",
        "Production",
        "The whole",
        "Reference",
        "Português",
    ]
    covered = {
        str(p.relative_to(ROOT)) for pattern in quarto["project"]["render"] for p in ROOT.glob(pattern)
    }
    assert covered == set(NAMES), "render covers every page, and nothing else"
    assert {"nbs/index.ipynb", "nbs/pt/index.ipynb"} <= set(hrefs(site["navbar"]["right"])), (
        "the language switch"
    )


def test_quarto_names_files_that_exist(quarto):
    themes = [t for pair in quarto["format"]["html"]["theme"].values() for t in pair if "/" in t]
    files = [
        *quarto["project"]["resources"],
        quarto["website"]["favicon"],
        quarto["website"]["image"],
        *quarto["filters"],
        *themes,
    ]
    assert not [f for f in files if not (ROOT / f).exists()]
    assert quarto["execute"]["enabled"] is False and set(quarto["format"]["html"]["theme"]) == {
        "light",
        "dark",
    }
    for theme in themes:
        text = (ROOT / theme).read_text(encoding="utf-8")
        assert (
            text.startswith("/*-- scss:defaults --*/")
            and text.count("{") == text.count("}")
            and "http" not in text
        ), theme
    assert (ROOT / "nbs/theme/card.png").stat().st_size < 100_000


@pytest.mark.parametrize("script", ["api", "card", "home", "readme"])
def test_made_by_a_script_and_fresh(script):
    done = subprocess.run(
        [sys.executable, ROOT / f"tools/{script}.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_api_names_everything_exported():
    for path in (ROOT / "ftguide").glob("*.py"):
        exported = re.search(r"^__all__ = \[(.*?)\]", path.read_text(encoding="utf-8"), re.S | re.M)
        names = re.findall(r"'(\w+)'", exported[1]) if exported else []  # the command line exports none
        if names:
            page = (NBS / f"api/{path.stem}.ipynb").read_text(encoding="utf-8")
            assert not [n for n in names if f"## `{n}`" not in page], path.name


def test_api_leads_to_every_public_name():
    "Each stands on one of the pages, and the first page links to it."
    pages = {path: {text for _, _, text in headings(path)} for path in NBS.glob("api/*.ipynb")}
    first = "\n".join(c["source"] for c in cells(NBS / "api.ipynb"))
    for name in re.findall(r" as (\w+)$", (ROOT / "ftguide/__init__.pyi").read_text(encoding="utf-8"), re.M):
        page = next(path for path, names in pages.items() if f"`{name}`" in names)
        assert f"](api/{page.name}#{anchor(name)})" in first, name


def test_links_and_anchors_of_the_sources():
    anchors = {p.resolve(): {anchor(h) for _, _, h in headings(p)} for p in PAGES}
    broken = []
    for path in PAGES:
        for c in cells(path):
            if c["cell_type"] != "markdown":
                continue
            text = re.sub(r"^```.*?^```", "", c["source"], flags=re.M | re.S)
            for target, part in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
                if re.match(r"\w+:", target):
                    continue
                there = (path.parent / target).resolve() if target else path.resolve()
                if not there.exists() or (
                    part and there.suffix == ".ipynb" and part not in anchors.get(there, ())
                ):
                    broken.append(f"{path.name}, {c['id']}: {target}#{part}")
    assert not broken, broken


def test_home_pages_lead_to_every_chapter():
    for home, up in (("index.ipynb", ""), ("pt/index.ipynb", r"\.\./")):
        text = "\n".join(c["source"] for c in cells(NBS / home))
        missing = [
            p.name for p in NBS.glob("[0-9]*.ipynb") if not re.search(rf"\]\({up}{re.escape(p.name)}", text)
        ]
        assert not missing, f"{home} does not lead to {missing}"


def test_glossary_is_in_order():
    words = [
        w.lower()
        for c in cells(NBS / "glossary.ipynb")[1:]
        for w in re.findall(r"^\*\*(.+?)\*\* \(pt: \*", c["source"], re.M)
    ]
    assert len(words) >= 50 and words == sorted(words) and len(words) == len(set(words))


# the pages themselves


def as_quarto_would(nb):
    """Options of cells become what they ask for; what is left of a directive shows on the page.

    -> notebook, alt text of each figure."""
    kept, alts = [], []
    for cell in nb.cells:
        if cell.cell_type == "code":
            options = yaml.safe_load("\n".join(re.findall(r"^#\| ?(.*)$", cell.source, re.M))) or {}
            if options.get("include") is False:
                continue
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
            pictures = sum("image/png" in o.get("data", {}) for o in cell.outputs)
            alts += [options.get("fig-alt", "")] * pictures
            if not cell.source.strip() and not cell.outputs:
                continue
        kept.append(cell)
    nb.cells = kept
    return nb, iter(alts)


def with_alt_texts(page, alts):
    "The page with the next alt text at each picture that has none."
    before, *after = page.split('alt="No description has been provided for this image"')
    return before + "".join(f'alt="{escape(next(alts))}"{part}' for part in after)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of pages, served over http.

    Quarto's where FTGUIDE_SITE names it, else nbconvert's with the guide's own rules."""
    if SITE:
        folder = (ROOT / SITE).resolve()
        assert folder.is_dir(), f"FTGUIDE_SITE={SITE} is no folder"
    else:
        from nbconvert import HTMLExporter

        folder = tmp_path_factory.mktemp("site")
        nothing = dict(
            mathjax_url="",
            require_js_url="",
            jquery_url="",
            mermaid_js_url="",
            mermaid_layout_elk_js_url="",
            jupyter_widgets_base_url="",
            widget_renderer_url="",
        )
        rules = (NBS / "theme/guide.scss").read_text(encoding="utf-8").split("/*-- scss:rules --*/")[1]
        known = {name: url for name, url in nothing.items() if HTMLExporter.class_traits().get(name)}
        trusted = dict(clean_html=lambda html: html)  # cleaning takes as long as everything else
        exporter = HTMLExporter(template_name="lab", filters=trusted, **known)
        for path in PAGES:
            nb, alts = as_quarto_would(nbformat.read(path, 4))
            page, _ = exporter.from_notebook_node(nb)
            page = with_alt_texts(page, alts)
            # without the template's loaders of MathJax, Mermaid and widgets
            page = re.sub(r"<script\b[^>]*>.*?</script>", "", page, flags=re.S)
            page = re.sub(r'(href="[^":]*)\.ipynb', r"\1.html", page).replace(
                "</head>",
                f"<link rel='icon' href='/nbs/theme/favicon.svg'><style>{rules}\npre {{ white-space: "
                f"pre-wrap; overflow-wrap: anywhere; }}</style></head>",
            )
            there = folder / path.relative_to(ROOT).with_suffix(".html")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(page, encoding="utf-8")
        shutil.copytree(NBS / "theme", folder / "nbs/theme")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


LOOK = """
const main = document.querySelector('main') || document.body;
const wide = e => {
  for (let p = e.parentElement; p; p = p.parentElement) {
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false
  }
  return true
};
const sticksOut = e => {
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 && box.width > 0 && !e.closest('math, svg') && wide(e)
};
const past = [...main.querySelectorAll('*')].filter(sticksOut);
const wrong = [
  '.cell-output-error',
  '[data-mime-type="application/vnd.jupyter.error"]',
  '[data-mime-type="application/vnd.jupyter.stderr"]',
  '.cell-output-stderr',
].join(', ');
return {
  overflow: document.documentElement.scrollWidth - innerWidth,
  past: past.slice(0, 5).map(e => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 60)),
  directive: (main.innerText.match(/^.*#\\|.*$/m) || main.innerText.match(/^:::.*$/m) || [''])[0],
  errors: [...main.querySelectorAll(wrong)].map(e => e.textContent.slice(0, 80)),
  images: [...document.images].map(i => ({
    src: (i.getAttribute('src') || '').slice(0, 60),
    alt: i.alt,
    loaded: i.complete && i.naturalWidth > 0,
    width: i.getBoundingClientRect().width,
  })),
  links: [...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href')),
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  title: document.title, heads: main.querySelectorAll('h1').length,
};"""


def address(folder, url, name):
    page = Path(name).with_suffix(".html")
    assert (folder / page).exists(), f"{page} was not rendered"
    return f"{url}/{page.as_posix()}"


@pytest.fixture(scope="module")
def seen(site, browser):
    "Every page at every width, opened once."
    folder, url = site
    found = {}
    for name in NAMES:
        for width in WIDTHS:
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500),
            )
            if width == WIDTHS[0]:
                browser.get_log("browser")
                browser.get(address(folder, url, name))
            if shots := os.environ.get("FTGUIDE_SHOTS"):
                shoot(browser, Path(shots) / f"{name.replace('/', '-')[4:-6]}-{width}.png", width)
            found[name, width] = browser.execute_script(LOOK)
            if width == WIDTHS[-1]:
                found[name, "console"] = [
                    e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"
                ]
    return found


def shoot(browser, path, width):
    "A picture of the whole page, to look at."
    import base64

    height = min(browser.execute_script("return document.documentElement.scrollHeight"), 12_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        base64.b64decode(
            browser.execute_cdp_cmd(
                "Page.captureScreenshot",
                dict(captureBeyondViewport=True, clip=dict(x=0, y=0, width=width, height=height, scale=1)),
            )["data"]
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_page(name, seen, site):
    folder, _ = site
    for width in WIDTHS:
        page = seen[name, width]
        assert page["overflow"] <= 0 and not page["past"], (
            f"wider than {width} pixels: {page['past'] or page['overflow']}"
        )
        assert not [i for i in page["images"] if not i["loaded"]], "missing image"
    assert not page["directive"], f"a directive shows: {page['directive']}"
    assert not page["errors"], page["errors"]
    assert not [i for i in page["images"] if not i["alt"].strip()], "figure without alt text"
    assert page["title"] and page["heads"] == 1, f"{page['heads']} titles"
    assert not seen[name, "console"], seen[name, "console"]
    here = Path(name).with_suffix(".html")
    ids = set(page["ids"])
    broken = []
    for link in page["links"]:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link in ("", "#") or link.startswith("javascript"):
            continue
        target = (
            (folder / here.parent / unquote(parts.path)).resolve()
            if parts.path and not parts.path.startswith("/")
            else (folder / unquote(parts.path).lstrip("/")).resolve()
            if parts.path
            else None
        )
        fragment = unquote(parts.fragment)
        if target is None:
            found = not SITE or fragment in ids
        elif not (target.exists() and (target.is_file() or (target / "index.html").exists())):
            found = False
        elif SITE and fragment and target.suffix == ".html":
            found = f'id="{fragment}"' in target.read_text(encoding="utf-8")
        else:
            found = True
        if not found:
            broken.append(link)
    assert not broken, f"broken links: {broken}"


def test_nothing_is_loaded_from_elsewhere(seen, browser):
    asked = {
        json.loads(e["message"])["message"]["params"]["request"]["url"]
        for e in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in e["message"]
    }
    assert not [u for u in asked if u.startswith("http") and "://127.0.0.1:" not in u]


@pytest.mark.skipif(
    not SITE, reason="only Quarto has a theme, a search and a table of contents; FTGUIDE_SITE=_docs"
)
def test_quarto_furniture(site, browser):
    folder, url = site
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=1300, height=900, deviceScaleFactor=1, mobile=False)
    )
    browser.get(address(folder, url, "nbs/05_sft.ipynb"))
    has = lambda css: browser.execute_script("return document.querySelectorAll(arguments[0]).length", css)
    for css in (
        ".code-copy-button",
        "#TOC a",
        "#quarto-search",
        ".quarto-color-scheme-toggle",
        "a[href*='pt/']",
        ".nav-page-next a",
        "details summary",
        "figcaption",
    ):
        assert has(css), f"no {css}"
    assert "card.png" in (folder / "nbs/index.html").read_text(encoding="utf-8")
    assert 'lang="pt' in (folder / "nbs/pt/index.html").read_text(encoding="utf-8")[:300]
