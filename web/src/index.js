// An avatar in a three.js scene.

import { BufferAttribute, BufferGeometry, Matrix4, Mesh, MeshBasicMaterial, Sphere, Vector3 } from "three";
import { SRGBColorSpace } from "three";

import { Splats } from "./core/splats.js";
import { Face, withFace } from "./face.js";
import { isolated } from "./state.js";

export { loadAvatar, parseAvatar } from "./load.js";

const RADIUS = 0.35;  // metres around the head's middle, hair included

/** Geometry that draws nothing and says where the avatar is: three.js sorts and culls by it. */
function placeholder({ target }) {
  const geometry = new BufferGeometry();
  geometry.setAttribute("position", new BufferAttribute(new Float32Array(9).map((_, i) => target[i % 3]), 3));
  geometry.boundingSphere = new Sphere(new Vector3(...target), RADIUS);
  return geometry;
}

/** What our shaders want of a three.js camera that looks at an object: docs/web.md, Splats.pose. */
function viewOf(object, camera, size) {
  const p = camera.projectionMatrix.elements;
  if (p[11] !== -1) throw new Error("An avatar needs a perspective camera.");
  const toCamera = new Matrix4().multiplyMatrices(camera.matrixWorldInverse, object.matrixWorld), m = toCamera.elements;
  const row = (i, sign) => [sign * m[i], sign * m[4 + i], sign * m[8 + i]];
  const eye = new Vector3().setFromMatrixPosition(toCamera.clone().invert());
  const [width, height] = size;
  return { R: [...row(0, 1), ...row(1, -1), ...row(2, -1)], t: [m[12], -m[13], -m[14]], eye: eye.toArray(), size,
           k0: [0.5 * width * p[0], 0, 0.5 * width * (1 - p[8])],
           k1: [0, 0.5 * height * p[5], 0.5 * height * (1 + p[9])], near: camera.near, depth: [-p[10], p[14]] };
}

function sameView(a, b) {
  return Boolean(a) && ["R", "t", "size", "k0", "k1"].every((name) => a[name].every((x, i) => x === b[name][i]))
    && a.near === b.near;
}

/** three.js encodes for the screen, and keeps linear light in render targets that are not meant for a headset. */
function isLinear(renderer) {
  const target = renderer.getRenderTarget();
  if (target === null) return renderer.outputColorSpace !== SRGBColorSpace;
  return !(target.isXRRenderTarget && target.texture.colorSpace === SRGBColorSpace);
}

/**
 * An avatar as an object of a scene: metres, y up, the face looks along +z, the origin is the head model's. Many can
 * share the data that loadAvatar gives. See index.d.ts.
 */
export class AvatarObject extends Mesh {
  constructor(data) {
    super(placeholder(data.meta), new MeshBasicMaterial({ transparent: true, depthWrite: false, colorWrite: false }));
    this.isAvatarObject = true;
    this.name = data.meta.name;
    this.face = new Face(data);
    this.exact = false;
    this.splats = null;
    this.view = null;
    this.drawn = 0;
    this.onBeforeRender = (renderer, scene, camera) => this.draw(renderer, camera);
  }

  get data() {
    return this.face.data;
  }

  /** Called by three.js. */
  draw(renderer, camera) {
    const gl = renderer.getContext(), linear = isLinear(renderer);
    isolated(gl, ({ framebuffer, viewport }) => {
      const splats = this.splatsOf(gl), { posed, fresh } = this.face.posed();
      const view = viewOf(this, camera, [viewport[2], viewport[3]]);
      if (fresh || !sameView(this.view, view)) {
        splats.pose(posed, view);
        this.view = view;
        this.stale = true;
      }
      this.sort(splats);
      gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
      gl.viewport(...viewport);
      gl.enable(gl.DEPTH_TEST);
      gl.depthFunc(gl.LEQUAL);
      gl.depthMask(false);
      this.drawn = splats.draw(view.depth, linear);
    });
  }

  /** The order of the last picture will do for this one, unless `exact`; there it is waited for. */
  sort(splats) {
    if (splats.waiting && splats.ready()) splats.collect();
    if (this.stale && (this.exact || !splats.sorter)) {
      splats.read();
      this.stale = false;
    } else if (this.stale && !splats.waiting) {
      splats.request();
      this.stale = false;
    }
  }

  splatsOf(gl) {
    if (this.splats && this.splats.gl !== gl) this.release();
    this.splats = this.splats || new Splats(gl, this.data);
    return this.splats;
  }

  release() {
    if (this.splats) isolated(this.splats.gl, () => this.splats.dispose());
    this.splats = this.view = null;
    this.face.changed = true;
  }

  /** Give back what the GPU holds for this object, and with the last one of its data, the data there. */
  dispose() {
    this.release();
    this.geometry.dispose();
    this.material.dispose();
  }

  clone() {
    return new this.constructor(this.data).copy(this);
  }

  copy(other, recursive) {
    const { face, geometry, material } = this;
    super.copy(other, recursive);
    Object.assign(this, { face, geometry, material, exact: other.exact });
    face.codes = structuredClone(other.face.codes);
    face.changed = true;
    return this;
  }
}

withFace(AvatarObject);
