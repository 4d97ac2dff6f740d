"""Mattes that somebody else made, beside the footage that they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tracking.footage import ByteImage, Footage, FootageError, OfFootage, Picture, Wanted


class WithAlpha(OfFootage):
    """Footage whose alpha comes from other footage, picture by picture; see `tracking.footage.Footage`.

    The alpha channel of `mattes` counts, or their first channel where they have none.
    """

    def __init__(self, footage: Footage, mattes: Footage) -> None:
        super().__init__(footage)
        self._mattes = mattes

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        """Raises FootageError naming the picture that has no matte, or one of another size."""
        mattes = self._mattes.pictures(_Upto())
        matte = next(mattes, None)
        for picture in self._footage.pictures(wanted):
            while matte is not None and matte.index < picture.index:
                matte = next(mattes, None)
            if matte is None:
                raise FootageError(f"{self._mattes.path}: no matte of picture {picture.index} of {self.path.name}; one "
                                   "is expected for every picture, in the same order")
            yield replace(picture, alpha=self._checked(picture, matte))

    def _checked(self, picture: Picture, matte: Picture) -> ByteImage:
        alpha = matte.rgb[..., 0] if matte.alpha is None else matte.alpha
        if alpha.shape != picture.rgb.shape[:2]:
            (height, width), (rows, columns) = picture.rgb.shape[:2], alpha.shape
            raise FootageError(f"{self._mattes.path}: picture {matte.index}: {width} x {height} pixels expected as in "
                               f"{self.path.name}, got {columns} x {rows}")
        return alpha


class _Upto:
    """Wants every picture."""

    def accepts(self, index: int, time: float) -> bool:
        return True

    def is_past(self, time: float) -> bool:
        return False
