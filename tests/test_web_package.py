"""The npm package of web/ in a headless Chromium: an avatar in a three.js scene, alone and among Spark's splats."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments.export_settings import ExportSettings
from exporting.web import export_file
from exporting.web.avatar_file import LEAST_PSNR
from player import Player
from tests.player_subject import CPU, EXPRESSIONS, lively_avatar, lively_player

pytest.importorskip("websockets", reason="websockets (viser brings it) drives the browser")

from tests.browser import Tab, find_chromium, open_tab, served

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on this machine")]

PACKAGE = Path(__file__).resolve().parents[1] / "web"
SIDE = 192
LARGEST_BUNDLE = 60_000  # bytes
BACKGROUND = torch.tensor([0x20, 0x24, 0x28]) / 255

PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>body { margin: 0; }</style>
<script type="importmap">{ "imports": {
  "three": "./node_modules/three/build/three.module.js",
  "three/addons/": "./node_modules/three/examples/jsm/",
  "@sparkjsdev/spark": "./node_modules/@sparkjsdev/spark/dist/spark.module.js",
  "gaussian-blendshapes": "./src/index.js", "gaussian-blendshapes/spark": "./src/spark.js" } }</script>
<script type="module">
import * as THREE from "three";
import * as SPARK from "@sparkjsdev/spark";
import * as WEB from "gaussian-blendshapes";
import { SparkAvatar } from "gaussian-blendshapes/spark";
const renderer = new THREE.WebGLRenderer({ preserveDrawingBuffer: true });
renderer.setSize(SIDE, SIDE);
document.body.append(renderer.domElement);
const camera = new THREE.PerspectiveCamera();
Object.assign(window, { THREE, SPARK, WEB, SparkAvatar, renderer, camera, ready: true });
</script>""".replace("SIDE", str(SIDE))

HELPERS = """
const textures = new Set();
for (const [name, change] of [["createTexture", "add"], ["deleteTexture", "delete"]]) {
  const original = WebGL2RenderingContext.prototype[name];
  WebGL2RenderingContext.prototype[name] = function (...given) {
    const result = original.apply(this, given);
    textures[change](given[0] || result);
    return result;
  };
}
window.countTextures = () => textures.size;
window.sceneOf = (...objects) => {
  const scene = new THREE.Scene();
  scene.background = new THREE.Color("#202428");
  scene.add(...objects);
  return scene;
};
window.pixels = () => {
  const gl = renderer.getContext(), [width, height] = [renderer.domElement.width, renderer.domElement.height];
  const out = new Uint8Array(4 * width * height);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, out);
  renderer.resetState();
  return Array.from(out);
};
window.aim = (R, t, K, width, height) => {
  const m = new THREE.Matrix4().set(R[0], R[1], R[2], t[0], -R[3], -R[4], -R[5], -t[1],
                                    -R[6], -R[7], -R[8], -t[2], 0, 0, 0, 1);
  camera.matrixAutoUpdate = false;
  camera.matrix.copy(m.invert());
  camera.updateMatrixWorld(true);
  const near = 0.1, far = 10;
  camera.near = near;
  camera.projectionMatrix.set(2 * K[0] / width, 0, 1 - 2 * K[2] / width, 0, 0, 2 * K[4] / height,
                              2 * K[5] / height - 1, 0, 0, 0, -(far + near) / (far - near),
                              -2 * far * near / (far - near), 0, 0, -1, 0);
  camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
};
window.boxAt = (place, size, color) => {
  const box = new THREE.Mesh(new THREE.BoxGeometry(...size), new THREE.MeshBasicMaterial({ color }));
  box.position.set(...place);
  return box;
};
const made = [];
window.exactAvatar = () => {
  made.push(Object.assign(new WEB.AvatarObject(data), { exact: true }));
  return made[made.length - 1];
};
window.disposeAll = () => made.splice(0).forEach((avatar) => avatar.dispose());
"""


@dataclass(frozen=True)
class Stage:
    """A browser with the package, and the avatar that it shows."""

    tab: Tab
    player: Player

    def aim(self, frame: int) -> None:
        """three.js's camera as the clip's."""
        cameras = self.player.cameras_of(frame, SIDE, SIDE)
        numbers = ", ".join(str(part.flatten().tolist()) for part in (cameras.R, cameras.t, cameras.K))
        self.tab.evaluate(f"aim({numbers}, {SIDE}, {SIDE}), 0")

    def draw(self, script: str) -> np.ndarray:
        """The picture [H,W,3] in [0,1] of a scene; `script` is an expression that gives it."""
        found = self.tab.evaluate(f"(() => {{ renderer.render({script}, camera); return pixels(); }})()")
        return np.array(found, float).reshape(SIDE, SIDE, 4)[::-1, :, :3] / 255

    def turn(self, scene: str) -> None:
        """One turn of a loop that draws `scene`, a little later."""
        self.tab.evaluate(f"new Promise((done) => setTimeout(done, 120)).then(() => renderer.render({scene}, camera))")

    def ours(self, frame: int, background: torch.Tensor = BACKGROUND) -> np.ndarray:
        """Our renderer's picture of a frame."""
        codes, cameras = self.player.codes_of(frame), self.player.cameras_of(frame, SIDE, SIDE)
        return self.player.render(codes, cameras, background).image[0].clamp(0, 1).permute(1, 2, 0).double().numpy()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of web/ with what it depends on."""
    folder = tmp_path_factory.mktemp("package") / "web"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=100)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install in 100 s")
    if done.returncode:
        pytest.skip(f"npm cannot install here: {done.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def stage(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    few = lively_player()
    avatar = lively_avatar(few.head, few.clip.codes, gaussians=4000, seed=5)
    with torch.no_grad():
        avatar.neutral[:, 7:10] -= 1.0
        avatar.neutral[:, 11:59] *= 0.4  # colours that 8 bits can hold
    player = Player(few.head, avatar, few.clip, 3, EXPRESSIONS, CPU, "dense")
    (package / "scene.html").write_text(PAGE)
    export_file(player, ExportSettings(Path("run"), "gbav", package / "avatar.gbav"))
    with served(package) as address, open_tab("about:blank", tmp_path_factory.mktemp("browser"), SIDE, SIDE) as tab:
        tab.call("Page.enable")
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=HELPERS)
        tab.call("Page.navigate", url=f"{address}/scene.html")
        tab.wait_for("window.ready")
        tab.evaluate("WEB.loadAvatar('avatar.gbav').then((found) => { window.data = found; return 0; })")
        yield Stage(tab, player)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(((a - b) ** 2).mean()))


def test_the_bundle_is_small(package: Path) -> None:
    done = subprocess.run(["npm", "run", "build"], cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size = (package / "dist" / "gaussian-blendshapes.js").stat().st_size
    assert 10_000 < size < LARGEST_BUNDLE


def test_the_types_hold_what_a_program_writes(package: Path) -> None:
    done = subprocess.run(["npm", "run", "types"], cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_package_names_every_file_that_it_needs(package: Path) -> None:
    done = subprocess.run(["npm", "pack", "--dry-run", "--json"], cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packed = {line.split('"')[3] for line in done.stdout.splitlines() if '"path"' in line}
    needed = {str(path.relative_to(PACKAGE)) for path in (PACKAGE / "src").rglob("*.*s")}
    assert needed <= packed and "README.md" in packed
    assert not any(name.startswith(("node_modules", "dist")) for name in packed)


@pytest.mark.parametrize("frame", [0, 3])
def test_an_avatar_looks_as_in_our_renderer(stage: Stage, frame: int) -> None:
    stage.aim(frame)
    got = stage.draw(f"sceneOf(exactAvatar().showFrame({frame}))")
    # a canvas of 8 bits rounds at every splat: measured 41 dB
    assert psnr(got, stage.ours(frame)) > 38
    assert psnr(got, stage.ours(4 - frame)) < 30


def test_a_target_of_half_floats_keeps_all(stage: Stage) -> None:
    stage.aim(3)
    found = stage.tab.evaluate(f"""(() => {{
        const target = new THREE.WebGLRenderTarget({SIDE}, {SIDE}, {{ type: THREE.HalfFloatType }});
        target.isXRRenderTarget = true;  // as for a headset: sRGB, as our renderer's pictures are
        target.texture.colorSpace = THREE.SRGBColorSpace;
        renderer.setRenderTarget(target);
        renderer.setClearColor("#202428", 1);
        const scene = sceneOf(exactAvatar().showFrame(3));
        scene.background = null;
        renderer.render(scene, camera);
        const out = new Uint16Array({4 * SIDE * SIDE});
        renderer.readRenderTargetPixels(target, 0, 0, {SIDE}, {SIDE}, out);
        renderer.setRenderTarget(null);
        target.dispose();
        return Array.from(out);
    }})()""")
    got = np.array(found, np.uint16).view(np.float16).astype(float).reshape(SIDE, SIDE, 4)[::-1]
    codes, cameras = stage.player.codes_of(3), stage.player.cameras_of(3, SIDE, SIDE)
    output = stage.player.render(codes, cameras)
    seen = output.alpha[0].numpy() > 0.99  # three.js clears in its own colour space
    wanted = output.image[0].permute(1, 2, 0).double().numpy()
    assert seen.mean() > 0.1
    assert psnr(got[seen][:, :3], wanted[seen]) > LEAST_PSNR - 6  # where the avatar is, not in the whole picture


def test_a_cube_hides_what_is_behind_it_and_no_more(stage: Stage) -> None:
    stage.aim(2)
    alone = stage.draw("sceneOf(exactAvatar().showFrame(2))")
    boxes = {z: stage.draw(f"sceneOf(boxAt([0, -0.02, {z}], [0.05, 0.05, 0.01], '#ff0000'))")[..., 0] > 0.9
             for z in (0.25, -0.3)}
    before = stage.draw("sceneOf(exactAvatar().showFrame(2), boxAt([0, -0.02, 0.25], [0.05, 0.05, 0.01], '#ff0000'))")
    assert 0.01 < boxes[0.25].mean() < 0.3
    np.testing.assert_allclose(before[boxes[0.25]], np.broadcast_to([1, 0, 0], (boxes[0.25].sum(), 3)), atol=1 / 255)
    np.testing.assert_allclose(before[~boxes[0.25]], alone[~boxes[0.25]], atol=1 / 255)
    behind = stage.draw("sceneOf(exactAvatar().showFrame(2), boxAt([0, -0.02, -0.3], [0.05, 0.05, 0.01], '#ff0000'))")
    output = stage.player.render(stage.player.codes_of(2), stage.player.cameras_of(2, SIDE, SIDE))
    backdrop = np.where(boxes[-0.3][..., None], [1, 0, 0], BACKGROUND.double().numpy())
    through = 1 - output.alpha[0].double().numpy()[..., None]
    wanted = output.image[0].permute(1, 2, 0).double().numpy() + through * backdrop
    assert psnr(behind, wanted.clip(0, 1)) > 36  # blended with the cube where the splats are thin


def test_a_cube_inside_hides_only_the_splats_behind_it(stage: Stage) -> None:
    stage.aim(2)
    alone = stage.draw("sceneOf(exactAvatar().showFrame(2))")
    inside = stage.draw("sceneOf(exactAvatar().showFrame(2), boxAt([0, -0.02, 0.0], [0.3, 0.3, 0.001], '#ff0000'))")
    box = stage.draw("sceneOf(boxAt([0, -0.02, 0.0], [0.3, 0.3, 0.001], '#ff0000'))")
    assert psnr(inside, alone) < 30 and psnr(inside, box) < 30


def test_two_avatars_are_drawn_from_back_to_front_and_share_their_data(stage: Stage) -> None:
    stage.aim(2)
    stage.tab.evaluate("disposeAll(), 0")
    stage.draw("sceneOf()")
    first = stage.tab.evaluate("countTextures()")
    one = stage.draw("sceneOf(window.near = exactAvatar().showFrame(2))")
    alone = stage.tab.evaluate("countTextures()")
    both = stage.draw("sceneOf(near, exactAvatar().showFrame(1).translateZ(-0.4).translateX(0.1))")
    second = stage.tab.evaluate("countTextures()")
    assert second - alone == alone - first - 3 > 0  # the three tables of the avatar are there once
    output = stage.player.render(stage.player.codes_of(2), stage.player.cameras_of(2, SIDE, SIDE))
    solid = output.alpha[0].numpy() > 0.999
    assert solid.mean() > 0.05
    np.testing.assert_allclose(both[solid], one[solid], atol=3 / 255)
    assert psnr(both, one) < 30  # the other one is seen around it
    stage.tab.evaluate("disposeAll(), 0")
    assert stage.tab.evaluate("countTextures()") == first


def test_properties_move_the_face(stage: Stage) -> None:
    stage.aim(2)
    rest = stage.draw("sceneOf(window.one = exactAvatar())")
    moved = stage.draw("""sceneOf(one.set({ jawOpen: 0.8 }))""")
    assert psnr(moved, rest) < 40
    jaw = stage.tab.evaluate("one.jaw")
    wanted = 0.8 * stage.player.head.expression_jaw[stage.player.expression_names.index("jawOpen")]
    np.testing.assert_allclose(jaw, wanted, atol=1e-6)
    again = stage.draw("sceneOf(one.neutral())")
    np.testing.assert_array_equal(again, rest)
    stage.draw("(one.neck = [0, 0.4, 0], one.eyelids = [1, 1], one.expressions.jawOpen = 0.2, sceneOf(one))")
    np.testing.assert_allclose(stage.tab.evaluate("[...one.neck, ...one.eyelids, one.expressions.jawOpen]"),
                               [0, 0.4, 0, 1, 1, 0.2], atol=1e-6)


def test_a_loop_draws_without_waiting_and_ends_in_the_same_picture(stage: Stage) -> None:
    stage.aim(3)
    exact = stage.draw("sceneOf(exactAvatar().showFrame(3))")
    stage.draw("window.loop = sceneOf(window.one = Object.assign(exactAvatar(), { exact: false }))")
    stage.tab.evaluate("one.showFrame(3), renderer.render(loop, camera), 0")
    for _ in range(3):  # turns of the loop, in which the order arrives
        stage.turn("loop")
    np.testing.assert_array_equal(stage.draw("loop"), exact)


def test_spark_shows_the_same_avatar(stage: Stage) -> None:
    stage.aim(3)
    stage.tab.evaluate("window.own = new SparkAvatar(data).showFrame(3), 0")
    stage.draw("window.world = sceneOf(new SPARK.SparkRenderer({ renderer }), own)")
    for _ in range(8):  # Spark's order comes from a worker
        stage.turn("world")
    got, wanted = stage.draw("world"), stage.ours(3)
    assert stage.tab.evaluate("own.generatorError === undefined")
    assert psnr(got, wanted) > 28  # Spark draws splats and stores colours its own way
    assert psnr(got, stage.ours(0)) < psnr(got, wanted) - 4
    stage.tab.evaluate("own.dispose(), 0")


def test_a_first_picture_comes_before_the_rest(stage: Stage) -> None:
    stage.aim(3)
    found = stage.tab.evaluate("""WEB.loadAvatar("avatar.gbav", { onCoarse: (coarse) => {
        window.coarse = { complete: coarse.complete, pairs: coarse.pairs.length };
        window.own = Object.assign(new WEB.AvatarObject(coarse), { exact: true }).showFrame(3);
        renderer.render(sceneOf(own), camera);
        window.first = pixels();
    } }).then((all) => [coarse.complete, coarse.pairs, all === own.data, all.complete, all.pairs.length])""")
    assert found[:4] == [False, 0, True, True] and found[4] > 0
    first = np.array(stage.tab.evaluate("first"), float).reshape(SIDE, SIDE, 4)[::-1, :, :3] / 255
    wanted = stage.ours(3)
    assert 12 < psnr(first, wanted) < 30
    assert psnr(stage.draw("sceneOf(own)"), wanted) > 38
    stage.tab.evaluate("own.dispose(), 0")


@pytest.mark.parametrize(("script", "message"), [
    ("WEB.parseAvatar(new Uint8Array(40))", "This is no avatar file: it does not begin with GBAV."),
    ("fetch('avatar.gbav').then((r) => r.arrayBuffer()).then((b) => WEB.parseAvatar(b.slice(0, 9000)))",
     "The avatar file ends too early"),
    ("WEB.loadAvatar('nobody.gbav')", "nobody.gbav: 404"),
    ("(async () => new WEB.AvatarObject(data).set({ smirk: 1 }))()", "dense has no expression smirk; it has "),
    ("(async () => { new WEB.AvatarObject(data).neck = [0, 1]; })()", "neck: wanted 3 numbers, got 2"),
    ("(async () => new WEB.AvatarObject(data).showFrame(99))()", "frame: wanted 0 to 4, got 99"),
])
def test_what_is_wrong_is_told(stage: Stage, script: str, message: str) -> None:
    told = stage.tab.evaluate(f"{script}.then(() => 'nothing', (error) => error.message)")
    assert message in told
