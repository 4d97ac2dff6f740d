"use strict";
// Decodes the base64 tables of avatar.js into typed arrays.

/** Bytes of a base64 string. */
function decodeBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; ++i) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** 16-bit floats to a Float32Array. */
function decodeHalves(words) {
  const out = new Float32Array(words.length);
  for (let i = 0; i < words.length; ++i) {
    const sign = words[i] & 0x8000 ? -1 : 1, exponent = (words[i] >> 10) & 31, fraction = words[i] & 1023;
    out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  }
  return out;
}

const TABLE_TYPES = {
  u32: (buffer) => new Uint32Array(buffer),
  u16: (buffer) => new Uint16Array(buffer),
  f16: (buffer) => decodeHalves(new Uint16Array(buffer)),
  f32: (buffer) => new Float32Array(buffer),
};

/** {name: typed array} of the tables of AVATAR; the encoded text is given up for the memory it takes. */
function decodeTables(encoded) {
  const tables = {};
  for (const name of Object.keys(encoded)) {
    tables[name] = TABLE_TYPES[encoded[name].type](decodeBase64(encoded[name].data).buffer);
    delete encoded[name];
  }
  return tables;
}

/** Rows of (column, value) pairs: the directions in which codes move vertices or triangles. */
class SparseRows {
  constructor(tables, name, width) {
    this.start = tables[`${name}Start`];
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
