import type { SplatGenerator } from "@sparkjsdev/spark";

import type { AvatarData, AvatarFace } from "./index.js";

/**
 * An avatar for Spark (@sparkjsdev/spark 2): add it to a scene that has a SparkRenderer. Its splats are posed on the
 * GPU and then composed and sorted with Spark's others.
 */
export class SparkAvatar extends SplatGenerator {
  constructor(data: AvatarData);
  /** Give back what the GPU holds for this object, and with the last one of its data, the data there. */
  dispose(): void;
}

/** What an avatar does. */
export interface SparkAvatar extends AvatarFace {}
