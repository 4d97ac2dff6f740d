"use strict";
// Ties the page together. `body[data-report]` holds a JSON summary, for tests and for the curious.

const byId = (id) => document.getElementById(id);

function showProblem(message) {
  byId("loading").hidden = true;
  byId("problem").textContent = message;
  byId("problem").hidden = false;
  document.body.classList.add("failed");
  report({ error: message });
}

function report(facts) {
  document.body.dataset.report = JSON.stringify(facts);
}

function reportOf(player) {
  return { name: player.meta.name, gaussians: player.meta.gaussians, drawn: player.drawn, frame: player.frame,
           size: [player.canvas.width, player.canvas.height] };
}

/** A picture of a given size, drawn once, with nothing else on the page. */
function showStill(player, address) {
  const { canvas } = player;
  document.body.classList.add("still");
  player.resize(address.size, address.size);
  player.drawStill();
  Object.assign(canvas.style, { width: `${canvas.width}px`, height: `${canvas.height}px` });
  report(reportOf(player));
}

function wireButtons(player) {
  byId("neutral").addEventListener("click", () => player.showCodes(neutralCodes(player.meta)));
  byId("random").addEventListener("click", () => player.showCodes(randomCodes(player.meta, player.controls)));
  byId("view").addEventListener("click", () => {
    player.camera.reset();
    player.touch();
  });
  byId("save").addEventListener("click", () => player.canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: `${player.meta.name}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  }));
  byId("background").addEventListener("input", (event) => player.setBackground(event.target.value));
  byId("follow").addEventListener("change", (event) => player.setFollow(event.target.checked));
}

function wirePlayback(player) {
  const toggle = () => (player.playing ? player.pause() : player.play());
  byId("scrub").max = player.meta.frames - 1;
  byId("play").addEventListener("click", toggle);
  byId("loop").addEventListener("change", (event) => { player.loop = event.target.checked; });
  byId("scrub").addEventListener("input", (event) => {
    player.take();
    player.showFrame(Number(event.target.value));
  });
  document.addEventListener("keydown", (event) => {
    const busy = event.target.closest("button, input, summary, select");
    if (event.key !== " " || busy) return;
    event.preventDefault();
    toggle();
  });
}

function refresh(player, panel) {
  panel.refresh();
  byId("play").textContent = player.playing ? "Pause" : "Play";
  byId("scrub").value = player.frame;
  byId("stage").style.background = player.backgroundName;
  byId("background").value = player.backgroundName;
  byId("frame").textContent = `${player.frame + 1} / ${player.meta.frames}`;
}

function showRate(player) {
  const speed = player.rate ? `${player.rate.toFixed(player.rate < 10 ? 1 : 0)} fps` : "playing";
  const rate = player.playing || player.camera.driven ? speed : "still";
  const count = player.meta.gaussians.toLocaleString("en"), { width, height } = player.canvas;
  byId("rate").textContent = `${rate} · ${count} Gaussians · ${width} × ${height}`;
  const { offSeen, meta } = player, unseen = byId("unseen");
  const words = offSeen > meta.unseenBeyond
    ? `${offSeen.toFixed(0)}° from the nearest view of training: what is seen here is a guess` : "";
  if (unseen.textContent !== words) unseen.textContent = words;
  report(reportOf(player));
}

function runLoop(player) {
  const step = (now) => {
    player.tick(now);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
  setInterval(() => showRate(player), 500);
}

function fitCanvas(player) {
  const stage = byId("stage");
  const fit = () => {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    player.resize(stage.clientWidth * ratio, stage.clientHeight * ratio);
  };
  new ResizeObserver(fit).observe(stage);
  fit();
}

function wirePage(player) {
  const panel = new Panel(player, byId("controls"));
  player.onchange = () => refresh(player, panel);
  byId("name").textContent = document.title = player.meta.name;
  wireButtons(player);
  wirePlayback(player);
  if (typeof Webcam !== "undefined") WEBCAM = new Webcam(player);
  new PointerControls(player.canvas, player);
  fitCanvas(player);
  player.canvas.addEventListener("webglcontextlost", () => showProblem("The graphics card gave up; reload the page."));
}

/** The first picture: there is enough of the avatar for one. */
function begin(data, address) {
  byId("loading").hidden = true;
  const player = new AvatarPlayer(byId("canvas"), data);
  player.follows(address);
  if (address.size) return player;
  wirePage(player);
  player.touch();
  player.drawStill();
  return player;
}

/** All of the avatar is there. */
function goOn(player, address) {
  player.touch();
  if (address.size) return showStill(player, address);
  player.drawStill();
  showRate(player);
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (address.play && !calm) player.play();
  return runLoop(player);
}

let PLAYER = null, WEBCAM = null;  // by name for tests and consoles

async function start() {
  try {
    const address = parseAddress(location.hash);
    if (!address.ui || address.size) document.body.classList.add("bare");
    await readAvatar(FEED.stream, (data) => { PLAYER = begin(data, address); });
    goOn(PLAYER, address);
  } catch (error) {
    showProblem(error.message);
    throw error;
  }
}

start();
