"""Codes as curves that may be added, averaged and filtered: rotations as rotation vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flame import Head
from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d, matrix_to_axis_angle
from scene.rig import Codes

BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")


@dataclass(frozen=True, eq=False)
class Curves:
    """T frames, float32. expression [T,E], jaw [T,3], gaze [T,6] (left, right eye) and neck [T,3] (None: at rest) as
    rotation vectors in radians, lids [T,2]. Jaw, eyes and neck turn by far less than pi, so sums and means are sound.
    """

    expression: Tensor
    jaw: Tensor
    gaze: Tensor
    lids: Tensor
    neck: Tensor | None = None

    @staticmethod
    def of(codes: Codes) -> Curves:
        """The curves of codes."""
        return Curves(codes.expression, _vectors(codes.jaw), _vectors(codes.eyes), codes.eyelids,
                      None if codes.neck is None else _vectors(codes.neck))

    def codes(self, shape: Tensor) -> Codes:
        """The codes of these curves for the identity `shape` [S]."""
        return Codes(shape, self.expression, _six(self.jaw), _six(self.gaze), self.lids,
                     None if self.neck is None else _six(self.neck))

    def with_expression(self, expression: Tensor, head: Head) -> Curves:
        """Another expression; the jaw turns with it where the head couples the two (`Head.expression_jaw`)."""
        turn = (expression - self.expression) @ head.expression_jaw.to(expression)
        return replace(self, expression=expression, jaw=self.jaw + turn)

    def __len__(self) -> int:
        return len(self.expression)


def is_unsigned(head: Head) -> bool:
    """Whether the head's expressions are sculpted shapes like ARKit's, whose codes are never negative."""
    return "jawOpen" in head.expression_names


def blink_columns(head: Head) -> list[int] | None:
    """Columns of the expressions that close the lids as the eyelid codes do, left and right; None where there are none.

    In such heads only the sum of the two moves the mesh, but the avatar learnt its differences from the expression.
    """
    if not all(name in head.expression_names for name in BLINKS):
        return None
    columns = [head.expression_names.index(name) for name in BLINKS]
    same = torch.allclose(head.expression_dirs[:, :, columns].permute(2, 0, 1), head.eyelids, atol=1e-6)
    return columns if same else None


def _vectors(six: Tensor) -> Tensor:
    """[T,6n] -> [T,3n]."""
    return matrix_to_axis_angle(matrix_from_6d(six.unflatten(-1, (-1, 6)))).flatten(-2)


def _six(vectors: Tensor) -> Tensor:
    """[T,3n] -> [T,6n]."""
    return matrix_to_6d(matrix_from_axis_angle(vectors.unflatten(-1, (-1, 3)))).flatten(-2)
