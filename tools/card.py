"""Draws the favicon, the picture of the home pages and the social card, from the numbers of the chapters.

`--check` only compares."""

import html
import sys
from itertools import pairwise

from book import NBS, ROOT, write
from measured import STAGES, journey

COLOURS = {
    "base": "#777777",
    "SFT": "#2f6f8f",
    "DPO": "#a8751a",
    "distilled": "#4f7d37",
}  # those of the chapters, dark enough for text
SAYS = {
    "en": dict(
        title="Quality against cost after each stage",
        y="shoppers of 100 who buy",
        x="US dollars per million tokens, on two CPU cores",
        base=("base model", ""),
        SFT=("after SFT", "learnt right answers"),
        DPO=("after DPO", "learnt what shoppers chose"),
        distilled=("distilled", "{times:.1f} times smaller, learnt from its ads"),
    ),
    "pt": dict(
        title="Qualidade e custo depois de cada etapa",
        y="compradores em cada 100",
        x="dólares por milhão de tokens, em dois núcleos de CPU",
        base=("modelo base", ""),
        SFT=("depois do SFT", "aprendeu respostas certas"),
        DPO=("depois do DPO", "aprendeu o que se escolhe"),
        distilled=("destilado", "{times:.1f} vezes menor, imita o maior"),
    ),
}


def favicon() -> str:
    "Up with training, left with distillation."
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" '
        'fill="#24475a"/>'
        '<path d="M11.5 13V4.5H5" fill="none" stroke="#fff" stroke-width="1.6"/><circle cx="11.5" '
        'cy="12.5" r="1.9" fill="#9db7c4"/>'
        '<circle cx="11.5" cy="4.5" r="2" fill="#d9a441"/><circle cx="4.5" cy="4.5" r="2" '
        'fill="#8fc06c"/></svg>\n'
    )


def picture(lang: str, seen: dict, width=640, height=330) -> str:
    "Four points with their intervals, and the way between them."
    says, left, right, top, bottom = SAYS[lang], 46, 200, 42, 46
    local = (lambda text: text.replace(".", ",")) if lang == "pt" else str
    widest, highest = (
        max(seen[s]["usd"] for s in STAGES) * 1.06,
        max(seen[s]["conversion"][2] for s in STAGES) * 1.08,
    )
    x = lambda v: left + (width - left - right) * v / widest
    y = lambda v: height - bottom - (height - top - bottom) * v / highest
    at = {s: (x(seen[s]["usd"]), y(seen[s]["conversion"][0])) for s in STAGES}
    times = seen["smaller"]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{html.escape(says['title'])}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#888"/></marker></defs>',
        '<text x="14" y="22" font-size="14" font-weight="600" '
        f'fill="#222">{html.escape(says["title"])}</text>',
        f'<path d="M{left} {top - 8}V{height - bottom}H{width - right + 16}" fill="none" stroke="#444"/>',
    ]
    for n in range(0, int(100 * highest) + 1, 10):
        out.append(
            f'<path d="M{left - 4} {y(n / 100):.1f}H{left}" stroke="#444"/><text x="{left - 8}" '
            f'y="{y(n / 100) + 4:.1f}" text-anchor="end" fill="#444">{n}</text>'
        )
    step = next(s for s in (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5) if widest / s <= 6)
    for i in range(int(widest / step) + 1):
        out.append(
            f'<path d="M{x(i * step):.1f} {height - bottom}v4" stroke="#444"/><text x="{x(i * step):.1f}" '
            f'y="{height - bottom + 17}" text-anchor="middle" fill="#444">{local(f"{i * step:g}")}</text>'
        )
    out += [
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 9}" text-anchor="middle" '
        f'fill="#444">{says["x"]}</text>',
        f'<text transform="translate(13 {(top + height - bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle" fill="#444">{says["y"]}</text>',
    ]
    for a, b in pairwise(STAGES):
        (xa, ya), (xb, yb) = at[a], at[b]
        far = max(((xb - xa) ** 2 + (yb - ya) ** 2) ** 0.5, 1)
        ux, uy = 11 * (xb - xa) / far, 11 * (yb - ya) / far
        if far > 26:
            out.append(
                f'<path d="M{xa + ux:.1f} {ya + uy:.1f}L{xb - ux:.1f} {yb - uy:.1f}" stroke="#888" '
                'stroke-width="1.6" stroke-dasharray="5 3" marker-end="url(#tip)"/>'
            )
    for s in STAGES:
        (px, py), (value, low, high), c = at[s], seen[s]["conversion"], COLOURS[s]
        out.append(
            f'<path d="M{px:.1f} {y(low):.1f}V{y(high):.1f}" stroke="{c}" stroke-width="2"/><circle '
            f'cx="{px:.1f}" cy="{py:.1f}" r="6" fill="{c}" stroke="#fff"/>'
        )
        name, why = says[s]
        side = (px + 14, py - 3) if s != "distilled" else (max(px - 10, left + 8), y(low) + 20)
        out.append(
            f'<text x="{side[0]:.1f}" y="{side[1]:.1f}" fill="{c}"><tspan font-weight="600">{name}: '
            f"{100 * value:.0f}</tspan>"
            + (
                f'<tspan x="{side[0]:.1f}" dy="15" font-size="11">{local(why.format(times=times))}</tspan>'
                if why
                else ""
            )
            + "</text>"
        )
    return "\n".join(out) + "\n</svg>\n"


def numbers(seen: dict) -> str:
    return ", ".join(f"{s} {100 * seen[s]['conversion'][0]:.0f} at {seen[s]['usd']:.3g} USD" for s in STAGES)


def card(seen: dict, target):
    "1200 by 630, as previews of links expect it; it carries its numbers, so that a check needs no drawing."
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="#24475a")
    fig.text(0.06, 0.80, "ftguide", fontsize=54, color="white", weight="bold")
    fig.text(0.06, 0.70, "A guide to SFT, DPO and distillation that runs", fontsize=25, color="#dfe9ee")
    fig.text(
        0.06,
        0.10,
        "derived by hand\nrun on a laptop\nmeasured, with intervals",
        fontsize=21,
        color="#dfe9ee",
        linespacing=1.6,
    )
    ax = fig.add_axes([0.52, 0.17, 0.33, 0.43], facecolor="none")
    points = [(seen[s]["usd"], 100 * seen[s]["conversion"][0]) for s in STAGES]
    ax.plot(*zip(*points), color="#9db7c4", lw=2, ls="--", zorder=1)
    for s, (px, py), c in zip(STAGES, points, ("#c9d3d8", "#7fc0e0", "#e8b95c", "#a5d184")):
        ax.scatter(px, py, s=170, color=c, zorder=2)
        ax.annotate(
            f"{s} {py:.0f}",
            (px, py),
            xytext=(14, -6) if s != "distilled" else (-8, -32),
            textcoords="offset points",
            color=c,
            fontsize=19,
        )
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9db7c4")
    ax.tick_params(colors="#dfe9ee", labelsize=13)
    ax.set(xlim=(0, None), ylim=(0, 1.15 * max(p[1] for p in points)))
    ax.locator_params(nbins=5)
    ax.set_xlabel("USD per million tokens", color="#dfe9ee", fontsize=16)
    ax.set_ylabel("buyers in 100", color="#dfe9ee", fontsize=16)
    fig.savefig(target, metadata={"Software": None, "Description": numbers(seen)})
    from PIL import Image

    Image.open(target).convert("RGB").quantize(64).save(
        target, optimize=True, pnginfo=_text("Description", numbers(seen))
    )
    plt.close(fig)


def _text(key, value):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(key, value)
    return info


def carried(path) -> str:
    "The numbers that a drawn card carries."
    found = path.read_bytes().split(b"tEXtDescription\x00")[1:] if path.exists() else []
    return found[0].split(b" USD\x00")[0][:400].decode("latin-1") if found else ""


if __name__ == "__main__":
    seen, drawn = journey(), NBS / "theme/card.png"
    write(
        {
            NBS / "theme/favicon.svg": favicon(),
            NBS / "theme/journey.svg": picture("en", seen),
            NBS / "theme/journey-pt.svg": picture("pt", seen),
        }
    )
    if not carried(drawn).startswith(numbers(seen)):
        if "--check" in sys.argv:
            sys.exit("stale: nbs/theme/card.png; run make readme")
        card(seen, drawn)
        print(drawn.relative_to(ROOT))
