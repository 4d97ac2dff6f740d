const DEPTH_STEPS = 65536;  // over the head's own depth, about 5 micrometres each

/** Counting sort by depth: two passes over the Gaussians, about a millisecond for 50,000. */
export class DepthSorter {
  /** count: Gaussians; room: length of the array that the order is written to. */
  constructor(count, room) {
    this.count = count;
    this.keys = new Uint16Array(count);
    this.starts = new Uint32Array(DEPTH_STEPS + 1);
    this.order = new Uint32Array(room);
  }

  /**
   * Writes the numbers of the Gaussians to draw to `order`, farthest first, equal depths by falling number, and returns
   * how many there are. `placed`: four words a Gaussian, the third the bits of its depth, which order like the positive
   * number itself; 0 where it is not drawn.
   */
  backToFront(placed) {
    const { count, keys, starts, order } = this;
    let low = 0xffffffff, high = 0;
    for (let n = 0; n < count; ++n) {
      const bits = placed[4 * n + 2];
      if (bits === 0) continue;
      if (bits < low) low = bits;
      if (bits > high) high = bits;
    }
    const scale = high > low ? (DEPTH_STEPS - 1) / (high - low) : 0;
    starts.fill(0);
    for (let n = 0; n < count; ++n) {
      const bits = placed[4 * n + 2];
      if (bits === 0) continue;
      keys[n] = (high - bits) * scale;
      starts[keys[n] + 1] += 1;
    }
    for (let i = 0; i < DEPTH_STEPS; ++i) starts[i + 1] += starts[i];
    const drawn = starts[DEPTH_STEPS];
    for (let n = count - 1; n >= 0; --n) if (placed[4 * n + 2] !== 0) order[starts[keys[n]]++] = n;
    return drawn;
  }
}
