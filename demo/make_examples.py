"""Draw the example images of the documentation: contact sheet, timeline and report.

python demo/make_examples.py demo/emoji.mp4 "a penguin" "a red strawberry" "a panda"
    "a guitar next to a pumpkin" --model r2rt/demo

Chromium takes the screenshot of the report (Debian: apt-get install chromium); without it a note
says that the screenshot was left out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image

from r2rt import Grounder
from r2rt.media import write_contact_sheet, write_plot, write_report

WIDTH = 1000  # of the pictures, as pages show them
MOST_BYTES = 150_000
REPORT_SIZE = (1400, 900)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=4000",
)


def main(arguments: list[str] | None = None) -> int:
    """Ground the video and write `contact-sheet.png`, `timeline.png` and `report.png`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("query", nargs="+")
    parser.add_argument("--model", required=True, help="a bundle's folder or an installed model")
    parser.add_argument("--output", type=Path, default=ROOT / "demo" / "examples")
    parser.add_argument("--top-k", type=int, default=4)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    predictions = Grounder.load(options.model).ground(
        options.video, options.query, top_k=options.top_k
    )
    sheet, timeline = options.output / "contact-sheet.png", options.output / "timeline.png"
    write_contact_sheet(options.video, predictions, sheet)
    write_plot(options.video, predictions, timeline)
    written = [sheet, timeline]
    with tempfile.TemporaryDirectory() as folder:
        # The page refers to the video beside it.
        video = Path(shutil.copy(options.video, folder))
        page = Path(folder) / "report.html"
        write_report(video, predictions, page)
        if photograph(page, options.output / "report.png"):
            written.append(options.output / "report.png")
    for path in written:
        shrink(path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


def photograph(page: Path, picture: Path) -> bool:
    """Write what a browser shows of a page; return whether there is a browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium here, so no picture of the report", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                *BROWSER_OPTIONS,
                f"--user-data-dir={profile}",
                f"--window-size={REPORT_SIZE[0]},{REPORT_SIZE[1]}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    return True


def shrink(path: Path) -> None:
    """Make a picture small enough for a repository: narrower, and of fewer colours if need be."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    if picture.width > WIDTH:
        height = round(picture.height * WIDTH / picture.width)
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    picture.save(path, optimize=True)
    for colors in (256, 128, 64):
        if path.stat().st_size <= MOST_BYTES:
            return
        picture.quantize(colors).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
