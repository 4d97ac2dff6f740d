"""Region sets of a head: derived from its own geometry and skinning weights, or taken from files.

Vertex sets (int64 indices, sorted):
  back_of_head  the rigid anchor: skull behind the ears, moved by no expression
  lower_neck    a band along the open lower boundary, excluded from the consistency mask
  face          front of the face, forehead to chin, ear to ear (for metrics)
  left_eye, right_eye, eyes   eyeball and lids (metrics take the convex hull of one eye's projected vertices)
  mouth         lips (likewise)
Triangle sets (names end in `_faces`):
  surface_faces  where surface Gaussians are sampled
  upper_teeth_faces, lower_teeth_faces   teeth meshes; absent from a head that has none

All rules use lengths of the head itself (eye distance, mouth width, depth of the skull), so they hold for any identity
or unit, and assume y up, z forward and the joints root, neck, jaw, left eye, right eye.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

NECK, JAW, LEFT_EYE, RIGHT_EYE = 1, 2, 3, 4

_log = logging.getLogger(__name__)

VERTEX_REGIONS = ("back_of_head", "lower_neck", "face", "left_eye", "right_eye", "eyes", "mouth")
FACE_REGIONS = ("surface_faces", "upper_teeth_faces", "lower_teeth_faces")


@dataclass(frozen=True)
class Geometry:
    """What the rules look at: vertices [V,3], faces [F,3], expression_dirs [V,3,E], weights [V,J], joints [J,3]."""

    vertices: Floats
    faces: Indices
    expression_dirs: Floats
    weights: Floats
    joints: Floats

    @cached_property
    def component(self) -> Indices:
        """Connected component of each vertex [V]; 0 is the largest one, the skin."""
        labels = _vertex_labels(len(self.vertices), np.concatenate([self.faces[:, :2], self.faces[:, 1:]]))
        order = np.argsort(-np.bincount(labels), kind="stable")
        return np.argsort(order)[labels]

    @cached_property
    def skin(self) -> Mask:
        return self.component == 0

    @cached_property
    def eye_distance(self) -> float:
        return float(np.linalg.norm(self.joints[LEFT_EYE] - self.joints[RIGHT_EYE]))


def derive_regions(geometry: Geometry) -> dict[str, Indices]:
    """All regions of a head whose file brings none (FLAME); every triangle counts as surface, there are no teeth."""
    seam = lip_seam(geometry)
    left, right = (eye_region(geometry, joint) for joint in (LEFT_EYE, RIGHT_EYE))
    return {
        "back_of_head": back_of_head(geometry),
        "lower_neck": lower_neck(geometry),
        "face": face_region(geometry),
        "left_eye": left,
        "right_eye": right,
        "eyes": np.union1d(left, right),
        "mouth": mouth_region(geometry, seam),
        "surface_faces": np.arange(len(geometry.faces)),
    }


def back_of_head(geometry: Geometry) -> Indices:
    """The rigid anchor.

    Skin above the jaw joint (which sits before the ear canal) and below the upper quarter of the skull above the eyes,
    further behind the jaw joint than 40 % of the way to the rearmost point (the ears end at about 30 %), and carried
    by the neck joint within 10 % of the strongest there. Of these the half that the expressions move least.
    """
    v, joints = geometry.vertices, geometry.joints
    above_jaw = geometry.skin & (v[:, 1] > joints[JAW, 1])
    rear, top = v[above_jaw, 2].min(initial=0), v[above_jaw, 1].max(initial=0)
    eye_height = joints[[LEFT_EYE, RIGHT_EYE], 1].mean()
    candidate = above_jaw & (v[:, 2] < joints[JAW, 2] + 0.4 * (rear - joints[JAW, 2]))
    candidate &= v[:, 1] < eye_height + 0.75 * (top - eye_height)
    candidate &= geometry.weights[:, NECK] >= 0.9 * geometry.weights[candidate, NECK].max(initial=0)
    ids = np.flatnonzero(candidate)
    if len(ids) < 3:
        raise ValueError(
            f"back_of_head: {len(ids)} vertices found behind the ears; is the head in FLAME's frame (y up, z forward)?"
        )
    motion = np.sqrt((geometry.expression_dirs[ids] ** 2).sum((1, 2)))
    return ids[motion <= np.median(motion)]


def lower_neck(geometry: Geometry) -> Indices:
    """Skin within 35 % of the eye distance (22 mm) of the lowest open boundary; empty for a closed mesh."""
    rim = lowest_boundary(geometry)
    if len(rim) == 0:
        return rim
    distance = cKDTree(geometry.vertices[rim]).query(geometry.vertices)[0]
    return np.flatnonzero(geometry.skin & (distance < 0.35 * geometry.eye_distance))


def lowest_boundary(geometry: Geometry) -> Indices:
    """Vertices of the skin's open boundary (edges of one triangle only) whose loop lies lowest."""
    faces = geometry.faces
    sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, uses = np.unique(sides, axis=0, return_counts=True)
    edges = edges[(uses == 1) & geometry.skin[edges[:, 0]]]
    if len(edges) == 0:
        return np.zeros(0, np.int64)
    labels = _vertex_labels(len(geometry.vertices), edges)
    rim = np.unique(edges)
    loops = np.unique(labels[rim])
    heights = [geometry.vertices[rim[labels[rim] == loop], 1].mean() for loop in loops]
    return rim[labels[rim] == loops[int(np.argmin(heights))]]


def face_region(geometry: Geometry) -> Indices:
    """Skin from the chin to 45 % of the chin-to-eye height above the eyes, in front of 20 % of the way from the jaw
    joint to the nose tip. The chin is the lowest vertex that mainly follows the jaw (more than half)."""
    v, joints = geometry.vertices, geometry.joints
    nose = v[geometry.skin, 2].max()
    jaw_led = geometry.skin & (geometry.weights[:, JAW] > 0.5)
    if not jaw_led.any():
        raise ValueError("face: no skin vertex follows the jaw joint (weight > 0.5); is the joint order FLAME's?")
    chin = v[jaw_led, 1].min()
    eye_height = joints[[LEFT_EYE, RIGHT_EYE], 1].mean()
    inside = geometry.skin & (v[:, 1] >= chin) & (v[:, 1] < eye_height + 0.45 * (eye_height - chin))
    return np.flatnonzero(inside & (v[:, 2] > joints[JAW, 2] + 0.2 * (nose - joints[JAW, 2])))


def eye_region(geometry: Geometry, joint: int) -> Indices:
    """Vertices that follow the eye's joint, and skin within 35 % of the eye distance of it, in front of it (lids)."""
    offset = geometry.vertices - geometry.joints[joint]
    near = np.linalg.norm(offset, axis=1) < 0.35 * geometry.eye_distance
    return np.flatnonzero((geometry.weights[:, joint] > 0.5) | (geometry.skin & near & (offset[:, 2] > 0)))


def lip_seam(geometry: Geometry) -> Floats:
    """Points [M,3] along the line where the lips meet, from corner to corner.

    The lips touch and yet belong to different bones: a point is the middle between a skin vertex that mainly follows
    the jaw and the nearest one that does not, where they are closer than 10 % of the eye distance, their jaw weights
    differ by more than half, and no deeper than half an eye distance behind the frontmost such point (the walls of a
    modelled mouth cavity lie behind it). Where the template's mouth stands open nothing touches: then, with a warning,
    a straight line at an adult's proportions to the eyes.
    """
    jaw_weight = geometry.weights[:, JAW]
    lower = np.flatnonzero(geometry.skin & (jaw_weight > 0.5))
    upper = np.flatnonzero(geometry.skin & (jaw_weight <= 0.5))
    if len(lower) == 0 or len(upper) == 0:
        raise ValueError("mouth: no skin vertex follows the jaw joint (weight > 0.5); is the joint order FLAME's?")
    distance, nearest = cKDTree(geometry.vertices[upper]).query(geometry.vertices[lower])
    partner = upper[nearest]
    touching = (distance < 0.1 * geometry.eye_distance) & (jaw_weight[lower] - jaw_weight[partner] > 0.5)
    points = 0.5 * (geometry.vertices[lower[touching]] + geometry.vertices[partner[touching]])
    if len(points) < 3:
        _log.warning("the lips of the head do not touch; the mouth is placed by the eyes")
        return _seam_by_eyes(geometry)
    return points[points[:, 2] > points[:, 2].max() - 0.5 * geometry.eye_distance]


def _seam_by_eyes(geometry: Geometry) -> Floats:
    """A lip line at adult proportions: 1.1 eye distances below the eyes, 0.68 wide, on the skin's front."""
    unit = geometry.eye_distance
    middle = geometry.joints[[LEFT_EYE, RIGHT_EYE]].mean(0) - [0, 1.1 * unit, 0]
    near = geometry.skin & (np.abs(geometry.vertices - middle)[:, :2] < 0.3 * unit).all(1)
    if not near.any():
        raise ValueError("mouth: there is no skin below the eyes; is the head in FLAME's frame (y up, z forward)?")
    front = geometry.vertices[near, 2].max() - 0.08 * unit  # lips are about 0.08 thick from the outside to the seam
    along = np.linspace(-0.34, 0.34, 15) * unit
    return np.stack([middle[0] + along, np.full(15, middle[1]), front - along**2 / (0.68 * unit)], axis=1)


def mouth_region(geometry: Geometry, seam: Floats) -> Indices:
    """Skin within a quarter of the seam's width (12 mm) of the lip seam."""
    distance = cKDTree(seam).query(geometry.vertices)[0]
    return np.flatnonzero(geometry.skin & (distance < 0.25 * np.ptp(seam[:, 0])))


def labelled_regions(geometry: Geometry, data: Mapping[str, Any]) -> dict[str, Indices]:
    """Regions that a file in the open head's layout states itself, to replace derived ones; empty for other files.

    `region_*` vertex lists: back_of_head, lower_neck, face, and lips as the mouth, as they are. With part labels the
    surface consists of the outer skin and the front halves of the eyeballs, and the teeth have triangles of their own.
    """
    named = {"back_of_head": "back_of_head", "lower_neck": "lower_neck", "face": "face", "mouth": "lips"}
    found = {our: np.asarray(data[f"region_{its}"], np.int64) for our, its in named.items() if f"region_{its}" in data}
    if not {"part_names", "face_part", "vertex_visible"} <= set(data):
        return found
    parts = [str(name) for name in data["part_names"]]
    part = np.asarray(data["face_part"])
    surface = outer_skin(geometry, np.asarray(data["vertex_visible"], bool), part == parts.index("skin"))
    for name, joint in (("left_eyeball", LEFT_EYE), ("right_eyeball", RIGHT_EYE)):
        ahead = geometry.vertices[geometry.faces].mean(1)[:, 2] > geometry.joints[joint, 2]
        surface |= (part == parts.index(name)) & ahead
    found["surface_faces"] = np.flatnonzero(surface)
    for name in ("upper_teeth", "lower_teeth"):
        found[f"{name}_faces"] = np.flatnonzero(part == parts.index(name))
    return found


def outer_skin(geometry: Geometry, visible: Mask, skin_faces: Mask) -> Mask:
    """Triangles [F] of the skin without the linings of mouth, nostrils and eye sockets.

    visible [V]: seen in some frontal view; its largest connected piece counts (specks are seen through cracks). The
    unseen rest falls into connected pieces. One that no expression moves by more than 1 mm is outside (back of the
    head, behind the ears); the others hang on lips and lids and are linings.
    """
    outside = skin_faces & visible[geometry.faces].any(1)
    seen = np.flatnonzero(outside)
    pieces = _pieces(geometry, seen)
    outside[seen] = pieces == np.bincount(pieces).argmax()
    hidden = np.flatnonzero(skin_faces & ~outside)
    pieces = _pieces(geometry, hidden)
    moves = np.linalg.norm(geometry.expression_dirs, axis=1).max(1) > 1e-3
    lining = np.isin(pieces, pieces[moves[geometry.faces[hidden]].any(1)])
    outside[hidden[~lining]] = True
    return outside


def _pieces(geometry: Geometry, triangles: Indices) -> Indices:
    """Label of the connected piece of each of some triangles (connected through shared vertices)."""
    corners = geometry.faces[triangles]
    return _vertex_labels(len(geometry.vertices), np.concatenate([corners[:, :2], corners[:, 1:]]))[corners[:, 0]]


def _vertex_labels(count: int, edges: Indices) -> Indices:
    """Connected component of each of `count` vertices under edges [E,2]."""
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]
