"""Help in sections, for commands with many options."""

from __future__ import annotations

import click

__all__ = ["SectionedCommand"]

_FIRST, _LAST = "Options", "Other"
# Titles and the options below them, by the names of their parameters.
_SECTIONS = {
    "Videos": "named_videos videos_from null",
    "Model": "model yes precision device",
    "When moments are reported": "keep_score open_after close_after every_s changes duration_s "
    "until",
    "Long videos and presence": "anyway window overlap window_s",
    "Frames": "sampling tolerance_s source_fps start_s end_s decoder video_track compact "
    "skip_similar max_memory",
    "Source": "follow realtime reconnect reconnect_forever timeout_s transport clock no_drop "
    "input_format input_options",
    "Results": "formats json_ format_ outputs output output_dir skip_existing rank rows csv_raw "
    "frame_rate drop_frame webhook webhook_headers",
    "Clips, images and pages": "clips copy padding_s reel thumbnails contact_sheet plot report",
    _LAST: "cache jobs quiet verbose",
}
_SECTION_OF = {name: title for title, names in _SECTIONS.items() for name in names.split()}


class SectionedCommand(click.Command):
    """A command whose options are listed by what they are about, its own ones first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section below its title."""
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in (_FIRST, *_SECTIONS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Arguments are in the line of usage, and described by the text below it.
            if record is not None and isinstance(parameter, click.Option):
                is_help = "--help" in parameter.opts  # its name is click's own affair
                title = _LAST if is_help else _SECTION_OF.get(parameter.name or "", _FIRST)
                rows[title].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
