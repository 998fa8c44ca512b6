"""Puts a report together and writes it: one HTML file with everything inside, and Markdown with its pictures beside."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from rllib_vla import metrics
from rllib_vla.atomic_file import write_text_atomically
from rllib_vla.cli.checkpoints import best_valid_checkpoint
from rllib_vla.cli.run_record import EXPERIMENT_FILE
from rllib_vla.logging.result_view import EVALUATION_SUCCESS, format_duration, format_value, number
from rllib_vla.reporting import figures
from rllib_vla.reporting.results import Configuration, Study, TrialResults

_MAX_CLIPS_PER_EVALUATION = 6
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 0.88rem; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid #eee; white-space: nowrap; }
th { background: #f5f5f5; } tbody tr:first-child td { font-weight: 600; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption, .note { color: #555; font-size: 0.88rem; }
pre { background: #f7f7f7; padding: 0.8rem; overflow-x: auto; font-size: 0.8rem; }
.clips { display: flex; flex-wrap: wrap; gap: 0.8rem; } .clips figure { margin: 0; }
.clips video, .clips img { height: 8rem; max-width: 100%; object-fit: contain; margin-right: 0.3rem; }
"""


@dataclass
class Clip:
    """One evaluated episode: a film strip, a video, or both."""

    caption: str
    strip: Path | None
    video: Path | None


@dataclass
class Section:
    """A part of the report; what it lacks is left out.

    Attributes:
        title: Heading; empty: goes on with the section before.
        text: Paragraph below it.
        table: Header and rows.
        picture: Name of the figure's file (without ending) and its PNG.
        clips: Episodes to show.
        listing: Preformatted text.
    """

    title: str
    text: str = ""
    table: tuple[list[str], list[list[str]]] | None = None
    picture: tuple[str, bytes] | None = None
    clips: list[Clip] = field(default_factory=list)
    listing: str = ""


def write_report(study: Study, folder: Path, *, axes: Sequence[str] | None = None) -> tuple[Path, Path]:
    """Writes ``report.html``, ``report.md`` and the latter's pictures (``report_files/``) into a folder.

    Args:
        study: What to report on.
        folder: Where to; made if it is missing.
        axes: The two swept parameters of the heat map; None: the first two.

    Returns:
        Paths of the HTML and the Markdown page.

    Raises:
        ValueError: `axes` names a parameter that was not swept.
    """
    return write_pages(f"Report: {study.name}", make_sections(study, axes=axes), folder)


def write_pages(title: str, sections: list[Section], folder: Path) -> tuple[Path, Path]:
    """Writes the sections as ``report.html`` and ``report.md`` into a folder and returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = folder / "report.html", folder / "report.md"
    for path, text in zip(pages, (to_html(title, sections), to_markdown(title, sections, folder)), strict=True):
        write_text_atomically(path, text)
    return pages


def make_sections(study: Study, *, axes: Sequence[str] | None = None) -> list[Section]:
    """Returns what the report says, in order; see `write_report`."""
    for name in axes or ():
        if name not in study.swept:
            swept = ", ".join(study.swept) or "none"
            raise ValueError(f"'{name}' does not differ between the trials; swept parameters: {swept}")
    sections = [_overview(study), _configurations(study), _success(study)]
    x_y = list(axes or study.swept)[:2]
    if len(x_y) == 2 and not all(math.isnan(configuration.score) for configuration in study.configurations):
        text = (
            "Final success, mean over seeds and over all other parameters. Differences smaller than the intervals "
            "in the table above mean little. *: measured at an earlier iteration than others."
        )
        sections.append(figure_section("Parameters", text, "parameters", figures.parameter_figure(study, *x_y)))
    text = "Only groups with both successes and failures (mixed groups) teach anything."
    sections.append(figure_section("Group contrast", text, "contrast", figures.contrast_figure(study)))
    sections.append(figure_section("Where the time went", _time_text(study), "time", figures.time_figure(study)))
    sections += [section for section in (_episodes(study), _settings(study)) if section is not None]
    return sections


def _overview(study: Study) -> Section:
    best = study.configurations[0]
    status: dict[str, int] = {}
    for trial in study.trials:
        status[trial.status] = status.get(trial.status, 0) + 1
    if study.num_without_results:
        status["without results yet"] = study.num_without_results
    many = len(study.trials) > 1
    facts = [
        ["best configuration", best.label if len(study.configurations) > 1 else "the only one"],
        ["success of the best", _success_text(best)],
        ["before training", _start_text(best)],
        ["best single evaluation", _best_evaluation_text(study)],
        ["checkpoint", _checkpoint_text(best)],
        ["trials", ", ".join(f"{count} {name}" for name, count in status.items())],
        ["training time", format_duration(60 * sum(t.minutes for t in study.trials)) + (" in all" if many else "")],
    ]
    return Section("Overview", table=(["", ""], [row for row in facts if row[1]]))


def _configurations(study: Study) -> Section:
    header = [*(study.swept or ["experiment"]), "success", "95 % interval", "best", "sampled", "mixed groups"]
    header += ["iterations", "seeds", "status"]
    rows = []
    for c in study.configurations:
        parameters = [format_value(c.parameters[name]) for name in study.swept] or [c.label]
        point = c.final
        interval = "" if point is None else f"{point.low:.2f} to {point.high:.2f}"
        best = max((e.success_rate for t in c.trials for e in t.evaluations), default=None)
        rows.append(
            [*parameters, "" if point is None else f"{point.mean:.3f}", interval, _rate(best)]
            + [_rate(_last(c, f"env_runners/{key}")) for key in (metrics.SUCCESS_RATE, metrics.SHARE_MIXED_GROUPS)]
            + [_range([t.num_iterations for t in c.trials]), str(len(c.trials))]
            + [", ".join(dict.fromkeys(t.status for t in c.trials))]
        )
    text = (
        "Success is that of the last greedy evaluation on held-out scenes that all seeds made; configurations are "
        "ordered by it. “Best” is the highest of all evaluations and flatters. “Sampled” and “mixed groups” are means "
        "over the last five iterations."
    )
    return Section("Configurations", text, table=(header, rows))


def _success(study: Study) -> Section:
    text = (
        "Dots: greedy evaluation on held-out scenes. Bands: 95 % intervals, Wilson's for the choice of scenes and, "
        "with three seeds or more, Student's for the spread of trainings, whichever reaches further; with fewer seeds "
        "they leave out how much trainings differ. Thin lines: success of sampled training trajectories."
    )
    return figure_section("Success", text, "success", figures.success_figure(study))


def _time_text(study: Study) -> str:
    seconds = [trial.seconds() for trial in study.trials]
    totals = {name: sum(part[name] for part in seconds) for name in seconds[0]}
    everything = sum(totals.values())
    if not everything:
        return ""
    shares = [f"{name} {total / everything:.0%}" for name, total in totals.items() if total / everything >= 0.005]
    return "Over all iterations: " + ", ".join(shares) + "."


def _episodes(study: Study) -> Section | None:
    trial = max(study.configurations[0].trials, key=_best_rate)
    folders = sorted(path for path in trial.directory.glob("videos/iteration_*") if path.is_dir())
    if not folders:
        return None
    clips = []
    for folder in dict.fromkeys((folders[0], folders[-1])):
        names = sorted({path.stem for path in folder.iterdir() if path.suffix in (".mp4", ".png")})
        iteration = int(folder.name.removeprefix("iteration_"))
        when = f"iteration {iteration}" if iteration else "before training"
        for name in names[:_MAX_CLIPS_PER_EVALUATION]:
            strip, video = (
                path if path.is_file() else None for path in (folder / f"{name}.png", folder / f"{name}.mp4")
            )
            clips.append(Clip(f"{name.replace('_', ' ')}, {when}", strip, video))
    text = f"Greedy episodes of {trial.directory.name}, first and last evaluation."
    return Section("Episodes", text, clips=clips) if clips else None


def _settings(study: Study) -> Section | None:
    folders = dict.fromkeys(trial.directory.parent for trial in study.trials)
    texts = [path.read_text() for folder in folders if (path := folder / EXPERIMENT_FILE).is_file()]
    if not texts:
        return None
    return Section("Settings", "Every value with its origin.", listing="\n".join(texts))


def figure_section(title: str, text: str, name: str, figure: Figure) -> Section:
    """Returns a section that shows a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Section(title, text, picture=(name, buffer.getvalue()))


def _success_text(configuration: Configuration) -> str:
    point = configuration.final
    if point is None:
        return "no evaluation yet"
    seeds = f", {point.num_seeds} seeds" if point.num_seeds > 1 else ""
    return f"{point.mean:.3f} (95 % interval {point.low:.2f} to {point.high:.2f}) at iteration {point.iteration}{seeds}"


def _start_text(configuration: Configuration) -> str:
    point = next((point for point in configuration.curve if point.iteration == 0), None)
    return "" if point is None else f"{point.mean:.3f} (95 % interval {point.low:.2f} to {point.high:.2f})"


def _best_evaluation_text(study: Study) -> str:
    found = [(e.success_rate, e.iteration, t) for t in study.trials for e in t.evaluations if e.iteration]
    if not found:
        return ""
    rate, iteration, trial = max(found, key=lambda item: item[:2])
    warning = f"; the highest of {len(found)}, so it flatters" if len(found) > 1 else ""
    return f"{rate:.3f} at iteration {iteration} of {trial.directory.name}{warning}"


def _checkpoint_text(configuration: Configuration) -> str:
    trial = max(configuration.trials, key=_best_rate)
    checkpoint, _ = best_valid_checkpoint([trial.directory])
    return "" if checkpoint is None else str(checkpoint)


def _best_rate(trial: TrialResults) -> float:
    return max((number(result, EVALUATION_SUCCESS) or 0.0 for result in trial.results), default=0.0)


def _last(configuration: Configuration, key: str) -> float | None:
    values = [value for trial in configuration.trials for _, value in trial.series(key)[-5:]]
    return sum(values) / len(values) if values else None


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def to_html(title: str, sections: list[Section]) -> str:
    """Returns one page with pictures and videos inside."""
    parts = [f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"]
    parts += [f"<style>{_STYLE}</style></head><body>", f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        if section.title:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            parts.append(f"<p class='note'>{html.escape(section.text)}</p>")
        if section.table:
            parts.append(_html_table(*section.table))
        if section.picture:
            name, png = section.picture
            parts.append(f"<figure><img alt='{name}' src='{_data_uri('image/png', png)}'></figure>")
        if section.clips:
            parts.append("<div class='clips'>" + "".join(map(_html_clip, section.clips)) + "</div>")
        if section.listing:
            parts.append(f"<pre>{html.escape(section.listing)}</pre>")
    return "\n".join([*parts, "</body></html>\n"])


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    def line(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = f"<thead>{line('th', header)}</thead>" if any(header) else ""
    return f"<table>{head}<tbody>{''.join(line('td', row) for row in rows)}</tbody></table>"


def _html_clip(clip: Clip) -> str:
    parts = []
    if clip.video is not None:
        source = _data_uri("video/mp4", clip.video.read_bytes())
        parts.append(f"<video controls loop muted playsinline src='{source}'></video>")
    if clip.strip is not None:
        parts.append(f"<img alt='' src='{_data_uri('image/png', clip.strip.read_bytes())}'>")
    return f"<figure>{''.join(parts)}<figcaption>{html.escape(clip.caption)}</figcaption></figure>"


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def to_markdown(title: str, sections: list[Section], folder: Path) -> str:
    """Returns the page as Markdown and writes its pictures to ``report_files/`` in `folder`."""
    files = folder / "report_files"
    files.mkdir(exist_ok=True)
    parts = [f"# {title}"]
    for section in sections:
        if section.title:
            parts.append(f"## {section.title}")
        if section.text:
            parts.append(section.text)
        if section.table:
            header, rows = section.table
            lines = [header, ["---"] * len(header), *rows]
            parts.append(
                "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
            )
        if section.picture:
            name, png = section.picture
            (files / f"{name}.png").write_bytes(png)
            parts.append(f"![{name}](report_files/{name}.png)")
        for clip in section.clips:
            links = [(path, "!" if path is clip.strip else "") for path in (clip.strip, clip.video) if path is not None]
            for path, mark in links:
                parts.append(f"{mark}[{clip.caption}]({os.path.relpath(path, folder)})")
        if section.listing:
            parts.append(f"```yaml\n{section.listing}\n```")
    return "\n\n".join(parts) + "\n"
