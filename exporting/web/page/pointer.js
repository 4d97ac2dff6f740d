"use strict";
// Turning, moving and zooming the view with mouse, touch and keys.

const TURN_PER_PIXEL = 0.006;  // radians
const TURN_PER_KEY = 0.08;

class PointerControls {
  constructor(canvas, player) {
    this.canvas = canvas;
    this.player = player;
    this.pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.change((camera) => camera.reset()));
  }

  change(action) {
    action(this.player.camera);
    this.player.touch();
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY], dx = now[0] - before[0], dy = now[1] - before[1];
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.pointers.set(event.pointerId, now);
    const height = this.canvas.clientHeight;
    if (others.length) {
      const distance = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
      this.change((camera) => {
        camera.scale(distance(now, others[0]) / distance(before, others[0]));
        camera.pan(dx / 2 / height, dy / 2 / height);
      });
    } else if (event.shiftKey || event.buttons & 2) {
      this.change((camera) => camera.pan(dx / height, dy / height));
    } else {
      this.change((camera) => camera.orbit(-dx * TURN_PER_PIXEL, dy * TURN_PER_PIXEL));
    }
  }

  wheel(event) {
    event.preventDefault();
    this.change((camera) => camera.scale(Math.exp(-0.0015 * event.deltaY)));
  }

  key(event) {
    const actions = {
      ArrowLeft: (camera) => camera.orbit(TURN_PER_KEY, 0), ArrowRight: (camera) => camera.orbit(-TURN_PER_KEY, 0),
      ArrowUp: (camera) => camera.orbit(0, -TURN_PER_KEY), ArrowDown: (camera) => camera.orbit(0, TURN_PER_KEY),
      "+": (camera) => camera.scale(1.1), "=": (camera) => camera.scale(1.1), "-": (camera) => camera.scale(1 / 1.1),
      Home: (camera) => camera.reset(), 0: (camera) => camera.reset(),
    };
    if (!(event.key in actions) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.change(actions[event.key]);
  }
}
