"""Writes a bundle's tokenizer: CLIP's byte-pair encoding, or the file of another one.

CLIP's vocabulary is the one that open_clip ships. The pattern that splits text into words is
written with explicit ranges of letters and numbers, as the `regex` package of open_clip's tokenizer
knows them: the regular expressions of `tokenizers` follow another version of Unicode.
"""

from __future__ import annotations

import sys
from pathlib import Path

from r2rt.grounding.tokenizer import END_TOKEN, START_TOKEN, Tokenizer
from training.clip_config import ClipConfig
from training.clip_tokenizer import tokenizer_json

__all__ = ["write_tokenizer"]


def write_tokenizer(
    path: Path, config: ClipConfig | None = None, source: str | Path | None = None
) -> None:
    """Write `tokenizer.json`, the same bytes each time for the same versions of the libraries.

    Args:
        path: the file.
        config: the encoder; None for one that has CLIP's tokenizer.
        source: the file of another tokenizer; None looks for it on disk, else fetches it.

    Raises:
        ClipError: the source is no tokenizer of this encoder.
        r2rt.errors.DownloadError: it could not be fetched.
    """
    if config is None or config.text.tokenizer is None:
        _write_clip_tokenizer(path)
        return
    path.write_text(tokenizer_json(config, source), encoding="utf-8")
    # What the runtime refuses is found out here.
    Tokenizer.load(path, config.query_length, cleaning=config.text.cleaning)


def _write_clip_tokenizer(path: Path) -> None:
    """Write CLIP's own.

    The file lowers case, joins white space and adds the start and end token, so that it is of use
    by itself; `r2rt.grounding.tokenizer` does what a JSON file cannot say.
    """
    import tokenizers
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

    clip = SimpleTokenizer()
    vocabulary: dict[str, int] = clip.encoder
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=sorted(clip.bpe_ranks, key=clip.bpe_ranks.__getitem__),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_word_pattern()), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("</w>", " "), decoders.ByteLevel()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START_TOKEN} $A {END_TOKEN}",
        special_tokens=[(token, vocabulary[token]) for token in (START_TOKEN, END_TOKEN)],
    )
    path.write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")


def _word_pattern() -> str:
    """CLIP's words: special tokens, English contractions, letters, one digit, anything else.

    It is meant for lower case text. What is left of ignoring case there is the long s, ſ, and a few
    marks whose capitals are letters, which `_ranges` finds.
    """
    special = "|".join(token.replace("s", "[sſ]") for token in (START_TOKEN, END_TOKEN))
    contractions = "'[sſ]|'t|'re|'ve|'m|'ll|'d"
    letters, number, others = map(_ranges, (r"[\p{L}]", r"[\p{N}]", r"[^\s\p{L}\p{N}]"))
    return f"{special}|{contractions}|{letters}+|{number}|{others}+"


def _ranges(character_class: str) -> str:
    """The same class by its code points, as open_clip's `regex` package has them."""
    import regex

    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    spans = regex.findall(f"{character_class}+", everything, regex.IGNORECASE)
    return "[" + "".join(rf"\x{{{ord(s[0]):x}}}-\x{{{ord(s[-1]):x}}}" for s in spans) + "]"
