import type { Mesh } from "three";

/** Facts about an avatar. */
export interface AvatarMeta {
  readonly name: string;
  readonly gaussians: number;
  /** Names of all expressions; the first `driven` of them move Gaussians. */
  readonly expressionNames: readonly string[];
  readonly driven: number;
  /** Frames of the clip that the avatar was trained on. */
  readonly frames: number;
  /** The head's middle at rest, metres. */
  readonly target: readonly [number, number, number];
}

/** An avatar's data, to be shared by all objects that show it. */
export interface AvatarData {
  readonly meta: AvatarMeta;
  /** Whether all of the file has come. */
  readonly complete: boolean;
  /** Counts the parts that have come. */
  readonly revision: number;
}

export interface LoadOptions {
  /** Called when there is enough for a first picture, with the object that the promise resolves to later. */
  onCoarse?: (data: AvatarData) => void;
  signal?: AbortSignal;
}

/** Fetch a file that `export.py --format gbav` has written. Rejects with an Error that says what is wrong with it. */
export function loadAvatar(url: string | URL, options?: LoadOptions): Promise<AvatarData>;

/** An avatar from the bytes of such a file. */
export function parseAvatar(bytes: ArrayBuffer | Uint8Array): Promise<AvatarData>;

/** A rotation vector: axis times angle, radians. */
export type Turn = [x: number, y: number, z: number];

/** What an avatar does. */
export interface AvatarFace {
  /** The data it was made of. */
  readonly data: AvatarData;
  /** Expressions by name, to be read and written. A name that the avatar does not have throws. */
  readonly expressions: Record<string, number>;
  /** Joints. x down or open, y to the avatar's left, z to its right shoulder. Reading gives a copy. */
  neck: Turn;
  jaw: Turn;
  leftEye: Turn;
  rightEye: Turn;
  /** How far the lids are shut, left and right, 0 to 1. */
  eyelids: [left: number, right: number];
  /** How hair, neck and clothes follow the head: its turn about three axes and its place, cm, 0 on average. */
  sway: [turnX: number, turnY: number, turnZ: number, x: number, y: number, z: number];
  /** Frames of the clip. */
  readonly frames: number;
  /** Set several expressions; those not named stay. Throws an Error for a name that there is none of. */
  set(expressions: Record<string, number>): this;
  /** Set all to rest. */
  neutral(): this;
  /** Set all as in a frame of the clip. Throws an Error for a frame that there is none of. */
  showFrame(frame: number): this;
}

/**
 * An avatar in a scene: an Object3D in metres, y up, the face looks along +z, the origin is the head model's. It is
 * drawn with the transparent objects, hidden by what is nearer in the depth buffer, and writes no depth. Needs
 * WebGLRenderer and a perspective camera.
 */
export class AvatarObject extends Mesh {
  constructor(data: AvatarData);
  readonly isAvatarObject: true;
  /**
   * Whether a picture waits for its own order of splats. By default it takes the order of a picture or two before,
   * which nobody sees in a loop that goes on; set it where a scene is rendered only when something has changed.
   */
  exact: boolean;
  /** Splats in the last picture. */
  readonly drawn: number;
  /** Give back what the GPU holds for this object, and with the last one of its data, the data there. */
  dispose(): void;
}

/** What an avatar does, declared once above. */
export interface AvatarObject extends AvatarFace {}
