"use strict";
// "Use my camera": the visitor's face drives the avatar. MediaPipe runs in the page, and nothing leaves it: the content
// policy forbids connections.

const FACES = 4;  // looked for, so that a second person is noticed
const FACE_SCRIPTS = ["face_library.js", "face_loader.js", "face_data.js"];  // 20 MB: only when they are asked for
const FACE_FILES = {};

/** Called by face_data.js: base64 of compressed bytes. */
function receiveFaceFile(name, text) {
  FACE_FILES[name] = decodeBase64(text);
}

function loadScript(name) {
  return new Promise((done, failed) => {
    const script = element("script", { src: name, onload: done });
    script.onerror = () => failed(new Error(`${name}, which belongs beside this page, is missing.`));
    document.head.append(script);
  });
}

/** The camera's stream as a playing video; throws an Error that tells a visitor what to do. */
async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("This browser gives no camera to pages opened like this. Serve the folder on this machine "
                    + "(python -m http.server in it, then http://localhost:8000) or over https.");
  }
  const video = element("video", { muted: true, playsInline: true });
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    throw new Error(cameraProblem(error));
  }
  await video.play();
  return video;
}

function cameraProblem(error) {
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return "No camera was found.";
  if (error.name === "NotReadableError") return "The camera does not start; is another program using it?";
  if (error.name === "NotAllowedError" || error.name === "SecurityError") {
    return "The camera was refused. Allow it for this page in the browser's settings, and try again.";
  }
  return `The camera does not start: ${error.message}`;
}

async function createLandmarker() {
  for (const name of FACE_SCRIPTS) await loadScript(name);
  const wasm = new Blob([await inflate(FACE_FILES.wasm)], { type: "application/wasm" });
  const address = URL.createObjectURL(wasm);
  try {
    return await VISION.FaceLandmarker.createFromOptions({ wasmLoaderPath: "", wasmBinaryPath: address }, {
      baseOptions: { modelAssetBuffer: await inflate(FACE_FILES.model), delegate: "CPU" },
      runningMode: "VIDEO", numFaces: FACES, outputFaceBlendshapes: true, outputFacialTransformationMatrixes: true,
    });
  } finally {
    URL.revokeObjectURL(address);
    delete FACE_FILES.wasm;
    delete FACE_FILES.model;
  }
}

/** MediaPipe's answer as FaceReader.read wants it. Its matrices lie column by column. */
function facesOf(result, width, height) {
  return result.faceLandmarks.map((points, i) => {
    const m = result.facialTransformationMatrixes[i].data;
    return { points: points.map(({ x, y, z }) => [x * width, y * height, z * width]),
             scores: Object.fromEntries(result.faceBlendshapes[i].categories.map((c) => [c.categoryName, c.score])),
             pose: [m[0], m[4], m[8], m[1], m[5], m[9], m[2], m[6], m[10]] };
  });
}

class Webcam {
  constructor(player) {
    Object.assign(this, { player, video: null, moves: true, frames: 0 });
    this.button = byId("camera");
    this.words = byId("camera-words");
    this.button.hidden = byId("camera-moves").parentElement.hidden = false;
    this.button.addEventListener("click", () => (this.video ? this.stop() : this.start()));
    byId("camera-moves").addEventListener("change", (event) => { this.moves = event.target.checked; });
    player.ontake = () => this.stop();
  }

  say(words) {
    if (this.words.textContent !== words) this.words.textContent = words;
  }

  async start() {
    this.button.disabled = true;
    let video = null;
    try {
      this.say("Starting the camera …");
      video = await openCamera();
      this.say("Loading the face tracker …");
      this.landmarker = this.landmarker || await createLandmarker();
      this.player.take();
      Object.assign(this, { video, reader: new FaceReader(), actor: new Actor(), began: performance.now() });
      video.srcObject.getVideoTracks()[0].addEventListener("ended", () => this.stop("The camera stopped."));
      this.button.textContent = "Stop the camera";
      byId("stage").append(video);
      this.say("Look neutral for two seconds.");
      this.watch();
    } catch (error) {
      if (video) video.srcObject.getTracks().forEach((track) => track.stop());
      this.say(error.message);
    }
    this.button.disabled = false;
  }

  stop(words = "") {
    if (!this.video) return;
    this.video.srcObject.getTracks().forEach((track) => track.stop());
    this.video.remove();
    this.video = null;
    this.player.camera.driven = null;
    this.button.textContent = "Use my camera";
    this.say(words);
    this.player.touch();
  }

  /** Again and again: the newest picture, while there is a camera. */
  watch() {
    const { video } = this;
    const step = () => {
      if (this.video !== video) return;
      this.see(performance.now());
      video.requestVideoFrameCallback ? video.requestVideoFrameCallback(step) : requestAnimationFrame(step);
    };
    step();
  }

  see(now) {
    const { video, player } = this, { videoWidth: width, videoHeight: height } = video;
    if (!width) return;
    const faces = facesOf(this.landmarker.detectForVideo(video, now), width, height);
    if (!faces.length) {
      this.say("No face is seen: the avatar waits. Turn to the camera, with light on your face.");
      return;
    }
    const time = now / 1000, seen = this.reader.read(faces, width, height, time);
    const { codes, R, t } = this.actor.act(seen, time, this.moves);
    this.frames += 1;
    player.drive(codes, { R, t, K: DRIVING.K });
    const early = now - this.began < 1000 * DRIVING.calibrate;
    const several = `${faces.length} faces: the largest one drives the avatar.`;
    this.say(faces.length > 1 ? several : early ? "Look neutral for two seconds." : "");
  }
}
