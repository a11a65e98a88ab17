"""Where answers go and in which formats: the options, and what carries them out.

A command that answers about videos takes `outputs: OutputOptions` from `@output_options`, and hands
its answers to a `Delivery`.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from r2rt.cli.console import is_terminal, printable, write_text
from r2rt.cli.options import check_has_use, is_given
from r2rt.cli.session import note, warn
from r2rt.errors import OutputError, QueryError
from r2rt.files import check_destinations, check_folder
from r2rt.grounding.many import VIDEO_SUFFIXES
from r2rt.outputs.answers import Answers
from r2rt.outputs.formats import FORMATS, Format
from r2rt.outputs.names import numbered, output_stems
from r2rt.selection.worthwhile import MOST, good_moments
from r2rt.video.remote import is_remote, plain_path

__all__ = [
    "Delivery",
    "OutputOptions",
    "check_is_text",
    "distinct_labels",
    "output_options",
]

F = TypeVar("F", bound=Callable[..., Any])

_NOT_TEXT = {".gif", ".htm", ".html", ".jpeg", ".jpg", ".pdf", ".png", ".webp", ".xlsx"}
_FEW = 5  # moments of a query in a table
# Clips and thumbnails keep 80 bytes of a label.
_LABEL_BYTES = 70


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What the user asked for.

    Attributes:
        formats: in the order given, each once.
        output: the file to write; None for stdout or `folder`.
        folder: where to write a file a video and format; None for `output` or stdout.
        skip_existing: leave out videos of which all files asked for are there and newer.
        rank: one table of the best moments of all videos.
        rows: rows of that table at most.
        csv_raw: whether CSV leaves cells alone that spreadsheets would take for formulas.
        frame_rate: frames a second that timecodes count; None for the video's own.
        drop_frame: whether to use drop-frame timecode where there is such; None for as usual.
    """

    formats: tuple[Format, ...]
    output: Path | None
    folder: Path | None
    skip_existing: bool
    rank: bool
    rows: int
    csv_raw: bool
    frame_rate: Fraction | None
    drop_frame: bool | None

    def answers(self, video: str, **fields: Any) -> Answers:
        """Return answers about a video whose timecodes count as the user asked."""
        return Answers(
            video=video,
            frame_rate=self.frame_rate,
            drop_frame=self.drop_frame,
            csv_raw=self.csv_raw,
            **fields,
        )


class _FrameRate(click.ParamType[Fraction]):
    name = "rate"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        from r2rt.outputs.source import simple_rate

        try:
            rate = Fraction(value)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 1 <= rate <= 1000:
            self.fail(f"{value!r} is no frame rate; write 25, 29.97 or 30000/1001", param, ctx)
        return simple_rate(rate)


_OPTIONS = (
    click.option(
        "--format",
        "-f",
        "formats",
        type=click.Choice(list(FORMATS)),
        multiple=True,
        help="Format of the result; repeatable with --output-dir.  [default: by the suffix of "
        "--output, else table]",
    ),
    click.option("--json", "json_", is_flag=True, help="Short for --format json."),
    click.option(
        "--output",
        "-o",
        "outputs",
        multiple=True,  # so that a second one can be refused
        type=click.Path(),
        help="Write the result here, whole or not at all; - is standard output.",
    ),
    click.option(
        "--output-dir",
        type=click.Path(),
        help="Write a file for each video and format here: VIDEO.srt, VIDEO.edl, …",
    ),
    click.option(
        "--skip-existing",
        is_flag=True,
        help="Skip videos whose outputs (files in --output-dir, clips, images, pages) all exist, "
        "are newer than the video, and answer the same questions with the same options.",
    ),
    click.option("--rank", is_flag=True, help="One table of the best moments of all videos."),
    click.option(
        "--rows",
        type=click.IntRange(min=1),
        default=20,
        show_default=True,
        help="The most rows of --rank.",
    ),
    click.option(
        "--csv-raw",
        is_flag=True,
        help="Write CSV cells unchanged, even those that spreadsheets take for formulas.",
    ),
    click.option(
        "--frame-rate",
        type=_FrameRate(),
        help="Frames a second that timecodes count.  [default: the video's own]",
    ),
    click.option(
        "--drop-frame/--no-drop-frame",
        default=None,
        help="Drop-frame timecode at 29.97, 59.94.  [default: as the video has it, or on]",
    ),
)


def output_options(command: F) -> F:
    """Add how answers are written; the command gets them as `outputs`."""

    @functools.wraps(command)
    def with_outputs(
        *arguments: Any,
        formats: tuple[str, ...],
        json_: bool,
        outputs: tuple[str, ...],
        output_dir: str | None,
        **options: Any,
    ) -> Any:
        if len(outputs) > 1:
            raise QueryError(
                f"--output is given {len(outputs)} times; give one, or several --format and "
                "--output-dir FOLDER"
            )
        output = outputs[0] if outputs else None
        asked = [*formats, *(["json"] if json_ else [])]
        given = [
            *(formats if is_given("formats") else ()),
            *(["json"] if is_given("json_") else []),
        ]
        # A file of defaults does not know what this command writes, nor where.
        if not is_given("outputs") and (
            is_given("output_dir")
            or (is_given("rank") and (_named_by(output) or ["table"]) != ["table"])
            or (output and given and _is_of_another(Path(output), FORMATS[given[0]]))
        ):
            output = None
        named = given or _named_by(output)
        if not is_given("rank") and (is_given("output_dir") or (named or ["table"]) != ["table"]):
            options["rank"] = False
        check_has_use("rows", "--rank", given=options["rank"])
        asked = named or (["table"] if options["rank"] else asked or ["table"])
        if (output or options["rank"]) and not is_given("output_dir"):
            output_dir = None
        if output_dir is None and not is_given("skip_existing"):
            options["skip_existing"] = False
        taken = {
            name: options.pop(name)
            for name in ("skip_existing", "rank", "rows", "csv_raw", "frame_rate", "drop_frame")
        }
        chosen = OutputOptions(
            formats=tuple(FORMATS[name] for name in dict.fromkeys(asked)),
            output=None if output in (None, "-") else Path(output),
            folder=None if output_dir is None else Path(output_dir),
            **taken,
        )
        _check(chosen)
        return command(*arguments, outputs=chosen, **options)

    for option in reversed(_OPTIONS):
        with_outputs = option(with_outputs)
    return with_outputs  # type: ignore[return-value]


def distinct_labels(stems: Iterable[str]) -> list[str]:
    """Return the part of clips' and thumbnails' names that is each video's."""
    from r2rt.media.names import slug

    # Stems that differ may be the same as slugs. A number must not be cut off again.
    return numbered([slug(stem, _LABEL_BYTES, empty="video") for stem in stems])


class Delivery:
    """Delivers answers as they come: into a folder at once, elsewhere when all are there.

    Args:
        options: where to, and in which formats.
        videos: every video that is asked, in order; their names decide those of the files.
        several: whether the user named several videos, even if that came to one.
        top_k: moments a query that are written; `usual` leaves it to each format, None takes all.
        inputs: what else is read, such as a file of queries.
        exports: whether clips, images or pages are made of the good moments, too.
        quiet: write no notes.

    Raises:
        QueryError: a format cannot hold several videos, or a table a file of that suffix.
        OutputError: an output is one of the videos or of the other inputs.
    """

    def __init__(
        self,
        options: OutputOptions,
        videos: Sequence[str],
        *,
        several: bool = False,
        top_k: int | Literal["usual"] | None = None,
        inputs: Sequence[str] = (),
        exports: bool = False,
        quiet: bool = False,
    ) -> None:
        self._options = options
        self._several = several
        self._top_k = top_k
        self._quiet = quiet
        kinds = {item.moments for item in options.formats} | ({"good"} if exports else set())
        # How many moments of a query are written, where that is not all of them.
        self._most = _FEW if "few" in kinds else MOST if "good" in kinds else None
        self._left_out: list[tuple[str, str, int]] = []
        self._waiting: dict[str, Answers] = {}
        if several and options.folder is None:
            for item in options.formats:
                if not item.holds_several:
                    raise QueryError(
                        f"{item.name} holds one video; for several, write a file for each: "
                        "--output-dir FOLDER"
                    )
        names = output_stems([plain_path(video) for video in videos])
        self._stems = dict(zip(videos, names, strict=True))
        written = [] if options.output is None else [options.output]
        if options.folder is not None and options.folder.is_dir():
            written = [path for video in videos for path in self.paths(video)]
        check_destinations(written, [*videos, *inputs])
        check_is_text(options.output)

    def paths(self, video: str) -> list[Path]:
        """Return the files that are written about a video; none without `--output-dir`."""
        folder = self._options.folder
        if folder is None:
            return []
        return [folder / (self._stems[video] + item.suffix) for item in self._options.formats]

    def label(self, video: str) -> str | None:
        """Return the part of file names that is the video's; None where it is the only video."""
        return self._labels[video] if self._several else None

    @functools.cached_property
    def _labels(self) -> dict[str, str]:
        return dict(zip(self._stems, distinct_labels(self._stems.values()), strict=True))

    def waiting(
        self,
        videos: Sequence[str],
        *,
        also: Callable[[str], Sequence[Path]] = lambda _: (),
        is_same: Callable[[str], bool] = lambda _: True,
    ) -> list[str]:
        """Return the videos that are to be answered: all, or those without newer files.

        Args:
            videos: of those that are asked.
            also: returns the files that are made of a video besides its answers.
            is_same: returns whether a video's files were written for what is asked now.
        """
        if not self._options.skip_existing:
            return list(videos)
        waiting = [
            video for video in videos if not (is_same(video) and self._is_done(video, also(video)))
        ]
        if len(waiting) < len(videos):
            done = len(videos) - len(waiting)
            plural = "s" if done > 1 else ""
            quiet = self._quiet or self._several
            note(f"{done} video{plural} skipped: the outputs are up to date", quiet=quiet)
        return waiting

    def add(self, answers: Answers) -> None:
        """Take the answers about one video; into a folder they are written at once.

        An error takes the place of answers that were there before something else failed.

        Raises:
            OutputError: a file cannot be written.
            R2rtError: a format counts frames, and the video cannot be read.
        """
        if self._top_k == "usual" and self._most is not None:
            for item in answers.reported.predictions:
                good = len(good_moments(item.moments))
                if good > self._most:
                    self._left_out.append((answers.video, item.query, good))
        if self._options.folder is None:
            self._waiting[answers.video] = answers
        elif answers.error is None:
            self._write(answers, self._options.folder)

    def finish(self) -> None:
        """Write what has not been written yet, and say what was left out.

        Raises:
            OutputError, R2rtError: as `add`.
        """
        options = self._options
        self._note_left_out()
        if options.folder is not None or not self._waiting:
            return
        (chosen,) = options.formats
        waiting = [self._trimmed(answers, chosen) for answers in self._waiting.values()]
        if chosen.counts_frames:
            _warn_of_timecode(waiting[0])
        write_text(options.output, self._text(chosen, waiting))

    def _note_left_out(self) -> None:
        """Say where more good moments exist than are written by default."""
        counts = {f"{printable(query)}: {good}": good for _, query, good in self._left_out}
        if self._several and counts:  # one line for all
            most, videos = max(counts.values()), len({video for video, _, _ in self._left_out})
            counts = {f"in {videos} of the videos, up to {most}": most}
        for begin, good in counts.items():
            note(
                f"{begin} moments score at least half as much as the best; "
                f"--top-k {good} writes more of them than {self._most}",
                quiet=self._quiet,
            )

    def _is_done(self, video: str, also: Sequence[Path]) -> bool:
        from r2rt.video.fingerprint import is_playlist

        try:
            made = min(path.stat().st_mtime_ns for path in (*self.paths(video), *also))
            if is_remote(video):  # `is_same` knows whether it has changed
                return True
            # What a playlist shows may be newer than itself.
            return made >= Path(video).stat().st_mtime_ns and not is_playlist(Path(video))
        except OSError:
            return False

    def _write(self, answers: Answers, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be made a folder ({error.strerror}); choose another place"
            ) from error
        if any(item.counts_frames for item in self._options.formats):
            _warn_of_timecode(answers)
        paths = self.paths(answers.video)
        for item, path in zip(self._options.formats, paths, strict=True):
            write_text(path, item.render(self._trimmed(answers, item)))
        note(f"wrote {', '.join(map(str, paths))}", quiet=self._quiet or self._several)

    def _trimmed(self, answers: Answers, item: Format) -> Answers:
        reported = answers if item.complete else answers.reported
        if self._top_k != "usual":
            return reported.best(self._top_k)
        if item.moments == "all":
            return reported
        return reported.worthwhile if item.moments == "good" else reported.best(_FEW)

    def _text(self, chosen: Format, answers: list[Answers]) -> str:
        if chosen.name != "table":
            return chosen.render(answers if self._several else answers[0])
        from r2rt.outputs import table_format

        color = self._options.output is None and is_terminal()
        width = shutil.get_terminal_size().columns if color else 100
        if self._options.rank:
            return table_format.render_ranking(
                answers, top=self._options.rows, width=width, color=color
            )
        if self._several:
            return table_format.render_all(answers, width=width, color=color)
        return table_format.render(answers[0], width=width, color=color)


def _check(options: OutputOptions) -> None:
    if options.folder is not None and options.output is not None:
        raise QueryError("--output and --output-dir: give one of them")
    if options.output is not None and options.formats:
        _check_suffix(options.output, options.formats[0])
    if len(options.formats) > 1 and options.folder is None:
        raise QueryError("several formats need --output-dir FOLDER, to write a file each")
    if options.skip_existing and options.folder is None:
        raise QueryError("--skip-existing looks for files in --output-dir FOLDER; give that too")
    if options.rank and (options.formats != (FORMATS["table"],) or options.folder is not None):
        raise QueryError("--rank is a table of all videos: no other --format, no --output-dir")
    counted = is_given("frame_rate") or is_given("drop_frame")
    if counted and not any(item.counts_frames for item in options.formats):
        names = ", ".join(name for name, item in FORMATS.items() if item.counts_frames)
        raise QueryError(f"--frame-rate and --drop-frame are for timecodes: --format {names}")
    # Outputs are checked before hours of video are read.
    if options.output is not None:
        check_destinations([options.output])
    if options.folder is not None:
        check_folder(options.folder)


def _named_by(output: str | None) -> list[str]:
    """Return the format that a file's suffix names, if it names one."""
    name = (output or "").lower()
    fitting = [item for item in FORMATS.values() if name.endswith(item.suffix)]
    return [max(fitting, key=lambda item: len(item.suffix)).name] if fitting else []


def check_is_text(output: Path | None) -> None:
    """Refuse to write text into a file that is named as a video, an image or a page is."""
    if output is not None and output.suffix.lower() in VIDEO_SUFFIXES | _NOT_TEXT:
        raise QueryError(
            f"{output}: no format has this suffix; end it in .json, .csv, .txt, …, "
            "or use --reel, --contact-sheet, --report"
        )


def _check_suffix(output: Path, chosen: Format) -> None:
    """Refuse a file whose suffix belongs to another format."""
    if _is_of_another(output, chosen):
        raise QueryError(
            f"{output}: its suffix belongs to another format than {chosen.name}; "
            f"name it {output.stem}{chosen.suffix}, or leave --format out"
        )


def _is_of_another(output: Path, chosen: Format) -> bool:
    """Return whether a suffix belongs to another format; `.txt` and `.xml` are free."""
    known = {item.suffix.rpartition(".")[2] for item in FORMATS.values()}
    own = chosen.suffix.rpartition(".")[2]
    return output.suffix.lower()[1:] in known - {"txt", "xml", own}


def _warn_of_timecode(answers: Answers) -> None:
    """Warn which rate timecodes count where the video's own varies, and of a start that is lost."""
    source = answers.source
    if source.unread_timecode is not None:
        warn(
            f"{answers.shown}: its start timecode {printable(source.unread_timecode)!r} cannot be "
            "understood, so timecodes count from zero"
        )
    if source.variable and source.rate_is_own:
        warn(
            f"{answers.shown}: its frame rate varies; timecodes count {float(source.rate):.6g} "
            "frames a second (--frame-rate chooses another), and moments begin and end within "
            "one of these"
        )
