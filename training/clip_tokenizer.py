"""Tokenizer files of encoders that have another tokenizer than CLIP's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.clip_config import ClipConfig, ClipError
from training.clip_weights import fetch_tokenizer

if TYPE_CHECKING:
    import tokenizers

__all__ = ["tokenizer_json"]


def tokenizer_json(config: ClipConfig, source: str | Path | None = None) -> str:
    """Return the text of the `tokenizer.json` that goes with an encoder.

    Padding and truncation, which the runtime does itself, are taken out. Where the encoder reads
    padding in place of the end token, that is taken out, too.

    Args:
        config: an encoder whose tokenizer is not CLIP's.
        source: the file; None looks for it on disk, else fetches it.

    Raises:
        ClipError: the file cannot be read as a tokenizer, or has more ids than the text tower.
        r2rt.errors.DownloadError: the file could not be fetched.
    """
    import tokenizers

    assert config.text.tokenizer is not None
    path = fetch_tokenizer(config.text.tokenizer) if source is None else Path(source)
    try:
        found = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise ClipError(
            f"{path} is not a tokenizer.json ({error}); give the file of {config.text.tokenizer}"
        ) from error
    highest = max(found.get_vocab(with_added_tokens=True).values())
    if highest >= config.vocab_size:
        raise ClipError(
            f"{path} has ids up to {highest}, the text tower of {config.name} has "
            f"{config.vocab_size} rows; give the tokenizer.json of {config.text.tokenizer}"
        )
    found.no_padding()
    found.no_truncation()
    if config.text.unended:
        _drop_end(found)
    return found.to_str() + "\n"


def _drop_end(found: tokenizers.Tokenizer) -> None:
    """Keep of the tokens that the tokenizer adds those before the text alone."""
    from tokenizers import processors

    encoded = found.encode("a")
    word = encoded.special_tokens_mask.index(0)
    start = list(zip(encoded.tokens[:word], encoded.ids[:word], strict=True))
    found.post_processor = processors.TemplateProcessing(
        single=" ".join([*(token for token, _ in start), "$A"]), special_tokens=start
    )
