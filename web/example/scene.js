// Two instances of one avatar, and a cube that goes around between them. ?avatar=FILE, ?time=SECONDS holds the scene.

import * as THREE from "three";
import { AvatarObject, loadAvatar } from "gaussian-blendshapes";

const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
document.body.append(renderer.domElement);

const scene = new THREE.Scene();
scene.background = new THREE.Color("#202428");
scene.add(new THREE.HemisphereLight("#ffffff", "#445566", 2.5));
const camera = new THREE.PerspectiveCamera(30, 1, 0.05, 20);
camera.position.set(0, 0.05, 1.5);
camera.lookAt(0, -0.02, 0);

const blue = new THREE.MeshStandardMaterial({ color: "#6db3f2" });
const cube = new THREE.Mesh(new THREE.BoxGeometry(0.12, 0.12, 0.12), blue);
scene.add(cube);

function fit() {
  renderer.setSize(innerWidth, innerHeight);
  camera.aspect = innerWidth / innerHeight;
  camera.updateProjectionMatrix();
}
addEventListener("resize", fit);
fit();

const avatars = [], asked = new URLSearchParams(location.search);

function add(data) {
  for (const side of [-1, 1]) {
    const avatar = new AvatarObject(data);
    avatar.position.set(0.2 * side, 0, -0.1 * side);
    avatar.rotation.y = -0.3 * side;
    avatars.push(avatar);
    scene.add(avatar);
  }
  renderer.setAnimationLoop(draw);
}

function draw(milliseconds) {
  const time = asked.has("time") ? Number(asked.get("time")) : milliseconds / 1000;
  cube.position.set(0.32 * Math.sin(time), -0.06, 0.3 * Math.cos(time));
  cube.rotation.set(time, time, 0);
  avatars[0].set({ jawOpen: Math.max(0, Math.sin(3 * time)) * 0.7 });
  avatars[1].showFrame(Math.floor(25 * time) % avatars[1].frames);
  renderer.render(scene, camera);
}

const words = document.getElementById("words");
try {
  const url = asked.get("avatar");
  if (!url) throw new Error("Name an avatar file in the address: ?avatar=avatar.gbav");
  const data = await loadAvatar(url, { onCoarse: add });
  words.textContent = `${data.meta.name}: ${data.meta.gaussians.toLocaleString("en")} Gaussians, drawn twice`;
} catch (error) {
  words.textContent = error.message;
}
