"""Pictures for people: error colours with a fixed scale, which frames to show, sizes that play."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation import pictures


def test_error_colours_rise_in_lightness_and_have_a_fixed_scale() -> None:
    errors = np.linspace(0, pictures.ERROR_LIMIT, 64, dtype=np.float32)[None, :, None].repeat(3, axis=2)
    colors = pictures.error_map(errors, np.zeros_like(errors))
    lightness = cv2.cvtColor(colors, cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= -1).all()  # 8-bit Lab rounds to one step
    assert lightness[0] < 10 and lightness[-1] > 230
    brighter = pictures.error_map(errors + 1, np.zeros_like(errors))
    assert (brighter == colors[0, -1]).all()  # beyond the scale: its end


def test_only_pictures_too_wide_for_decoders_shrink_in_the_video() -> None:
    normal, wide = np.zeros((532, 2104, 3), np.uint8), np.zeros((1044, 4152, 3), np.uint8)
    assert pictures.for_video(normal) is normal
    assert pictures.for_video(wide).shape == (644, 2560, 3)


def test_frames_spread_evenly_from_first_to_last() -> None:
    assert pictures.spread_frames([10, 11, 12, 20, 21], 3) == [10, 12, 21]
    assert pictures.spread_frames([7, 8], 6) == [7, 8]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 30])
def test_selected_frames_are_distinct_and_ordered_by_score(count: int) -> None:
    values = {index: float((index * 7) % 31) for index in range(count)}
    chosen = pictures.select_frames(values, 3)
    flat = [index for group in chosen.values() for index in group]
    assert len(flat) == len(set(flat)) == min(count, 9)
    assert chosen["worst"][0] == min(values, key=lambda index: values[index])
    if count >= 4:
        assert chosen["best"][0] == max(values, key=lambda index: values[index])
    if count == 30:
        middle = np.median(list(values.values()))
        assert all(abs(values[index] - middle) <= 3 for index in chosen["median"])
