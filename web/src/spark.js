// An avatar among Spark's splats: posed here, then composed and sorted with all others by Spark.

import { SplatGenerator, SplatTransformer, dyno } from "@sparkjsdev/spark";
import { ExternalTexture, Matrix4, Vector3 } from "three";

import { Splats } from "./core/splats.js";
import { Face, withFace } from "./face.js";
import { isolated } from "./state.js";

const TURNED = 0.01;  // radians: colours are computed anew when the view has turned so far

/** Spark's record of the Gaussian `index` of the two textures that Splats.pose leaves, SPATIAL. */
const READ = (index, place, shape, out) => [`{
  ivec2 at = ivec2(${index} % 2048, ${index} / 2048);
  uvec4 a = texelFetch(${place}, at, 0), b = texelFetch(${shape}, at, 0);
  vec2 zo = unpackHalf2x16(b.x), qxy = unpackHalf2x16(b.y), qr = unpackHalf2x16(b.z);
  vec3 q = vec3(qxy, qr.x);
  ${out}.flags = zo.y > 0.0 ? GSPLAT_FLAG_ACTIVE : 0u;
  ${out}.index = ${index};
  ${out}.center = uintBitsToFloat(a.xyz);
  ${out}.scales = exp(vec3(unpackHalf2x16(a.w), zo.x));
  ${out}.quaternion = vec4(q, sqrt(max(0.0, 1.0 - dot(q, q))));
  ${out}.rgba = vec4(qr.y, unpackHalf2x16(b.w), zo.y);
}`];

function generatorOf(place, shape, transformer) {
  const textures = { place: new dyno.DynoUsampler2D({ key: "avatarPlace", value: place }),
                     shape: new dyno.DynoUsampler2D({ key: "avatarShape", value: shape }) };
  return dyno.dynoBlock({ index: "int" }, { gsplat: dyno.Gsplat }, ({ index }) => {
    const read = new dyno.Dyno({
      inTypes: { index: "int", place: "usampler2D", shape: "usampler2D" },
      outTypes: { gsplat: dyno.Gsplat },
      globals: () => [dyno.defineGsplat],
      statements: ({ inputs, outputs }) => READ(inputs.index, inputs.place, inputs.shape, outputs.gsplat),
    });
    return { gsplat: transformer.applyGsplat(read.apply({ index, ...textures }).gsplat) };
  });
}

/** See spark.d.ts. Add it to a scene that has a SparkRenderer. */
export class SparkAvatar extends SplatGenerator {
  constructor(data) {
    super({ numSplats: data.meta.gaussians, update: (context) => this.frame(context) });
    this.name = data.meta.name;
    this.face = new Face(data);
    this.textures = [new ExternalTexture(null), new ExternalTexture(null)];
    this.transformer = new SplatTransformer();
    this.generator = generatorOf(...this.textures, this.transformer);
    this.splats = null;
    this.eye = null;
  }

  get data() {
    return this.face.data;
  }

  /** Called by Spark before it collects splats. */
  frame({ renderer, viewToWorld }) {
    const moved = this.transformer.update(this), gl = renderer.getContext();
    const eye = this.eyeFrom(viewToWorld), { posed, fresh } = this.face.posed();
    if (fresh || !this.splats || this.hasTurned(eye)) {
      isolated(gl, () => {
        this.splats = this.splats || new Splats(gl, this.data);
        this.splats.pose(posed, { eye: eye.toArray() }, true);
      });
      [this.splats.place, this.splats.shape].forEach((texture, i) => { this.textures[i].sourceTexture = texture; });
      this.eye = eye;
    } else if (!moved) {
      return;
    }
    this.updateVersion();
  }

  /** Where the camera is, in the avatar's space. */
  eyeFrom(viewToWorld) {
    return new Vector3().setFromMatrixPosition(viewToWorld).applyMatrix4(new Matrix4().copy(this.matrixWorld).invert());
  }

  hasTurned(eye) {
    const middle = new Vector3(...this.data.meta.target);
    return this.eye.clone().sub(middle).angleTo(eye.clone().sub(middle)) > TURNED;
  }

  /** Give back what the GPU holds for this object, and with the last one of its data, the data there. */
  dispose() {
    if (this.splats) isolated(this.splats.gl, () => this.splats.dispose());
    this.splats = null;
    this.generator = undefined;
  }
}

withFace(SparkAvatar);
