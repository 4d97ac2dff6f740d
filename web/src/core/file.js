// Reads the compact avatar file (exporting/web/avatar_file.py) from a stream: a picture is possible after two of its
// sections, long before the last.

import { addSheen, assembleGaussians, assemblePairs } from "./assemble.js";
import { decodeSection, inflate } from "./coding.js";

const MAGIC = 0x56414247;  // "GBAV"
const VERSION = 1;

/** The first bytes of a stream, as many as are asked for. */
class ByteSource {
  constructor(stream) {
    this.reader = stream.getReader();
    this.chunks = [];
    this.held = 0;
  }

  async take(count) {
    while (this.held < count) {
      const { done, value } = await this.reader.read();
      if (done) throw new Error(`The avatar file ends too early: wanted ${count - this.held} bytes more.`);
      this.chunks.push(value);
      this.held += value.length;
    }
    const out = new Uint8Array(count);
    for (let at = 0; at < count;) {
      const chunk = this.chunks[0], used = Math.min(chunk.length, count - at);
      out.set(chunk.subarray(0, used), at);
      at += used;
      if (used === chunk.length) this.chunks.shift();
      else this.chunks[0] = chunk.subarray(used);
    }
    this.held -= count;
    return out;
  }
}

/**
 * An avatar's data, to be shared by all that show it. meta: facts; tables: typed arrays by name; gaussians and pairs:
 * what the GPU holds. revision counts the parts that have come; complete says whether all have.
 */
export class AvatarData {
  constructor(meta) {
    this.meta = meta;
    this.tables = {};
    this.gaussians = null;
    this.pairs = new Uint32Array(0);
    this.revision = 0;
    this.complete = false;
  }

  /** Take in what has come of a section. */
  receive(name, tables) {
    Object.assign(this.tables, tables);
    const { meta } = this;
    if (name === "base") this.gaussians = assembleGaussians(meta, this.tables);
    if (name === "sheen") addSheen(meta, this.tables, this.gaussians);
    if (name === "pairs") this.pairs = assemblePairs(meta, this.tables, this.gaussians);
    for (const used of USED_UP[name] || []) delete this.tables[used];
    this.revision += 1;
  }
}

/** Tables that nobody asks for once the GPU's are made of them. */
const USED_UP = { base: ["triangle", "barycentric", "weights", "means", "shape"], sheen: ["sheen", "sheenAxes"],
                  pairs: ["pairCount", "pairExpression", "pairValues", "pairAxes", "coarse"] };

/**
 * The avatar of a stream of bytes. onCoarse(data) is called when there is enough for a first picture: the neutral face
 * and the motion of the head; what the expressions add to it and the sheen come later, in the same object.
 */
export async function readAvatar(stream, onCoarse = () => {}) {
  const source = new ByteSource(stream), start = new Uint32Array((await source.take(12)).buffer);
  if (start[0] !== MAGIC) throw new Error("This is no avatar file: it does not begin with GBAV.");
  if (start[1] !== VERSION) throw new Error(`The avatar file has version ${start[1]}; this program reads ${VERSION}.`);
  const header = JSON.parse(new TextDecoder().decode(await source.take(start[2])));
  const data = new AvatarData(header.meta);
  for (const { name, bytes, tables } of header.sections) {
    data.receive(name, decodeSection(tables, await inflate(await source.take(bytes))));
    if (name === "base") onCoarse(data);
  }
  data.complete = true;
  return data;
}
