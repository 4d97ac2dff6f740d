import type { SplatGenerator } from "@sparkjsdev/spark";

import type { AvatarData, AvatarFace, Turn } from "./index.js";

/**
 * An avatar for Spark (@sparkjsdev/spark 2): add it to a scene that has a SparkRenderer. Its splats are posed on the
 * GPU and then composed and sorted with Spark's others.
 */
export class SparkAvatar extends SplatGenerator implements AvatarFace {
  constructor(data: AvatarData);
  readonly data: AvatarData;
  readonly expressions: Record<string, number>;
  neck: Turn;
  jaw: Turn;
  leftEye: Turn;
  rightEye: Turn;
  eyelids: [left: number, right: number];
  readonly frames: number;
  set(expressions: Record<string, number>): this;
  neutral(): this;
  showFrame(frame: number): this;
  /** Give back what the GPU holds for this object, and with the last one of its data, the data there. */
  dispose(): void;
}
