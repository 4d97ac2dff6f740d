"""Draw docs/figures/method.svg from the shipped head: python -m scripts.draw_method_figure

Every blob is a sampled point of the head's surface with a flat Gaussian on it; positions, expression displacements and
the jaw's motion are the head model's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flame import Head, load_head, pose_head
from utils.atomic import write_text

TARGET = Path(__file__).resolve().parents[1] / "docs" / "figures" / "method.svg"

PANEL_WIDTH, PANEL_TOP, HEAD_SCALE = 250, 78, 790  # pixels; pixels per metre
WIDTH, HEIGHT = 4 * PANEL_WIDTH + 20, 500
BLOBS, DENSE_BLOBS = 1900, 4800
SPARSE, COVERING = 0.45, 1.0  # radius of a blob in units of the spacing of its neighbours
YAW = math.radians(-28)
JAW = math.radians(15)
LIGHT = (-0.35, 0.45, 0.82)
EXPRESSION = {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "browInnerUp": 1.0, "browOuterUpLeft": 0.9,
              "browOuterUpRight": 0.9}
SKIN = torch.tensor([226.0, 178.0, 152.0])
TEETH = torch.tensor([250.0, 246.0, 236.0])
COLD, HOT = torch.tensor([214.0, 219.0, 226.0]), torch.tensor([214.0, 69.0, 36.0])

TITLES = ("1  Neutral Gaussians", "2  + expression differences", "3  pose", "4  splat and compare")
FORMULAS = (
    ("59 numbers each, bound to a", "triangle: position, rotation,", "scale, opacity, colour (SH)"),
    ("x + β·(map of the triangle)", "+ Σ β m d, also for rotation,", "scale, opacity and colour"),
    ("y = T(x + correctives) + lids", "T = Σ w A; rotation polar(T);", "teeth: bones of their own"),
    ("Σ T α c over the background;", "L1, SSIM, alpha (LPIPS)", "exact gradients flow back"),
)
INPUTS = ("identity", "expression codes β", "joints A, lids", "camera K, R, t; photograph, mask")


@dataclass(frozen=True)
class Samples:
    """Points bound to the surface: triangle [n], barycentric coordinates [n,3] and radius [n] in pixels."""

    triangles: Tensor
    barycentric: Tensor
    radii: Tensor


def sample(vertices: Tensor, faces: Tensor, picked: Tensor, count: int, cover: float) -> Samples:
    """`count` points over the triangles `picked`: denser and smaller where the mesh is fine, that is in the face."""
    generator = torch.Generator().manual_seed(0)
    corners = vertices[faces[picked]]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    drawn = torch.multinomial(area.sqrt(), count, replacement=True, generator=generator)
    radii = area[drawn] ** 0.25 * (HEAD_SCALE * cover * (area.sqrt().sum() / count).sqrt())
    uniform = -torch.rand(count, 3, generator=generator).clamp_min(1e-6).log()  # normalised: uniform on the triangle
    return Samples(picked[drawn], uniform / uniform.sum(dim=1, keepdim=True), radii)


def blobs(vertices: Tensor, faces: Tensor, samples: Samples, colors: Tensor) -> list[str]:
    """The samples that face the viewer as flat round Gaussians, far to near; `colors` [F,3].

    The head is turned by YAW and seen along -z without perspective.
    """
    c, s = math.cos(YAW), math.sin(YAW)
    corners = (vertices @ torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T)[faces[samples.triangles]]
    points = (corners * samples.barycentric[..., None]).sum(dim=1)
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normals / normals.norm(dim=1, keepdim=True).clamp_min(1e-12)
    shade = 0.45 + 0.55 * (normals @ torch.tensor(LIGHT)).clamp_min(0)
    parts = []
    for i in points[:, 2].argsort().tolist():
        (nx, ny, nz), radius = normals[i].tolist(), float(samples.radii[i])
        if nz < 0.05:
            continue
        x, y = points[i, 0] * HEAD_SCALE, -points[i, 1] * HEAD_SCALE
        r, g, b = (colors[samples.triangles[i]] * shade[i]).int().tolist()
        angle = math.degrees(math.atan2(-ny, nx))  # the direction in which the disc is foreshortened
        parts.append(f'<ellipse transform="translate({x:.1f} {y:.1f})rotate({angle:.0f})" rx="{radius * nz + 0.6:.1f}" '
                     f'ry="{radius + 0.6:.1f}" fill="#{r:02x}{g:02x}{b:02x}"/>')
    return parts


def head_group(panel: int, parts: list[str], opacity: float) -> str:
    """The blobs of one panel at its place."""
    x, y = 10 + PANEL_WIDTH * panel + PANEL_WIDTH / 2, PANEL_TOP + 112
    return f'<g transform="translate({x} {y})" fill-opacity="{opacity}">' + "\n".join(parts) + "</g>"


def texts() -> list[str]:
    """Titles, formulas, inputs and the arrows between the panels."""
    parts = []
    for panel in range(4):
        x = 10 + PANEL_WIDTH * panel + PANEL_WIDTH / 2
        parts.append(f'<text x="{x}" y="34" class="title">{TITLES[panel]}</text>')
        parts += [f'<text x="{x}" y="{365 + 20 * i}" class="formula">{line}</text>'
                  for i, line in enumerate(FORMULAS[panel])]
        parts.append(f'<rect x="{x - 115}" y="446" width="230" height="28" rx="6" class="input"/>')
        parts.append(f'<text x="{x}" y="465" class="small">{INPUTS[panel]}</text>')
        parts.append(f'<path d="M{x} 445 V422" class="arrow"/>')
        if panel < 3:
            edge = 10 + PANEL_WIDTH * (panel + 1)
            parts.append(f'<path d="M{edge - 16} {PANEL_TOP + 112} h30" class="arrow"/>')
    parts.append(f'<text x="{WIDTH / 2}" y="494" class="small">from the tracker, once per clip and per frame</text>')
    return parts


STYLE = """<style>
text{font-family:Helvetica,Arial,sans-serif;text-anchor:middle;fill:#1f2733}
.title{font-size:17px;font-weight:bold}.formula{font-size:14px}.small{font-size:13px;fill:#4a5563}
.input{fill:#eef2f7;stroke:#9aa7b8}.arrow{stroke:#4a5563;stroke-width:2;fill:none;marker-end:url(#head)}
</style><defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">
<path d="M0 0 L7 3 L0 6 Z" fill="#4a5563"/></marker></defs>"""


def poses(head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices [V,3] of the neutral, the expressive, and the expressive head with its jaw open."""
    code = torch.zeros(3, head.n_expression)
    for name, value in EXPRESSION.items():
        code[1:, head.expression_names.index(name)] = value
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0])
    jaw = identity.repeat(3, 1)
    c, s = math.cos(JAW), math.sin(JAW)
    jaw[2] = torch.tensor([1.0, 0, 0, 0, c, -s])  # rows of the rotation about x
    posed = pose_head(head, torch.zeros(head.n_shape), code, jaw, identity.repeat(3, 2), torch.zeros(3, 2))
    return posed.vertices[0], posed.vertices[1], posed.vertices[2]


def draw() -> str:
    """The whole figure as SVG text."""
    head = load_head("open")
    neutral, expressive, posed = poses(head)
    skin = head.regions["surface_faces"]
    teeth = torch.cat([head.regions["upper_teeth_faces"], head.regions["lower_teeth_faces"]])
    moved = (expressive - neutral).norm(dim=1)[head.faces].mean(dim=1)
    heat = (moved / 0.008).clamp(0, 1)[:, None]  # 8 mm of motion is fully hot
    color = SKIN.repeat(len(head.faces), 1)
    color[teeth] = TEETH

    sparse = sample(neutral, head.faces, skin, BLOBS, SPARSE)
    with_teeth = sample(neutral, head.faces, torch.cat([skin, teeth]), BLOBS, SPARSE)
    dense = sample(neutral, head.faces, torch.cat([skin, teeth]), DENSE_BLOBS, COVERING)
    panels = [(neutral, color, sparse), (expressive, COLD + (HOT - COLD) * heat, sparse), (posed, color, with_teeth)]
    groups = [head_group(i, blobs(vertices, head.faces, samples, tint), 0.7)
              for i, (vertices, tint, samples) in enumerate(panels)]
    groups.append(head_group(3, blobs(posed, head.faces, dense, color), 0.9))
    frame = f'x="{15 + 3 * PANEL_WIDTH}" y="52" width="{PANEL_WIDTH - 10}" height="288"'
    groups[3] = f'<clipPath id="c"><rect {frame}/></clipPath><rect {frame}/><g clip-path="url(#c)">{groups[3]}</g>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    canvas = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    return "\n".join([start, STYLE, canvas, *groups, *texts(), "</svg>", ""])


if __name__ == "__main__":
    write_text(TARGET, draw())
    print(TARGET)
