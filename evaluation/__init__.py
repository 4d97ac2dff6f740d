"""Scores, pictures and videos of a trained avatar: what `test.py` produces beside the rendering itself.

Knows neither the model nor the data layouts: it is given a function that renders, an object that serves ground truth
and cameras (`FrameSource`), and optionally the posed head mesh (`PosedMeshes`).
"""

from evaluation.evaluate import EvaluationSettings, evaluate
from evaluation.regions import PosedMeshes
from utils.score_files import merge_without_blendshapes

__all__ = ["EvaluationSettings", "PosedMeshes", "evaluate", "merge_without_blendshapes"]
