"""A run as one page."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from lightning_gans.cli.commands import report
from lightning_gans.cli.main import main
from lightning_gans.cli.run_folder import RunFolder

SCORES = {
    "stage": "val",
    "step": 20,
    "model": "GAN",
    "scores": {"fid": 2.5, "kid": 0.125},
    "protocol": {"extractor": "<mnist>", "data": "Toys & more"},
    "floor": {"split": "test", "scores": {"fid": 0.5}},
    "versions": {"torch": "2.15"},
}


class Reader(HTMLParser):
    """Collects what a page is made of, and that what is opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.images, self.links, self.text = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        elif tag not in ("meta", "link"):
            self.open.append(tag)
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(workplace):
    folder = workplace / "runs" / "toys" / "version_0"
    for name in ("samples", "metrics"):
        (folder / name).mkdir(parents=True)
    (folder / "metrics.csv").write_text(
        "epoch,step,train/d_loss,val/fid,watchdog/spread\n,10,1.5,,\n0,10,,4.0,0.9\n,20,nan,,\n0,20,,2.5,0.8\n"
    )
    for step in range(0, 21):
        Image.new("L", (4, 4), step).save(folder / "samples" / f"step={step:07d}.png")
    (folder / "metrics" / "step=0000020.json").write_text(json.dumps(SCORES))
    (folder / "config.yaml").write_text("model:\n  class_path: <script>alert(1)</script>\n")
    record = {"command": "lightning-gans fit -c toys", "from_step": 0, "step": 20, "images_seen": 1280, "seconds": 3.5}
    (folder / "run.json").write_text(json.dumps({"fits": [record]}))
    return folder


def test_the_page_needs_no_other_file(run, capsys):
    main(["report", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = (run / "report.html").read_text()
    found = Reader(page)
    assert found.links and all(link.startswith("data:") for link in found.links)
    assert "<script" not in page and "http" not in re.sub(r'src="[^"]*"', "", page)
    text = "".join(found.text)
    for part in (
        "toys/version_0",
        "lightning-gans fit -c toys",
        "1,280",
        "<script>alert(1)</script>",
        "<mnist>",
        "2.15",
    ):
        assert part in text
    assert [image["alt"] for image in found.images][:3] == ["train/d_loss", "val/fid", f"step={0:07d}"]


def test_the_pictures_are_those_of_the_run_from_first_to_last(run):
    found = Reader(report.make_page(RunFolder(run)))
    shown = [image for image in found.images if image["alt"].startswith("step=")]
    assert len(shown) == 12 and (shown[0]["alt"], shown[-1]["alt"]) == ("step=0000000", "step=0000020")
    for image in shown:
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert content == (run / "samples" / f"{image['alt']}.png").read_bytes()


def test_the_charts_show_the_numbers_and_the_floor(run, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        report, "_chart", lambda name, points, floor: drawn.setdefault(name, (points, floor)) and "data:"
    )
    report.make_page(RunFolder(run))
    assert drawn == {
        "train/d_loss": ([(10, 1.5)], None),  # without the NaN
        "val/fid": ([(10, 4.0), (20, 2.5)], 0.5),
        "watchdog/spread": ([(10, 0.9), (20, 0.8)], None),
    }


def test_the_same_run_gives_the_same_page(run):
    assert report.make_page(RunFolder(run)) == report.make_page(RunFolder(run))


def test_a_run_that_has_just_started_has_a_page(run):
    for name in ("samples", "metrics"):
        shutil.rmtree(run / name)
    for name in ("run.json", "config.yaml"):
        (run / name).unlink()
    found = Reader(report.make_page(RunFolder(run)))
    assert "Losses" in found.text and "Samples" not in found.text


def test_a_folder_that_is_not_a_run_is_an_error(run, workplace, capsys):
    def says(folder):
        with pytest.raises(SystemExit) as stopped:
            main(["report", str(folder)])
        assert stopped.value.code == 1
        return capsys.readouterr().err

    assert "nowhere is not a folder" in says("nowhere")
    (workplace / "empty").mkdir()
    assert "empty has no metrics.csv" in says("empty")
    (run / "metrics.csv").write_text("step,val/fid\nx,1\n")
    assert "metrics.csv is damaged" in says(run)
    for name in ("metrics.csv", "config.yaml"):
        (run / "metrics.csv").write_text("step,val/fid\n1,1\n")
        (run / name).write_bytes(b"step,val/\xff\n1,1\n")
        assert f"{name} cannot be read: 'utf-8' codec" in says(run)


def test_files_that_the_run_did_not_write_are_ignored(run):
    page = report.make_page(RunFolder(run))
    for name in ("step=0000020 (1).png", "step=best.png", "step=best.json"):
        (run / ("metrics" if name.endswith("json") else "samples") / name).write_text('{"scores": {"fid": 7777.0}}')
    (run / "samples" / "step=0000021.png").mkdir()
    assert report.make_page(RunFolder(run)) == page


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"protocol": None}, "&lt;mnist&gt;"),
        ({"versions": None}, "2.15"),
        ({"floor": [1]}, "0.5<"),
        ({"floor": {"scores": {"fid": None}}}, "0.5<"),
        ({"scores": {"fid": None, "kid": 0.125}}, "2.5<"),
        ({"scores": None}, "2.5<"),
    ],
)
def test_an_evaluation_that_was_edited_is_shown_without_what_is_lost(run, change, lost):
    assert lost in report.make_page(RunFolder(run))
    (run / "metrics" / "step=0000020.json").write_text(json.dumps(SCORES | change))
    page = report.make_page(RunFolder(run))
    Reader(page)
    assert lost not in page


@pytest.mark.parametrize("record", [{"fits": [1]}, {"fits": None}, {"fits": 3}, {"fits": [{"step": "x"}]}, [1]])
def test_a_record_that_was_edited_is_shown_without_what_is_lost(run, record):
    (run / "run.json").write_text(json.dumps(record))
    assert "Losses" in Reader(report.make_page(RunFolder(run))).text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_shows_it_without_an_error(run, workplace):
    main(["report", str(run), "--output", "page.html"])
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    made = subprocess.run([*command, f"file://{workplace / 'page.html'}"], capture_output=True, text=True, timeout=100)
    assert made.returncode == 0 and "toys/version_0" in made.stdout
    assert "CONSOLE" not in made.stderr
