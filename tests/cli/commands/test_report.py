"""A run as one page."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from lightning_gans import SettingError
from lightning_gans.cli.commands import report
from lightning_gans.cli.main import main
from lightning_gans.cli.run_folder import RunFolder, read_json

SCORES = {
    "stage": "val",
    "step": 20,
    "model": "GAN",
    "scores": {"fid": 2.5, "kid": 0.125, "fid_class/0": 3.5, "fid_class/1": 4.5},
    "protocol": {"extractor": "<mnist>", "data": "Toys & more", "num_samples": 1000},
    "floor": {"split": "test", "num_images": 1000, "scores": {"fid": 0.5}},
    "versions": {"torch": "2.15"},
}
VOID = ("meta", "link", "img", "input", "wbr")


class Node(HTMLParser):
    """An element of a page; parsing the page checks that what is opened is closed."""

    def __init__(self, page="", tag="", attributes=()):
        super().__init__()
        self.tag, self.attributes, self.content, self.open = tag, dict(attributes), [], [self]
        self.feed(page)
        self.close()
        assert self.open == [self]

    def handle_starttag(self, tag, attributes):
        node = Node(tag=tag, attributes=attributes)
        self.open[-1].content.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].content.append(data)

    def all(self, tag="", **attributes):
        """Return the elements inside with this tag and these attributes, in order."""
        found = []
        for node in self.content:
            if isinstance(node, Node):
                same = all(node.attributes.get(name) == value for name, value in attributes.items())
                found += [node] * (same and tag in ("", node.tag)) + node.all(tag, **attributes)
        return found

    @property
    def text(self):
        parts = (part.text if isinstance(part, Node) else part for part in self.content)
        return " ".join("".join(parts).split())


def page_of(folder):
    return Node(report.make_page(RunFolder(folder)))


def charts_of(node):
    """Return the charts by their titles; a chart has steps, values and places by the names of its lines."""
    found = {}
    for figure in node.all("figure", **{"class": "chart"}):
        names = [item.text.split(" ")[0] for item in figure.all("li") if item.attributes["class"] != "floor"]
        lines = [path.attributes for path in figure.all("path") if "data-steps" in path.attributes]
        found[figure.all("h3")[0].text] = {
            name: [
                (step, value, float(x), float(y))
                for step, value, (x, y) in zip(
                    line["data-steps"].split(" "),
                    line["data-values"].split(" "),
                    re.findall(r"([\d.]+) ([\d.]+)", line["d"]),
                    strict=True,
                )
            ]
            for name, line in zip(names, lines, strict=True)
        }
    return found


@pytest.fixture
def run(workplace):
    folder = workplace / "runs" / "toys" / "version_0"
    for name in ("samples", "metrics"):
        (folder / name).mkdir(parents=True)
    (folder / "metrics.csv").write_text(
        "epoch,step,train/d_fake,train/d_loss,train/d_real,train/g_loss,train/kl,val/fid,val/fid_class/0,val/kid,val/kl,"
        "watchdog/spread\n"
        ",5,-1.0,1.5,1.0,12345.678,7,,,,,\n"
        ",10,-2.0,nan,2.0,0.5,6,,,,,\n"
        "0,10,,,,,,4.0,9.0,,8,0.9\n"
        ",20,-3.0,2.5,3.0,0.25,5,,,,,\n"
        "0,20,,,,,,2.5,3.5,0.125,7,0.8\n"
    )
    for step in range(0, 21):
        Image.new("L", (4, 4), step).save(folder / "samples" / f"step={step:07d}.png")
    (folder / "metrics" / "step=0000020.json").write_text(json.dumps(SCORES))
    (folder / "config.yaml").write_text("model:\n  class_path: <script>alert(1)</script>\n")
    record = {"command": "lightning-gans fit -c toys", "from_step": 0, "step": 20, "images_seen": 1280, "seconds": 3.5}
    (folder / "run.json").write_text(json.dumps({"fits": [record, record | {"command": "lightning-gans resume"}]}))
    return folder


@pytest.mark.parametrize("output", ["checkpoints/last.ckpt", "metrics.csv", "page.pdf", ""])
def test_the_page_replaces_no_file_of_another_kind(run, output):
    before = (run / "metrics.csv").read_text()
    with pytest.raises(SettingError, match="--output is"):
        report.run(str(run), output and str(run / output))
    assert (run / "metrics.csv").read_text() == before


def test_the_page_needs_no_other_file(run, capsys):
    main(["report", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    text = (run / "report.html").read_text()
    page = Node(text)
    links = [node.attributes[name] for node in page.all() for name in ("src", "href") if name in node.attributes]
    assert links and all(link.startswith("data:") for link in links)
    assert not re.search(r"https?:|url\(|@import|fetch", text)
    for part in ("toys/version_0", "fit -c toys", "1,280", "<script>alert(1)</script>", "<mnist>", "2.15"):
        assert part in page.text


def test_the_sections_are_in_order_and_only_those_with_content(run):
    found = [(section.all("h2")[0].text, section.attributes["class"]) for section in page_of(run).all("section")]
    assert [title for title, _ in found] == ["Samples", "Training", "Scores", "Watchdog", "Settings and environment"]
    for kind in ("reconstructions", "neighbors"):
        (run / kind).mkdir()
        Image.new("L", (4, 4)).save(run / kind / "step=0000020.png")
    titles = [node.text for node in page_of(run).all("h2")]
    assert titles[3:5] == ["Reconstructions", "Nearest training images"] and len(titles) == 7


def test_folder_and_scores_of_earlier_versions_are_read(run):
    (run / "neighbours").mkdir()
    Image.new("L", (4, 4)).save(run / "neighbours" / "step=0000020.png")
    assert "Nearest training images" in page_of(run).text
    old = run / "old.json"
    old.write_text('{"protocol": {"neighbour_images_real": 8}, "seconds": {"neighbours": 1.5}}')
    assert read_json(old) == {"protocol": {"neighbor_images_real": 8}, "seconds": {"neighbors": 1.5}}


def test_the_pictures_are_those_of_the_run_from_first_to_last(run):
    (viewer,) = page_of(run).all("figure", **{"class": "viewer"})
    shown = [image.attributes for image in viewer.all("img")]
    assert len(shown) == 12 and (shown[0]["alt"], shown[-1]["alt"]) == ("step 0", "step 20")
    assert ["hidden" in image for image in shown] == [True] * 11 + [False]
    (slider,) = viewer.all("input")
    assert (slider.attributes["max"], slider.attributes["value"]) == ("11", "11")
    for image in shown:
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        step = int(image["alt"].removeprefix("step "))
        assert content == (run / "samples" / f"step={step:07d}.png").read_bytes()


def test_walks_and_traversals_in_the_folder_have_a_section(run, workplace):
    names = ["traverse_sefa.png", "walk.gif", "walk <b>.png"]
    for name in [*names, "walk.jpg", "other.png"]:
        Image.new("L", (4, 4), len(name)).save(run / name)
    Image.new("L", (4, 4)).save(workplace / "elsewhere.gif")
    (run / "walk_link.gif").symlink_to(workplace / "elsewhere.gif")
    page = page_of(run)
    titles = [node.text for node in page.all("h2")]
    assert titles.index("Latent space") == titles.index("Watchdog") - 1
    (section,) = page.all("section", **{"class": "latent-space"})
    shown = {image.attributes["alt"]: image.attributes["src"] for image in section.all("img")}
    assert list(shown) == sorted(names) == [caption.text for caption in section.all("figcaption")]
    for name, source in shown.items():
        kind, content = source.split(";base64,")
        assert kind == f"data:image/{name[-3:]}" and base64.b64decode(content) == (run / name).read_bytes()


def test_one_picture_has_no_slider(run):
    for step in range(0, 20):
        (run / "samples" / f"step={step:07d}.png").unlink()
    assert len(page_of(run).all("img")) == 1 and page_of(run).all("input") == []


def test_players_share_a_chart_and_so_do_their_logits(run):
    training = charts_of(page_of(run).all("section", **{"class": "training"})[0])
    assert [(title, list(lines)) for title, lines in training.items()] == [
        ("Losses", ["train/d_loss", "train/g_loss"]),
        ("Logits", ["train/d_fake", "train/d_real"]),
        ("kl", ["train/kl", "val/kl"]),
    ]
    assert [point[:2] for point in training["Losses"]["train/g_loss"]] == [
        ("5", "12,346"),
        ("10", "0.5"),
        ("20", "0.25"),
    ]
    assert [point[:2] for point in training["Losses"]["train/d_loss"]] == [
        ("5", "1.5"),
        ("20", "2.5"),
    ]  # without the NaN
    assert [point[:3] for point in training["kl"]["val/kl"]] == [("10", "8", 216.0), ("20", "7", 392.0)]


def test_scores_are_a_table_beside_those_of_real_images(run):
    section = page_of(run).all("section", **{"class": "scores"})[0]
    table, classes = (
        [[cell.text for cell in row.content] for row in table.all("tr")] for table in section.all("table")
    )
    assert [[cell for cell in row if cell.strip()] for row in table] == [
        ["val, step 20", "1,000 samples", "1,000 real images"],
        ["fid", "2.5", "0.5"],
        ["kid", "0.125"],
    ]
    (folded,) = section.all("details")
    assert folded.all("table") == section.all("table")[1:] and "open" not in folded.attributes
    assert classes == [["", "1,000 samples"], ["fid_class/0", "3.5"], ["fid_class/1", "4.5"]]


def test_fewer_real_images_have_a_column_of_as_many_samples_and_no_line(run):
    scores = SCORES | {"floor": {"num_images": 100, "scores": {"fid": 0.75}, "samples": {"fid": 3.25}}}
    (run / "metrics" / "step=0000020.json").write_text(json.dumps(scores))
    section = page_of(run).all("section", **{"class": "scores"})[0]
    head, fid, *_ = [[cell.text for cell in row.content] for row in section.all("tr")]
    assert head[1:] == ["1,000 samples", "first 100 samples", "100 real images"] and fid == [
        "fid",
        "2.5",
        "3.25",
        "0.75",
    ]
    assert section.all("path", **{"class": "floor"}) == []


def test_a_score_of_two_points_has_a_chart_with_the_real_images_as_a_line(run):
    section = page_of(run).all("section", **{"class": "scores"})[0]
    charts = charts_of(section)
    assert list(charts) == ["fid"]  # the others are in the table, or of a class
    (_, _, x1, y1), (_, _, x2, y2) = charts["fid"]["val/fid"]
    assert (x1, x2) == (216, 392)
    (floor,) = section.all("path", **{"class": "floor"})
    level = float(re.fullmatch(r"M40 ([\d.]+)H392", floor.attributes["d"])[1])
    assert (y2 - y1) / (level - y1) == pytest.approx((4.0 - 2.5) / (4.0 - 0.5), abs=0.002)
    assert section.all("li", **{"class": "floor"})[0].text == "real images 0.5"


def test_what_files_hold_is_text(run):
    """All names and values are escaped, and the page's policy allows no script but its own."""
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
    header = "step," + ",".join(f'"{prefix}{evil.replace(chr(34), chr(34) * 2)}"' for prefix in ("train/", "val/", ""))
    (run / "metrics.csv").write_text(f"{header}\n1,1,2,3\n2,1,2,3\n")
    (run / "config.yaml").write_text(evil)
    (run / "run.json").write_text(
        json.dumps({"fits": [dict.fromkeys(["command", "date", "hardware", "step", evil], evil)]})
    )
    names = {evil: 1.0, f"{evil}/0": 1.0}
    floor = {"scores": names, "samples": names, "num_images": evil}
    record = {
        "scores": names,
        "floor": floor,
        "standard_deviations": names,
        "num_repeats": evil,
        "stage": evil,
        "step": evil,
    }
    record |= {"model": evil, "protocol": {"data": evil, "num_samples": evil, evil: evil}, "versions": {evil: evil}}
    (run / "metrics" / "step=0000020.json").write_text(json.dumps(record))
    page = page_of(run.rename(run.with_name("'\"&<i>")))
    (script,) = page.all("script")
    assert not any(name.startswith("on") for node in page.all() for name in node.attributes)
    assert page.all("i") == [] and all(image.attributes["src"].startswith("data:") for image in page.all("img"))
    assert page.text.count("<script>alert(1)</script>") > 20
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    (style,) = page.all("style")
    for node, name in ((style, "style"), (script, "script")):
        digest = base64.b64encode(hashlib.sha256("".join(node.content).encode()).digest()).decode()
        assert f"; {name}-src 'sha256-{digest}'" in policy.attributes["content"]
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:; style-src")
    assert "addEventListener" in script.content[0] and "prefers-color-scheme: dark" in style.content[0]


def test_the_same_run_gives_the_same_page(run):
    assert report.make_page(RunFolder(run)) == report.make_page(RunFolder(run))


def test_a_run_that_has_just_started_has_a_page(run):
    for name in ("samples", "metrics"):
        shutil.rmtree(run / name)
    for name in ("run.json", "config.yaml"):
        (run / name).unlink()
    assert [node.text for node in page_of(run).all("h2")] == ["Training", "Scores", "Watchdog"]
    (run / "metrics.csv").write_text("step,train/loss\n")
    assert page_of(run).all("h2") == []


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"protocol": None}, "&lt;mnist&gt;"),
        ({"versions": None}, "2.15"),
        ({"floor": [1]}, "<td>0.5<"),
        ({"floor": {"scores": {"fid": None}}}, "<td>0.5<"),
        ({"scores": {"fid": None, "kid": 0.125}}, "<td>2.5<"),
        ({"scores": None}, "<td>2.5<"),
    ],
)
def test_an_evaluation_that_was_edited_is_shown_without_what_is_lost(run, change, lost):
    assert lost in report.make_page(RunFolder(run))
    (run / "metrics" / "step=0000020.json").write_text(json.dumps(SCORES | change))
    page = report.make_page(RunFolder(run))
    Node(page)
    assert lost not in page


@pytest.mark.slow
@pytest.mark.parametrize("record", [{"fits": [1]}, {"fits": None}, {"fits": 3}, {"fits": [{"step": "x"}]}, [1]])
def test_a_record_that_was_edited_is_shown_without_what_is_lost(run, record):
    (run / "run.json").write_text(json.dumps(record))
    assert "Losses" in page_of(run).text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_shows_values_and_pictures_without_an_error(run, workplace):
    main(["report", str(run), "--output", "page.html"])
    page = (workplace / "page.html").read_text()
    move = "chart.querySelector('svg').dispatchEvent(new PointerEvent('pointermove', {clientX: x}))"
    script = f"""
      const chart = document.querySelector(".training .chart");
      const box = chart.querySelector("svg").getBoundingClientRect();
      const viewer = document.querySelector(".viewer"), slider = viewer.querySelector("input"), seen = [];
      const note = (node) => seen.push([...node.querySelectorAll("output")].map((output) => output.textContent));
      for (const x of [0, box.left + box.width * 216 / 400, box.right]) {{ {move}; note(chart); }}
      note(viewer);
      slider.value = 3; slider.dispatchEvent(new Event("input")); note(viewer);
      seen.push([...viewer.querySelectorAll("img:not([hidden])")].map((picture) => picture.alt));
      seen.push([document.documentElement.scrollWidth <= innerWidth]);
      document.title = JSON.stringify(seen);
    """
    script = f"<script>{script}</script></body>"
    (workplace / "driven.html").write_text(re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", script))
    (workplace / "injected.html").write_text(page.replace("</body>", script))
    titles = {}
    for name in ("page", "driven", "injected"):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command += ["--disable-background-networking", "--window-size=390,800", f"file://{workplace / name}.html"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert made.returncode == 0 and ("CONSOLE" in made.stderr) == (name == "injected")
        titles[name] = html.unescape(re.search("<title>(.*)</title>", made.stdout)[1])
    assert titles["page"] == titles["injected"] == "toys/version_0"  # the policy allows no other script
    assert json.loads(titles["driven"]) == [
        ["5", "1.5", "12,346"],
        ["10", "1.5", "0.5"],  # the last loss of the discriminator before
        ["20", "2.5", "0.25"],
        ["step 20"],
        ["step 5"],
        ["step 5"],
        [True],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", "step,val/fid\n1," + "1" * 200_000 + "\n"),
        ("metrics.csv", "step,val/fid\n" + "1" * 5000 + ",1\n"),
        ("metrics.csv", "step,val/fid,step\n1,1\n"),
        ("metrics.csv", "step,val/fid\n1,1e308\n2,-1e308\n3,inf\n4,1\n"),
        ("metrics.csv", "step,val/fid\n9999999999999999999999999999999,1\n"),
        ("metrics/step=0000020.json", "[" * 100_000),
        ("metrics/step=0000020.json", '{"scores": {"fid": ' + "1" * 400 + "}}"),
        ("run.json", "[" * 100_000),
        ("run.json", '{"fits": [{"step": ' + "1" * 400 + ', "seconds": NaN}]}'),
    ],
)
def test_files_with_values_that_nothing_holds_are_ignored_or_named(run, name, content, capsys):
    (run / name).write_text(content)
    try:
        main(["report", str(run)])
    except SystemExit as stop:
        assert stop.code == 1 and "metrics.csv" in capsys.readouterr().err
    else:
        Node((run / "report.html").read_text())


def test_links_out_of_the_run_are_not_followed(run, workplace):
    secret = workplace / "secret"
    secret.write_text('{"scores": {"fid": 4242.0}, "fits": [{"command": "4242"}]}')
    page = report.make_page(RunFolder(run))
    for name in ("samples/step=0000021.png", "metrics/step=0000021.json"):
        (run / name).symlink_to(secret)
    assert report.make_page(RunFolder(run)) == page
    for name in ("run.json", "config.yaml"):
        (run / name).unlink()
        (run / name).symlink_to(secret)
    assert "4242" not in report.make_page(RunFolder(run))
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").symlink_to(secret)
    with pytest.raises(SystemExit):
        main(["report", str(run)])
