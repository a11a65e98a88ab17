"""The temporal pyramid: one chain of stride-2 convolutions from the clips for each level."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ConvPyramid", "Transpose"]


class Transpose(nn.Module):
    """Swap the last two dimensions, between (B, T, D) and (B, D, T)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its last two dimensions swapped."""
        return x.transpose(-1, -2)


class ConvPyramid(nn.Module):
    """Stride 1: the clips; stride 2^n: n times Conv1d(2, stride 2), LN, ReLU on the clips.

    The ReLU of stride 1 is the caller's: every level, and more, reads the clips behind it.
    """

    def __init__(self, width: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.blocks = nn.ModuleList(_level(width, stride) for stride in strides)

    def forward(self, video_emb: Tensor) -> list[Tensor]:
        """Return the levels of rectified clips (B, T, D): (B, T // stride, D) each.

        Levels whose stride exceeds T are left out.
        """
        clips = video_emb.shape[1]
        return [
            block(video_emb)
            for stride, block in zip(self.strides, self.blocks, strict=True)
            if clips >= stride
        ]


def _level(width: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    steps: list[nn.Module] = []
    for _ in range(stride.bit_length() - 1):
        steps += [
            Transpose(),
            nn.Conv1d(width, width, 2, stride=2),
            Transpose(),
            nn.LayerNorm(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*steps)
