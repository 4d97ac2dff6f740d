"""Which points of a head MediaPipe's landmarks are, irises included."""

from __future__ import annotations

import numpy as np

from flame import JOINT_NAMES, Head
from flame.landmarks import FLAME_EMBEDDING, LandmarkEmbedding

IRIS_CENTRES = {"right_eye": 468, "left_eye": 473}  # MediaPipe's numbers; left is the subject's left
IRISES = range(468, 478)
IRIS_SPREAD = 1e-3  # metres; as measured on the open head
LOOSE_SPREAD = 8e-3  # metres; beyond it a landmark slides along the silhouette (the face oval) rather than the skin


def landmark_embedding(head: Head) -> LandmarkEmbedding:
    """The head's landmarks (see `flame.landmarks`), with the iris centres added where the file has none.

    FLAME's published file holds 105 points without irises; they are where the eye's optical axis (+z through the eye
    joint) leaves the eyeball.

    Raises ValueError saying where to get the file when the head came without an embedding.
    """
    if head.landmarks is None:
        raise ValueError(
            f"head '{head.name}' comes without MediaPipe landmarks, which tracking needs: download 'MediaPipe landmark "
            f"embedding' from https://flame.is.tue.mpg.de and put {FLAME_EMBEDDING} beside the head's .pkl, or track "
            "with the open head"
        )
    found = head.landmarks
    for eye, index in IRIS_CENTRES.items():
        if index not in found.index:
            found = _with_iris(head, found, JOINT_NAMES.index(eye), index)
    return found


def _with_iris(head: Head, found: LandmarkEmbedding, joint: int, index: int) -> LandmarkEmbedding:
    triangle, barycentric = _pupil(head, joint)
    at = int(np.searchsorted(found.index, index))
    return LandmarkEmbedding(
        np.insert(found.index, at, index), np.insert(found.triangle, at, triangle),
        np.insert(found.barycentric, at, barycentric, axis=0), np.insert(found.spread, at, IRIS_SPREAD),
    )


def _pupil(head: Head, joint: int) -> tuple[int, np.ndarray]:
    """The eyeball's vertex that lies furthest along the optical axis: its triangle and the corner's coordinates."""
    vertices = head.v_template.double().numpy()
    offset = vertices - head.joint_regressor[joint].double().numpy() @ vertices
    eyeball = head.weights[:, joint].numpy() > 0.9
    if not eyeball.any():
        raise ValueError(f"head '{head.name}': no vertex follows joint {JOINT_NAMES[joint]}, so it has no iris")
    along = offset[:, 2] / np.maximum(np.linalg.norm(offset, axis=1), 1e-9)
    vertex = int(np.argmax(np.where(eyeball, along, -2)))
    triangle, corner = np.argwhere(head.faces.numpy() == vertex)[0]
    return int(triangle), np.eye(3)[corner]
