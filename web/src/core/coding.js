// Undoes exporting/web/coding.py: tables of whole numbers whose bytes lie apart, and of single-precision numbers.

/** The bytes that zlib packed. */
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** {name: typed array} of one section: Float32Array, or Int32Array for whole numbers; rows of columns. */
export function decodeSection(specs, bytes) {
  const tables = {};
  let at = 0;
  for (const spec of specs) {
    tables[spec.name] = spec.kind === "single" ? singles(spec, bytes, at) : multiples(spec, bytes, at);
    at += spec.rows * spec.planes.reduce((a, b) => a + b, 0);
  }
  if (at !== bytes.length) throw new Error(`The avatar file is damaged: wanted ${at} bytes, got ${bytes.length}.`);
  return tables;
}

function singles({ rows }, bytes, at) {
  const out = new Uint8Array(4 * rows);
  for (let plane = 0; plane < 4; ++plane) {
    for (let row = 0; row < rows; ++row) out[4 * row + plane] = bytes[at + plane * rows + row];
  }
  return new Float32Array(out.buffer);
}

function multiples({ rows, planes, delta, steps }, bytes, at) {
  const columns = planes.length, out = new (steps ? Float32Array : Int32Array)(rows * columns);
  for (let column = 0; column < columns; ++column) {
    const step = steps ? steps[column] : 1;
    let last = 0;
    for (let row = 0; row < rows; ++row) {
      let coded = 0;
      for (let plane = planes[column] - 1; plane >= 0; --plane) coded = 256 * coded + bytes[at + plane * rows + row];
      const number = coded % 2 ? -(coded + 1) / 2 : coded / 2;
      last = delta ? last + number : number;
      out[row * columns + column] = last * step;
    }
    at += rows * planes[column];
  }
  return out;
}

/** Rows of (column, value) pairs: the directions in which codes move vertices or triangles. */
export class SparseRows {
  constructor(tables, name, width) {
    this.start = startsOf(tables[`${name}Count`]);
    this.column = tables[`${name}Column`];
    this.value = tables[`${name}Value`];
    this.width = width;
  }

  /** out[4 (first + row) + i] = sum over the row's pairs of codes[column] * value[i]; width is 3 or 4. */
  sum(codes, out, first) {
    const { start, column, value, width } = this;
    for (let row = 0; row + 1 < start.length; ++row) {
      let x = 0, y = 0, z = 0, w = 0;
      for (let p = start[row]; p < start[row + 1]; ++p) {
        const code = codes[column[p]], at = width * p;
        if (code === 0) continue;
        x += code * value[at];
        y += code * value[at + 1];
        z += code * value[at + 2];
        if (width === 4) w += code * value[at + 3];
      }
      const to = 4 * (first + row);
      out[to] = x;
      out[to + 1] = y;
      out[to + 2] = z;
      out[to + 3] = w;
    }
  }
}

/** Where the rows begin that have `counts` entries; one longer. */
export function startsOf(counts) {
  const starts = new Uint32Array(counts.length + 1);
  for (let i = 0; i < counts.length; ++i) starts[i + 1] = starts[i] + counts[i];
  return starts;
}
