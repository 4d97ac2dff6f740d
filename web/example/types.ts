// Not run: holds the declared types to what a program writes.
import * as THREE from "three";
import { AvatarObject, loadAvatar, parseAvatar, type AvatarData } from "gaussian-blendshapes";
import { SparkAvatar } from "gaussian-blendshapes/spark";

const data: AvatarData = await loadAvatar("avatar.gbav", { onCoarse: (first) => console.log(first.meta.name) });
const scene = new THREE.Scene();
for (const avatar of [new AvatarObject(data), new SparkAvatar(await parseAvatar(new Uint8Array(0)))]) {
  avatar.set({ jawOpen: 0.5 }).showFrame(0).neutral();
  avatar.expressions.mouthSmileLeft = 0.4;
  avatar.jaw = [0.2, 0, 0];
  avatar.eyelids = [1, 1];
  scene.add(avatar);
  avatar.dispose();
}
// @ts-expect-error: three numbers are wanted
new AvatarObject(data).neck = [0, 1];
